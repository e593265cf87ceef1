"""
System calls of Linux that Python does not expose.

Each may be missing: the kernel may be older, a container runtime may block the call, the file system may not support
it. The caller then uses the portable way, which is slower but gives the same result.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from docker_registry.concurrency import close_now

#: The descriptor argument of a call that is given an absolute path.
AT_FDCWD: Final = -100


@lru_cache(maxsize=16)
def _libc_function(name: str, *arguments: type[Any], result: type[Any] = ctypes.c_int) -> Callable[..., int] | None:
    """
    Return a function of the C library; None if it does not exist. Its error is in :func:`ctypes.get_errno`.

    Args:
        arguments: the types of its arguments.
        result: the type of its result.
    """
    try:
        call: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = arguments, result
    return call  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------- opening and renaming

#: The number of openat2(2), which has no function in the C library; the same on every architecture.
OPENAT2: Final = 437
_RESOLVE_NO_SYMLINKS: Final = 0x04

#: A flag that openat2 rejects together with O_PATH, where it has no effect.
_MEANINGLESS: Final = os.O_NONBLOCK

#: The flag of renameat2(2) that exchanges two names.
RENAME_EXCHANGE: Final = 2


class _OpenHow(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


OPEN_HOW_BYTES: Final = ctypes.sizeof(_OpenHow)


@lru_cache(maxsize=64)
def open_how(flags: int) -> Any:
    """Return a ``struct open_how`` for paths without symbolic links; a new file gets the mode 0644."""
    if flags & os.O_PATH:
        flags &= ~_MEANINGLESS
    return ctypes.byref(_OpenHow(flags | os.O_CLOEXEC, 0o644 if flags & os.O_CREAT else 0, _RESOLVE_NO_SYMLINKS))


@lru_cache(maxsize=1)
def openat2() -> Callable[..., int] | None:
    """
    Return syscall(2) if the kernel has openat2 and permits it; some container runtimes block it.

    Its arguments: :data:`OPENAT2`, a descriptor, the encoded path, :func:`open_how`, :data:`OPEN_HOW_BYTES`.
    """
    arguments = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call = _libc_function("syscall", *arguments, result=ctypes.c_long)
    if call is None:
        return None
    fd = call(OPENAT2, AT_FDCWD, b"/", open_how(os.O_PATH), OPEN_HOW_BYTES)
    if fd < 0:
        return None
    close_now(fd)
    return call


@lru_cache(maxsize=1)
def renameat2() -> Callable[..., int] | None:
    """Return renameat2(2): a folder and a name, another folder and name, flags such as :data:`RENAME_EXCHANGE`."""
    return _libc_function("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


# --------------------------------------------------------------------------------------------- writing to the disk

#: Write-back starts after each this many bytes: less would take many calls, more would leave the disk idle.
STRIDE_BYTES: Final = 8 * 1024 * 1024

_SYNC_FILE_RANGE_WRITE: Final = 2


class WriteBack:
    """
    Starts the write-back of a large file while it is received, so that the final fsync has little left to do.

    It uses sync_file_range(2); where that is missing, the fsync does everything.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begun = 0
        self._written = 0

    def wrote(self, size: int) -> None:
        """Report that the file has grown. Call this in the thread that writes: it may wait for a busy disk."""
        self._written += size
        if self._written - self._begun >= STRIDE_BYTES:
            call = _sync_file_range()
            if call is not None:
                call(self._fd, self._begun, self._written - self._begun, _SYNC_FILE_RANGE_WRITE)
            self._begun = self._written


def _sync_file_range() -> Callable[..., int] | None:
    """Return the function of the C library; its result does not matter, because an fsync follows."""
    return _libc_function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@lru_cache(maxsize=1)
def syncfs() -> Callable[..., int] | None:
    """Return syncfs(2), which writes all pending changes of the file system of a descriptor; None if it is missing."""
    return _libc_function("syncfs", ctypes.c_int)


# --------------------------------------------------------------------------------------------- folders and inodes

#: ioctl_iflags(2), for flags of the type C long.
_LONG: Final = struct.Struct("l")
_GET_FLAGS: Final = 2 << 30 | _LONG.size << 16 | ord("f") << 8 | 1
_SET_FLAGS: Final = 1 << 30 | _LONG.size << 16 | ord("f") << 8 | 2
_IS_TOP: Final = 0x00020000


def spread_subfolders(folder: str) -> None:
    """
    Ask the file system to spread future subfolders of a folder over the disk; do nothing where it cannot.

    ext4 keeps the content of a folder in one part of the disk, and searches for a free inode from the start of that
    part. Frequently created and removed files leave gaps there. Without a journal of its own ext4 does not reuse a gap
    for a minute or more, but inspects each one whenever it creates a file, which takes half of the time of a small
    push. When a folder is marked as the top of a hierarchy (chattr(1), ``T``), ext4 spreads its subfolders over the
    disk, so that each has its own gaps.
    """
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            (flags,) = _LONG.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_LONG.size)))
            fcntl.ioctl(fd, _SET_FLAGS, _LONG.pack(flags | _IS_TOP))
        finally:
            close_now(fd)


_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800

#: struct statx begins with its mask; the creation time, in seconds and nanoseconds, is at offset 80.
_STATX_BYTES: Final = 256
_MASK: Final = struct.Struct("=I")
_BTIME: Final = struct.Struct("=qI")
_BTIME_OFFSET: Final = 80


def creation_time(fd: int) -> int:
    """
    Return the creation time of a file or folder (statx(2)), in nanoseconds since the epoch; 0 where it is unknown.

    No program can set this time, and a copy of a file never has that of the original.
    """
    arguments = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    statx = _libc_function("statx", *arguments)
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, found) != 0:
        return 0
    (mask,) = _MASK.unpack_from(found)
    seconds, nanoseconds = _BTIME.unpack_from(found, _BTIME_OFFSET)
    return max(seconds, 0) * 10**9 + nanoseconds if mask & _STATX_BTIME else 0
