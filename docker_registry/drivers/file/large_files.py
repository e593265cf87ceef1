"""
Large files: how they are written and read without displacing others from the page cache.

**Writing.** The first bytes of each file stay in the page cache, because small files are usually read soon. The rest of
a large file bypasses the cache (open(2), O_DIRECT): all of it must be on the disk before the client receives a
response, so a cached copy would only cost time and evict other files. A push of large blobs is 1.5 times faster for it.
O_DIRECT requires that a block's address, start and length are multiples of a page, as with the blocks of
:mod:`docker_registry.registry.ingest`. Other blocks, and all blocks where the file system does not support O_DIRECT,
are written through the cache.

**Reading.** A large file can be evicted from the cache after it was read.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.linux import WriteBack
from docker_registry.errors import StorageError

#: The number of bytes at the start of each file that stay in the page cache.
KEPT_BYTES: Final = 8 * 1024 * 1024

#: Blocks in which a file is read.
_BLOCK_BYTES: Final = 1024 * 1024

#: A shorter block takes as long to write as one of this size.
_MIN_BYTES: Final = 64 * 1024

#: Errors where O_DIRECT is not supported, or not for such blocks.
_NOT_DIRECT: Final = {errno.EINVAL, errno.ENOTSUP}


class GrowingFile:
    """
    Appends to an open file.

    Attributes:
        size: bytes written.
    """

    def __init__(self, fd: int, *, keep: bool = False) -> None:
        """
        Args:
            keep: keep the whole file in the page cache, however large.
        """
        self.size = 0
        self._fd = fd
        self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._may_be_direct = not keep and hasattr(os, "O_DIRECT")
        self._is_direct = False
        self._write_back = WriteBack(fd)

    def append(self, block: Bytes) -> None:
        """Write all of a block; blocks this thread."""
        view = memoryview(block)
        while view:
            pages = self._pages(view)
            try:
                self._switch(direct=bool(pages))
                written = os.write(self._fd, pages or view)
            except OSError as error:
                if not pages or error.errno not in _NOT_DIRECT:
                    raise
                self._may_be_direct = False
                continue
            self._write_back.wrote(written)
            self.size += written
            view = view[written:]

    def _pages(self, view: memoryview) -> memoryview | None:
        """Return the whole pages at the start of a block that can be written with O_DIRECT; None if there are none."""
        length = len(view) - len(view) % mmap.PAGESIZE
        if not self._may_be_direct or self.size < KEPT_BYTES or length < _MIN_BYTES or view.readonly:
            return None
        if (self.size | ctypes.addressof(ctypes.c_char.from_buffer(view))) % mmap.PAGESIZE:
            return None
        return view[:length]

    def _switch(self, *, direct: bool) -> None:
        if direct != self._is_direct:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags | (os.O_DIRECT if direct else 0))
            self._is_direct = direct


def read_blocks(
    fd: int, path: str, offset: int, end: int, errors: Callable[[str], AbstractContextManager[None]], *, stays: bool
) -> Iterator[bytes]:
    """
    Yield an empty block once, then the bytes of a file from *offset* to *end*; finally close its descriptor.

    Args:
        errors: translates errors of the file system for a path.
        stays: whether the file may stay in the page cache.

    Raises:
        StorageError: the file became shorter or cannot be read.
    """
    try:
        # The opener consumes this block: a generator that was never started would not close the descriptor.
        yield b""
        while offset < end:
            with errors(path):
                block = os.pread(fd, min(_BLOCK_BYTES, end - offset), offset)
            if not block:
                raise StorageError("The file became shorter while it was read.", path=path)
            offset += len(block)
            yield block
    finally:
        if not stays:
            _evict(fd)
        close_now(fd)


class EvictedFile(io.FileIO):
    """A file that is evicted from the page cache when it is closed."""

    def close(self) -> None:
        """Evict the file from the page cache and close it."""
        if not self.closed:
            _evict(self.fileno())
        super().close()


def _evict(fd: int) -> None:
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
