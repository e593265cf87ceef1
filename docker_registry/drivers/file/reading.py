"""Reading open files: whole, in blocks, or so that they do not stay in the page cache."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import StorageError

_BLOCK_BYTES: Final = 1024 * 1024


def read_whole(fd: int, size: int) -> bytes:
    """Return all *size* bytes of a file."""
    content = os.read(fd, size)
    while len(content) < size and (block := os.read(fd, size - len(content))):  # read(2) returns at most 2 GiB
        content += block
    return content


def version_of(folder: int, name: str) -> str:
    """Return the version of a file in an open folder: the SHA-256 of its content."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(read_whole(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)


def read_blocks(tree: Tree, path: str, offset: int, end: int, fd: int, *, stays: bool) -> Iterator[bytes]:
    """
    Yield an empty block once, then the bytes of a file from *offset* to *end*; finally close its descriptor.

    Args:
        stays: whether the file may stay in the page cache.

    Raises:
        StorageError: the file became shorter or cannot be read.
    """
    try:
        # The opener consumes this block: a generator that was never started would not close the descriptor.
        yield b""
        while offset < end:
            with tree.errors(path):
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
