"""
System calls of Linux that Python does not expose.

Each may be missing: the kernel may be older, a container runtime may block the call, the file system may not support
it. The caller then uses the portable way, which is slower but gives the same result.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from docker_registry.concurrency import close_now

#: The descriptor argument of a call that is given an absolute path.
_AT_FDCWD: Final = -100


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


# ------------------------------------------------------------------------------------ opening without symlinks

#: The number of openat2(2), which has no function in the C library; the same on every architecture.
_OPENAT2: Final = 437
_RESOLVE_NO_SYMLINKS: Final = 0x04

#: Returned by :meth:`NoSymlinkOpener.open` instead of a descriptor: the path does not exist.
MISSING: Final = -1

#: A flag that openat2 rejects together with O_PATH, where it has no effect.
_MEANINGLESS: Final = os.O_NONBLOCK


class _OpenHow(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


#: The size of ``struct open_how``, in bytes, and the encoding of paths, as :func:`os.fsencode` uses it.
_OPEN_HOW_BYTES: Final = ctypes.sizeof(_OpenHow)
_ENCODING: Final = sys.getfilesystemencoding()


class NoSymlinkOpener:
    """
    Opens paths that contain no symbolic link (openat2(2), available from Linux 5.6).

    The kernel checks this while it opens the file, at half the cost of opening the file and then reading its real path.
    The call is looked up once, because a request opens many small files.
    """

    def __init__(self) -> None:
        self._openat2 = _openat2()
        self._hows: dict[int, Any] = {}

    def open(self, location: str, flags: int) -> int | None:
        """
        Open an absolute path if no component is a symbolic link.

        Args:
            flags: as for :func:`os.open`; a new file gets the mode 0644.

        Returns:
            A descriptor; :data:`MISSING` if the path does not exist, or the folder of a file to be created does not;
            None if the path contains a link, or if this cannot be determined: then open the file with :func:`os.open`
            and check its real path.
        """
        if self._openat2 is None:
            return None
        how = self._hows.get(flags) or self._hows.setdefault(flags, _open_how(flags))
        fd = self._openat2(_OPENAT2, _AT_FDCWD, location.encode(_ENCODING, "surrogateescape"), how, _OPEN_HOW_BYTES)
        if fd >= 0:
            return fd
        return MISSING if ctypes.get_errno() == errno.ENOENT else None


def _open_how(flags: int) -> Any:
    if flags & os.O_PATH:
        flags &= ~_MEANINGLESS
    return ctypes.byref(_OpenHow(flags | os.O_CLOEXEC, 0o644 if flags & os.O_CREAT else 0, _RESOLVE_NO_SYMLINKS))


@lru_cache(maxsize=1)
def _openat2() -> Callable[..., int] | None:
    """Return the system call if the kernel has it and permits it; some container runtimes block it."""
    arguments = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call = _libc_function("syscall", *arguments, result=ctypes.c_long)
    if call is None:
        return None
    fd = call(_OPENAT2, _AT_FDCWD, b"/", _open_how(os.O_PATH), _OPEN_HOW_BYTES)
    if fd < 0:
        return None
    close_now(fd)
    return call


# ------------------------------------------------------------------------------------------------ replacing files

_RENAME_EXCHANGE: Final = 2


def rename_unwritten(source: str, name: str, folder: int) -> bool:
    """
    Rename a file as :func:`os.rename` does, atomically for readers, and leave the write-back to the kernel.

    When a rename replaces a file, ext4 starts to write the new content to the disk during the rename, for programs that
    forget to sync it (``auto_da_alloc`` in ext4(5)). This takes ten times as long as the rename, and is useless if a
    journal has the content or if the content need not survive a crash of the host. ext4 does not do this when two files
    exchange their names (renameat2(2), available from Linux 3.15), and the old file can be removed later. A PUT of a
    manifest is 1.05 to 1.2 times faster for it.

    Args:
        source: an unlisted path, because another file may be there for a moment.
        name: the new name in the folder of descriptor *folder*.

    Returns:
        Whether the replaced file is now at *source* and must be removed.
    """
    if not _is_file(name, folder) or not _exchange(source, name, folder):
        os.rename(source, name, dst_dir_fd=folder)
        return False
    if stat.S_ISDIR(os.lstat(source).st_mode):  # replaced by a folder just before the exchange
        _exchange(source, name, folder)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    return True


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exchange(source: str, name: str, folder: int) -> bool:
    """Exchange the names of two files; return False where that is not possible."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), _RENAME_EXCHANGE) == 0


def _renameat2() -> Callable[..., int] | None:
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
def syncfs() -> Callable[[int], None] | None:
    """Return syncfs(2), which writes all pending changes of the file system of a descriptor; None if it is missing."""
    call = _libc_function("syncfs", ctypes.c_int)
    if call is None:
        return None

    def sync(fd: int) -> None:
        if call(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return sync


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
