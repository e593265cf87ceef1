"""Reading a file by its descriptor: whole, block by block, or so that nothing of it stays in the kernel's memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import StorageError
from docker_registry.threads import close_now

_BLOCK_BYTES: Final = 1024 * 1024


def read_whole(fd: int, size: int) -> bytes:
    """Return all of a file of so many bytes."""
    content = os.read(fd, size)
    while len(content) < size and (block := os.read(fd, size - len(content))):  # a read gives 2 GiB at most
        content += block
    return content


def read_blocks(tree: Tree, path: str, offset: int, end: int, fd: int, *, stays: bool) -> Iterator[bytes]:
    """
    Yield nothing once, then the bytes of a file from *offset* to *end*; its descriptor is closed in the end.

    Args:
        stays: whether it may stay in the kernel's memory.

    Raises:
        StorageError: it became shorter, or cannot be read.
    """
    try:
        # Taken by whoever opened the file: a generator that never began would never close it.
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
            _let_go(fd)
        close_now(fd)


class PassingFile(io.FileIO):
    """A file that leaves the kernel's memory when it was read."""

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            _let_go(self.fileno())
        super().close()


def _let_go(fd: int) -> None:
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
