"""
Long computations on the event loop, divided into short time slices.

Work that grows with stored content, such as processing parsed JSON or sorting directory listings, holds the interpreter
lock, in whichever native thread it runs, and so blocks all other requests of the worker. Therefore it runs in slices,
between which the event loop serves other requests. All computations of a process share one schedule: together they
take at most half of the processor time while other requests need it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final, TypeVar

import gevent
from gevent import monkey

Item = TypeVar("Item")

#: The length of a slice, and of the pause after it.
SLICE_SECONDS: Final = 0.004

_RUN_LENGTH: Final = 4096


class TimeSlices:
    """The schedule that all long computations of a process share."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS) -> None:
        """
        Args:
            slice_seconds: how long a computation runs before it pauses, and at least how long it pauses.
        """
        self._slice_seconds = slice_seconds
        self._next_start = 0.0

    def pace(self, items: Iterable[Item]) -> Iterator[Item]:
        """
        Yield the items of a long computation, and pause between items when a slice is used up.

        The consumer's time counts as well. Outside a server worker no other greenlet needs this thread, and there are
        no pauses.
        """
        if not monkey.is_module_patched("threading"):
            yield from items
            return
        end = time.monotonic() + self._slice_seconds
        for item in items:
            yield item
            if time.monotonic() > end:
                self.pause()
                end = time.monotonic() + self._slice_seconds

    def sort(self, texts: Iterable[str]) -> list[str]:
        """Return texts in sorted order; sorts long inputs in runs and merges them, because list.sort cannot pause."""
        runs: list[list[str]] = [[]]
        for text in self.pace(texts):
            if len(runs[-1]) == _RUN_LENGTH:
                runs[-1].sort()
                runs.append([])
            runs[-1].append(text)
        runs[-1].sort()
        return runs[0] if len(runs) == 1 else list(self.pace(merge(*runs)))

    def pause(self) -> None:
        """Wait for the next free slice of the schedule."""
        # Sleeping for 0 seconds is not enough: the event loop would not poll for I/O.
        now = time.monotonic()
        start = max(now + self._slice_seconds, self._next_start)
        self._next_start = start + 2 * self._slice_seconds
        gevent.sleep(start - now)
