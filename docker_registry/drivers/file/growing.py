"""
A file that is being written, of which nobody knows how large it will be.

What is small stays in the kernel's memory, as it will soon be asked for. The rest of a large file goes past that
memory (open(2), O_DIRECT): the disk must have all of it before the client hears that it was stored, so a copy beside
would only cost time, and drive out what others ask for. For that a block must lie, begin and end at multiples of a
page, as those of :mod:`docker_registry.registry.block_pool` do; whatever does not is written the usual way, and so is
everything where the file system knows no other.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import Final

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.write_back import WriteBack

#: So much of each file is kept in the kernel's memory.
KEPT_BYTES: Final = 8 * 1024 * 1024

#: A shorter block costs the disk as much as this one.
_MIN_BYTES: Final = 64 * 1024

#: What file systems say that know no such way, or not for such blocks.
_NO_PASSING: Final = {errno.EINVAL, errno.ENOTSUP}


class GrowingFile:
    """
    A descriptor to append to.

    Attributes:
        size: bytes that were written.
    """

    def __init__(self, fd: int, *, keep: bool = False) -> None:
        """
        Args:
            keep: leave all of it in the kernel's memory, however large.
        """
        self.size = 0
        self._fd = fd
        self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._may_pass = not keep and hasattr(os, "O_DIRECT")
        self._passes = False
        self._write_back = WriteBack(fd)

    def append(self, block: Bytes) -> None:
        """Write a block whole; blocks this thread."""
        view = memoryview(block)
        while view:
            pages = self._pages(view)
            try:
                self._switch(passes=bool(pages))
                written = os.write(self._fd, pages or view)
            except OSError as error:
                if not pages or error.errno not in _NO_PASSING:
                    raise
                self._may_pass = False
                continue
            self._write_back.wrote(written)
            self.size += written
            view = view[written:]

    def _pages(self, view: memoryview) -> memoryview | None:
        """Return what of a block may go past the kernel's memory: the pages that it begins with."""
        length = len(view) - len(view) % mmap.PAGESIZE
        if not self._may_pass or self.size < KEPT_BYTES or length < _MIN_BYTES or view.readonly:
            return None
        if (self.size | ctypes.addressof(ctypes.c_char.from_buffer(view))) % mmap.PAGESIZE:
            return None
        return view[:length]

    def _switch(self, *, passes: bool) -> None:
        if passes != self._passes:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags | (os.O_DIRECT if passes else 0))
            self._passes = passes
