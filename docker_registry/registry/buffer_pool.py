"""
Receive buffers for request bodies: a memory budget that all transfers of a process share evenly.

Blocks consist of whole pages, so the file driver can write them with O_DIRECT, past the page cache.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Blocks of one transfer: one is being received, one is being hashed and written, the others are queued between them.
BLOCKS: Final = 4

#: Limits of a block's size: larger blocks are not faster, and smaller ones cost more time than the memory is worth.
LARGEST_BYTES: Final = 1024 * 1024
SMALLEST_BYTES: Final = 16 * 1024

#: First block of a body of unknown length; most of these are short.
FIRST_BYTES: Final = 64 * 1024


class BufferPool:
    """Allocates the blocks of transfers; the more transfers run at the same time, the smaller the blocks."""

    def __init__(self, total_bytes: int = 32 * 1024 * 1024) -> None:
        self._total_bytes = total_bytes
        self._transfers = 0

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count a transfer for the duration of the context."""
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    @property
    def block_bytes(self) -> int:
        """The block size for the current number of transfers, bytes."""
        fair = self._total_bytes // (BLOCKS * max(self._transfers, 1))
        return max(SMALLEST_BYTES, min(LARGEST_BYTES, fair - fair % mmap.PAGESIZE))

    def first(self) -> memoryview:
        """Allocate the first block of a transfer."""
        return _new(min(FIRST_BYTES, self.block_bytes))

    def next(self) -> memoryview:
        """Allocate a further block."""
        return _new(self.block_bytes)

    def again(self, block: memoryview) -> memoryview:
        """Release *block* and return a block to receive into: the same memory if its size still fits, or a new one."""
        content = block.obj
        block.release()
        if isinstance(content, mmap.mmap) and len(content) == self.block_bytes:
            return memoryview(content)
        return self.next()


def _new(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


#: The pool for all bodies that this process receives.
POOL: Final = BufferPool()
