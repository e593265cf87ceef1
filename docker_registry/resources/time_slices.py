"""
Long computations on the event loop, divided into short time slices.

Work that grows with stored content, such as processing parsed JSON or sorting directory listings, holds the interpreter
lock, in whichever native thread it runs, and so blocks all other requests of the worker. Therefore it runs in slices,
between which the event loop serves other requests. All computations that share a schedule take turns. While other
requests need the processor, they get three times as much of it as the computations; otherwise the pause after a slice
is short, by default as long as a slice.

On a busy machine a slice takes longer than planned, because the worker waits for the processor. The pause is then
longer too; otherwise the computations would get most of the little processor time that the worker has.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final, TypeVar

import gevent
from gevent import monkey
from gevent.lock import BoundedSemaphore

Item = TypeVar("Item")

#: The length of a slice, and of the shortest pause after it. A request waits for the event loop some 30 times during a
#: push, so it is the length of a slice that delays it, more than the share of the processor. The timers of the event
#: loop count in milliseconds.
SLICE_SECONDS: Final = 0.001

#: The pause after a slice, as a multiple of the time that the slice took, while other requests need the processor.
OTHERS_SHARE: Final = 3

#: A slice counts as longer than planned up to this multiple.
_LONGEST_SLICE: Final = 16

#: A sleep that ends later by this time was delayed by other work; timers alone are up to a millisecond late.
_DELAY_SECONDS: Final = 0.0015

#: Other requests need the processor if they use at least this part of the time.
_BUSY_SHARE: Final = 0.125

_RUN_LENGTH: Final = 4096


class TimeSlices:
    """A schedule that long computations share."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS, pause_seconds: float | None = None) -> None:
        """
        Args:
            slice_seconds: how long a computation runs before it pauses.
            pause_seconds: how long it pauses at least; by default as long.
        """
        self._slice_seconds = slice_seconds
        self._pause_seconds = slice_seconds if pause_seconds is None else pause_seconds
        self._turn: BoundedSemaphore | None = None
        self._resumed = 0.0  # when a pause last ended, on the monotonic clock

    def pace(self, items: Iterable[Item]) -> Iterator[Item]:
        """
        Yield the items of a long computation, and pause between items when a slice is used up.

        The time that the consumer takes for an item counts as well, also if it waits for the store. Outside a server
        worker there are no pauses, because no other greenlet needs the thread.
        """
        if not monkey.is_module_patched("threading"):
            yield from items
            return
        began = time.monotonic()
        for position, item in enumerate(items):
            if position and time.monotonic() > began + self._slice_seconds:
                self.pause(began)
                began = time.monotonic()
            yield item

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

    def pause(self, began: float | None = None) -> None:
        """
        Wait for this computation's turn, then pause; longer while other requests need the processor.

        Args:
            began: when the slice began that ends now, on the monotonic clock; by default, the end of the last pause of
                any computation.
        """
        took = time.monotonic() - (self._resumed if began is None else began)
        took = max(self._slice_seconds, min(took, _LONGEST_SLICE * self._slice_seconds))
        if self._turn is None:
            self._turn = BoundedSemaphore()
        with self._turn:
            end = time.monotonic() + OTHERS_SHARE * took
            while self._are_others_busy() and time.monotonic() < end:
                pass
            self._resumed = time.monotonic()

    def _are_others_busy(self) -> bool:
        """Sleep for the shortest pause, and return whether other requests needed the processor meanwhile."""
        processor, began = time.process_time(), time.monotonic()
        # Sleeping for 0 seconds is not enough: the event loop would not poll for I/O.
        gevent.sleep(self._pause_seconds)
        waited = time.monotonic() - began
        # After a longer sleep than planned, other requests may still be waiting for the event loop.
        return waited > self._pause_seconds + _DELAY_SECONDS or time.process_time() - processor > _BUSY_SHARE * waited
