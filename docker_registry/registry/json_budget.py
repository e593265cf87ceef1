"""Limits for processing large JSON documents in a worker: memory, and uninterrupted time on the event loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.resources.time_slices import TimeSlices

#: A longer document is large. A shorter one is parsed in one call, which takes less than 5 ms for any content.
LARGE_BYTES: Final = 64 * 1024

#: Memory for all large documents in use at the same time.
_BUDGET_BYTES: Final = 64 * 1024 * 1024

#: Memory per byte of a document, for its text and an object for each descriptor.
_MEMORY_FACTOR: Final = 6


class JsonBudget:
    """
    Limits the memory and the time slices that a registry uses for large JSON documents.

    Attributes:
        memory: the memory budget.
        pace: yields items, and yields to the event loop between them; see :meth:`TimeSlices.pace`.
        sort: returns texts sorted, without blocking the event loop; see :meth:`TimeSlices.sort`.
    """

    def __init__(self, slices: TimeSlices, limit_bytes: int = _BUDGET_BYTES) -> None:
        """
        Args:
            limit_bytes: memory for all large documents together.
        """
        self.pace = slices.pace
        self.sort = slices.sort
        self.memory = MemoryBudget(limit_bytes)

    def reserve(self, payload: bytes) -> AbstractContextManager[object]:
        """
        Return a context manager that reserves the memory to parse a document; a no-op unless the document is large.

        Raises:
            Overloaded: other documents use the memory and do not release it in time.
        """
        if len(payload) <= LARGE_BYTES:
            return nullcontext()
        return self.memory.reserve(len(payload) * _MEMORY_FACTOR)
