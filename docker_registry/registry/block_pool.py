"""
The memory that bodies are received into: a bounded amount for all transfers of a process, shared out evenly.

Every block is made of whole pages, so that a driver of files may write it past the kernel's own memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Blocks of one transfer: one is received into, one is hashed and written, and the next ones wait between them.
BLOCKS: Final = 4

#: A larger block saves nothing more, a smaller one costs more than its memory is worth.
LARGEST_BYTES: Final = 1024 * 1024
SMALLEST_BYTES: Final = 16 * 1024

#: The first block of a body of unknown length, most of which are short.
FIRST_BYTES: Final = 64 * 1024


class BlockPool:
    """Says how long the blocks of a transfer may be: the shorter, the more transfers there are."""

    def __init__(self, total_bytes: int = 32 * 1024 * 1024) -> None:
        self._total_bytes = total_bytes
        self._transfers = 0

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count a transfer as long as it lasts."""
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    @property
    def block_bytes(self) -> int:
        """The length of a block, as long as there are no more transfers than now."""
        fair = self._total_bytes // (BLOCKS * max(self._transfers, 1))
        return max(SMALLEST_BYTES, min(LARGEST_BYTES, fair - fair % mmap.PAGESIZE))

    def first(self) -> memoryview:
        """Return the first block of a transfer."""
        return _new(min(FIRST_BYTES, self.block_bytes))

    def next(self) -> memoryview:
        """Return another block."""
        return _new(self.block_bytes)

    def again(self, block: memoryview) -> memoryview:
        """Return a block that may be received into again: this one whole, if its length is still right."""
        content = block.obj
        block.release()
        if isinstance(content, mmap.mmap) and len(content) == self.block_bytes:
            return memoryview(content)
        return self.next()


def _new(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


#: All bodies that this process receives.
POOL: Final = BlockPool()
