"""
Starts write-back of large files while they are still being received, so that the final fsync has little left to do.

This needs sync_file_range(2), which only Linux has and Python does not expose; elsewhere the fsync does everything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.file import libc

#: Write-back starts after each this many bytes: less would take many calls, more would leave the disk idle.
STRIDE_BYTES: Final = 8 * 1024 * 1024

_SYNC_FILE_RANGE_WRITE: Final = 2


class WriteBack:
    """Starts the write-back of one file."""

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
    return libc.find("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
