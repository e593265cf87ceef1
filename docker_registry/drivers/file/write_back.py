"""
Large files begin to reach the disk while they are still being received, so that the fsync in the end has little left.

Linux alone knows how to say that (sync_file_range(2)), and Python does not; elsewhere the fsync does all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.file import libc

#: So much is written before the disk is told: less would be many calls, more would leave it idle.
STRIDE_BYTES: Final = 8 * 1024 * 1024

_SYNC_FILE_RANGE_WRITE: Final = 2


class WriteBack:
    """The way of one file to the disk."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begun = 0
        self._written = 0

    def wrote(self, size: int) -> None:
        """Say that the file has become longer, in the thread that writes it: this may wait for a disk that is busy."""
        self._written += size
        if self._written - self._begun >= STRIDE_BYTES:
            call = _sync_file_range()
            if call is not None:
                call(self._fd, self._begun, self._written - self._begun, _SYNC_FILE_RANGE_WRITE)
            self._begun = self._written


def _sync_file_range() -> Callable[..., int] | None:
    """Return the function of the C library; what it says does not matter, since the fsync comes anyway."""
    return libc.find("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
