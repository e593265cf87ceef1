"""
Long computations on the event loop, in short slices.

JSON that has been parsed, lists of a folder's names: what grows with stored content takes a worker's only Python thread
from all its other requests, in whichever native thread it runs. So it runs in slices, and between them the event loop
serves the other requests. All computations of a process share one schedule: however many there are, they take half of
the processor while other requests want it.
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
    """The schedule of all long computations of a process."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS) -> None:
        """
        Args:
            slice_seconds: time after which a computation pauses.
        """
        self._slice_seconds = slice_seconds
        self._next_start = 0.0

    def pace(self, items: Iterable[Item]) -> Iterator[Item]:
        """
        Yield the items of a long computation, and pause between them when a slice is over.

        The time of the consumer counts too. Outside a worker of the server nothing waits for this thread, and there are
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
        """Return texts in order; many of them are sorted in runs, since the sorting of a list cannot pause."""
        runs: list[list[str]] = [[]]
        for text in self.pace(texts):
            if len(runs[-1]) == _RUN_LENGTH:
                runs[-1].sort()
                runs.append([])
            runs[-1].append(text)
        runs[-1].sort()
        return runs[0] if len(runs) == 1 else list(self.pace(merge(*runs)))

    def pause(self) -> None:
        """Wait for the next slice that no other computation has taken."""
        # To sleep for 0 seconds would not be enough: the event loop would not look for what has arrived.
        now = time.monotonic()
        start = max(now + self._slice_seconds, self._next_start)
        self._next_start = start + 2 * self._slice_seconds
        gevent.sleep(start - now)
