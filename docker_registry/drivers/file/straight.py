"""
Opening what lies where its name says, with no symbolic link on the way there.

Linux finds that out while it opens (openat2(2), since 5.6), for half of what it costs to open first and to ask then
where something really lies. Python does not know the call, so it is made by number, which is the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from docker_registry.drivers.file import libc
from docker_registry.threads import close_now

_OPENAT2: Final = 437
_RESOLVE_NO_SYMLINKS: Final = 0x04

#: What openat2 refuses beside O_PATH, where it means nothing.
_MEANINGLESS: Final = os.O_NONBLOCK


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_straight(place: str, flags: int) -> int | None:
    """
    Open what lies at a place, which is absolute.

    Args:
        flags: as of :func:`os.open`; what they make is a file that its owner may write and all may read.

    Returns:
        A descriptor; None when a link is on the way, or when this cannot tell: then open it as ever, and ask.

    Raises:
        FileNotFoundError: nothing lies there, or no folder for what is to be made.
    """
    openat2 = _openat2()
    if openat2 is None:
        return None
    fd = openat2(_OPENAT2, libc.AT_FDCWD, os.fsencode(place), _how(flags), ctypes.sizeof(_How))
    if fd >= 0:
        return fd
    if ctypes.get_errno() == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    return None


@lru_cache(maxsize=16)
def _how(flags: int) -> Any:
    if flags & os.O_PATH:
        flags &= ~_MEANINGLESS
    return ctypes.byref(_How(flags | os.O_CLOEXEC, 0o644 if flags & os.O_CREAT else 0, _RESOLVE_NO_SYMLINKS))


@lru_cache(maxsize=1)
def _openat2() -> Callable[..., int] | None:
    """Return the call, if this kernel knows it and lets us make it: some that run containers do not."""
    arguments = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call = libc.find("syscall", *arguments, result=ctypes.c_long)
    if call is None:
        return None
    fd = call(_OPENAT2, libc.AT_FDCWD, b"/", _how(os.O_PATH), ctypes.sizeof(_How))
    if fd < 0:
        return None
    close_now(fd)
    return call
