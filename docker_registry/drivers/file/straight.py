"""
Opening paths that contain no symbolic link.

Linux can check this while it opens the file (openat2(2), available from Linux 5.6), at half the cost of opening the
file and then reading its real path. Python does not expose the system call, so it is made by number, which is the same
on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.file import libc

_OPENAT2: Final = 437
_RESOLVE_NO_SYMLINKS: Final = 0x04

#: Returned by :func:`open_straight` instead of a descriptor: the path does not exist.
MISSING: Final = -1

#: A flag that openat2 rejects together with O_PATH, where it has no effect.
_MEANINGLESS: Final = os.O_NONBLOCK


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class StraightOpener:
    """Opens paths with openat2; the system call is looked up once, because small files are opened many times."""

    def __init__(self) -> None:
        self._openat2 = _openat2()
        self._hows: dict[int, Any] = {}

    def open(self, place: str, flags: int) -> int | None:
        """See :func:`open_straight`."""
        if self._openat2 is None:
            return None
        how = self._hows.get(flags) or self._hows.setdefault(flags, _how(flags))
        fd = self._openat2(_OPENAT2, libc.AT_FDCWD, place.encode(_ENCODING, "surrogateescape"), how, _HOW_BYTES)
        if fd >= 0:
            return fd
        return MISSING if ctypes.get_errno() == errno.ENOENT else None


def open_straight(place: str, flags: int) -> int | None:
    """
    Open an absolute path if no component is a symbolic link.

    Args:
        flags: as for :func:`os.open`; a new file gets the mode 0644.

    Returns:
        A descriptor; :data:`MISSING` if the path does not exist, or the folder of a file to be created does not; None
        if the path contains a link, or if this cannot be determined: then open the file with :func:`os.open` and check
        its real path.
    """
    return StraightOpener().open(place, flags)


#: The size of ``struct open_how``, in bytes, and the encoding of paths, as :func:`os.fsencode` uses it.
_HOW_BYTES: Final = ctypes.sizeof(_How)
_ENCODING: Final = sys.getfilesystemencoding()


def _how(flags: int) -> Any:
    if flags & os.O_PATH:
        flags &= ~_MEANINGLESS
    return ctypes.byref(_How(flags | os.O_CLOEXEC, 0o644 if flags & os.O_CREAT else 0, _RESOLVE_NO_SYMLINKS))


@lru_cache(maxsize=1)
def _openat2() -> Callable[..., int] | None:
    """Return the system call if the kernel has it and permits it; some container runtimes block it."""
    arguments = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call = libc.find("syscall", *arguments, result=ctypes.c_long)
    if call is None:
        return None
    fd = call(_OPENAT2, libc.AT_FDCWD, b"/", _how(os.O_PATH), ctypes.sizeof(_How))
    if fd < 0:
        return None
    close_now(fd)
    return call
