"""
Long computations on the event loop, divided into short time slices.

Work that grows with stored content, such as processing parsed JSON or sorting directory listings, holds the interpreter
lock, in whichever native thread it runs, and so blocks all other requests of the worker. Therefore it runs in slices,
between which the event loop serves other requests. All computations that share a schedule take turns. While other
requests need the processor, they get three times as much of it as the computations; otherwise a computation pauses for
as long as it runs.

What counts is processor time: on a busy machine a slice takes longer than planned, and then so does the pause.
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

#: The length of a slice, and of the shortest pause after it.
SLICE_SECONDS: Final = 0.002

#: Processor time that other requests get for each second of a computation, if they need it.
OTHERS_SHARE: Final = 3

#: The longest pause, so that a computation ends even if other requests always need the processor.
MAX_PAUSE_SECONDS: Final = 0.1

#: Other requests count as idle if they take less than this part of a pause.
_IDLE_SHARE: Final = 0.125

_RUN_LENGTH: Final = 4096


class TimeSlices:
    """A schedule that long computations share."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS, max_pause_seconds: float = MAX_PAUSE_SECONDS) -> None:
        """
        Args:
            slice_seconds: how long a computation runs before it pauses, and at least how long it pauses.
            max_pause_seconds: how long it pauses at most, while it is its turn.
        """
        self._slice_seconds = slice_seconds
        self._max_pause_seconds = max_pause_seconds
        self._turn: BoundedSemaphore | None = None
        self._resumed = 0.0  # processor time of this process when a computation last went on

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
        """Let other requests run, then wait until it is this computation's turn to go on."""
        # A computation that paused for the first time began at an unknown time, hence the upper bound.
        used = min(time.process_time() - self._resumed, 2 * self._slice_seconds)
        if self._turn is None:
            self._turn = BoundedSemaphore()
        with self._turn:
            enough = time.process_time() + OTHERS_SHARE * used
            latest = time.monotonic() + self._max_pause_seconds
            while not self._are_others_idle() and time.process_time() < enough and time.monotonic() < latest:
                pass
            self._resumed = time.process_time()

    def _are_others_idle(self) -> bool:
        """Sleep for the length of a slice, and return whether other requests needed little of that time."""
        processor, began = time.process_time(), time.monotonic()
        # Sleeping for 0 seconds is not enough: the event loop would not poll for I/O.
        gevent.sleep(self._slice_seconds)
        waited = time.monotonic() - began
        if waited > 1.5 * self._slice_seconds:
            return False  # the event loop was busy, or the machine
        return time.process_time() - processor < _IDLE_SHARE * waited
