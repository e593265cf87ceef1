"""What a worker spends on large JSON documents: bounded memory, and the event loop's time in slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeVar

from docker_registry.memory_budget import MemoryBudget
from docker_registry.time_slices import TimeSlices

Item = TypeVar("Item")

#: A longer document is large. A shorter one is parsed at once, in less than 5 ms whatever it holds.
LARGE_BYTES: Final = 64 * 1024

#: Memory for the large documents that are in use at the same time.
_BUDGET_BYTES: Final = 64 * 1024 * 1024

#: What is kept of a document takes this times its length: its text, and an object for each descriptor.
_MEMORY_FACTOR: Final = 6


class JsonBudget:
    """The budget of one registry."""

    def __init__(self, slices: TimeSlices, limit_bytes: int = _BUDGET_BYTES) -> None:
        """
        Args:
            limit_bytes: memory for large documents.
        """
        self._slices = slices
        self._memory = MemoryBudget(limit_bytes)

    def reserve(self, payload: bytes) -> AbstractContextManager[object]:
        """
        Reserve what it takes to read a document, as long as the block lasts; nothing for one that is not large.

        Raises:
            Overloaded: other documents need the memory, and go on needing it.
        """
        if len(payload) <= LARGE_BYTES:
            return nullcontext()
        return self._memory.reserve(len(payload) * _MEMORY_FACTOR)

    def pace(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, and pause between them; see :meth:`TimeSlices.pace`."""
        return self._slices.pace(items)

    def sort(self, texts: Iterable[str]) -> list[str]:
        """Return texts in order; see :meth:`TimeSlices.sort`."""
        return self._slices.sort(texts)
