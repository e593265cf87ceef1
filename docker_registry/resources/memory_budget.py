"""
Budgets that bound a worker's memory.

Memory that grows with what clients send or have stored (bodies, parsed JSON, decompression windows, responses) is
reserved before it is allocated. A request whose budget is exhausted waits for a while and then fails with
:class:`~docker_registry.errors.Overloaded`, so that the worker does not run out of memory::

    budget = MemoryBudget(64 * MIB)
    with budget.reserve(len(payload) * 20):
        document = json.loads(payload)

Budgets are shared by the greenlets of one event loop; they are not thread-safe.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from gevent.event import Event

from docker_registry.errors import Overloaded
from docker_registry.resources.time_slices import TimeSlices

#: Reservations up to this fraction of a budget are small.
_SMALL_FRACTION: Final = 1 / 64

#: Reservations up to this fraction are tiny: if one has to wait, larger reservations are revoked at once.
_TINY_FRACTION: Final = 1 / 512

#: Large reservations together may use at most this fraction of a budget, so that small ones never wait for them.
_LARGE_SHARE: Final = 3 / 4

#: A reservation is revoked only after it has been held for this time, except in favor of a tiny one.
_REVOCABLE_AFTER_SECONDS: Final = 1.0

#: How often a waiting request checks for reservations that have become revocable.
_REVOKE_INTERVAL_SECONDS: Final = 0.1

#: A longer JSON document is large. A shorter one is parsed in one call, which takes less than 5 ms for any content.
LARGE_JSON_BYTES: Final = 64 * 1024

#: Memory for all large JSON documents in use at the same time.
_JSON_BUDGET_BYTES: Final = 64 * 1024 * 1024

#: Memory per byte of a JSON document, for its text and an object for each descriptor.
_JSON_FACTOR: Final = 6


class Reservation:
    """A part of a budget, held until it is released."""

    def __init__(self, budget: MemoryBudget, revoke: Callable[[], object] | None) -> None:
        self.size_bytes = 0
        self._budget = budget
        self._revoke = revoke
        self._is_revoked = False
        self._waits: Event | None = None  # while grow() waits: set to end the wait
        self._since = time.monotonic()

    def grow(self, size_bytes: int) -> None:
        """
        Add *size_bytes* to the reservation, waiting for them if necessary.

        Raises:
            Overloaded: not enough of the budget was released in time, or this reservation was revoked meanwhile; its
                previous size stays reserved.
        """
        self._budget._take(self, size_bytes)  # noqa: SLF001 - the two classes are one mechanism

    def release(self) -> None:
        """Release the whole reservation; may be called repeatedly."""
        self._budget._give_back(self)  # noqa: SLF001

    def held_seconds(self, now: float) -> float:
        """Return for how many seconds it has been held."""
        return now - self._since

    @property
    def is_revocable(self) -> bool:
        """Whether it can be revoked and has not been revoked yet."""
        return self._revoke is not None

    @property
    def is_revoked(self) -> bool:
        """Whether it has been revoked; the holder may not have released it yet."""
        return self._is_revoked

    def revoke(self) -> None:
        """Make the holder release it soon, by calling the *revoke* of its creation; ends its own wait in `grow`."""
        revoke, self._revoke, self._is_revoked = self._revoke, None, True
        if self._waits is not None:
            self._waits.set()
        if revoke is not None:
            revoke()


class MemoryBudget:
    """
    A budget of bytes that requests share.

    Waiting reservations are served smallest first, and small ones (up to 1/64 of the budget) have a quarter of the
    budget to themselves, so that a few large requests cannot delay many small ones.

    Attributes:
        waits: number of reservations that had to wait.
        refusals: number of those that failed.
    """

    def __init__(self, limit_bytes: int, wait_seconds: float = 10.0) -> None:
        """
        Args:
            limit_bytes: maximum number of bytes reserved at a time.
            wait_seconds: how long a request waits for other reservations to be released.
        """
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.waits = 0
        self.refusals = 0
        self._wait_seconds = wait_seconds
        self._small_bytes = limit_bytes * _SMALL_FRACTION
        self._large_bytes = 0
        self._held: dict[Reservation, None] = {}  # oldest first
        self._waiting: list[_Waiting] = []  # smallest need first
        self._revoke_again_at = 0.0

    @contextmanager
    def reserve(self, size_bytes: int, *, revoke: Callable[[], object] | None = None) -> Iterator[Reservation]:
        """
        Reserve memory for the duration of a ``with`` block.

        Args:
            size_bytes: more than the whole budget counts as the whole budget.
            revoke: called at most once, if other reservations wait and this one has the largest product of size and
                time held. It must make the holder release the reservation soon, and must not block. Without it the
                reservation is never revoked.

        Raises:
            Overloaded: not enough of the budget was released in time.
        """
        reservation = self.open(size_bytes, revoke=revoke)
        try:
            yield reservation
        finally:
            reservation.release()

    @contextmanager
    def hold(self, size_bytes: int, *, revoke: Callable[[], object]) -> Iterator[Reservation]:
        """
        Count memory that is already allocated for the duration of a ``with`` block, without waiting.

        If this exceeds the budget, reservations are revoked at once until it fits: the largest product of size and time
        held first, however short they have been held.
        """
        reservation = Reservation(self, revoke)
        self._enter(reservation, size_bytes)
        if self.used_bytes > self.limit_bytes:
            self._revoke(self.used_bytes - self.limit_bytes, least_seconds=0)
        try:
            yield reservation
        finally:
            reservation.release()

    def open(self, size_bytes: int = 0, *, revoke: Callable[[], object] | None = None) -> Reservation:
        """Reserve memory as :meth:`reserve` does, until :meth:`Reservation.release` is called."""
        reservation = Reservation(self, revoke)
        if size_bytes:
            reservation.grow(size_bytes)
        return reservation

    def _take(self, reservation: Reservation, size_bytes: int) -> None:
        total = min(reservation.size_bytes + size_bytes, self.limit_bytes)
        if not self._waiting and self._fits(reservation, total):
            self._enter(reservation, total)
            return
        self.waits += 1
        waiting = _Waiting(reservation, total)
        insort(self._waiting, waiting, key=lambda one: one.missing_bytes)  # first come, first served among equals
        self._serve_waiting()
        deadline = time.monotonic() + self._wait_seconds
        reservation._waits = waiting.over  # noqa: SLF001 - the two classes are one mechanism
        try:
            while not waiting.over.is_set() and (left := deadline - time.monotonic()) > 0:
                self._revoke_enough()
                waiting.over.wait(min(left, _REVOKE_INTERVAL_SECONDS))
        except BaseException:
            if waiting.is_served:  # granted just before the exception: nothing will use it
                self._give_back(reservation)
            raise
        finally:
            reservation._waits = None  # noqa: SLF001
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if not waiting.is_served:
            self.refusals += 1
            raise Overloaded

    def _give_back(self, reservation: Reservation) -> None:
        self._enter(reservation, 0)
        self._held.pop(reservation, None)
        self._serve_waiting()

    def _fits(self, reservation: Reservation, total: int) -> bool:
        used_by_others = self.used_bytes - reservation.size_bytes
        if used_by_others + total > self.limit_bytes:
            return False
        if total <= self._small_bytes:
            return True
        own_bytes = reservation.size_bytes if reservation.size_bytes > self._small_bytes else 0
        large_others = self._large_bytes - own_bytes
        return not large_others or large_others + total <= self.limit_bytes * _LARGE_SHARE

    def _enter(self, reservation: Reservation, total: int) -> None:
        for size, sign in ((reservation.size_bytes, -1), (total, 1)):
            self.used_bytes += sign * size
            if size > self._small_bytes:
                self._large_bytes += sign * size
        reservation.size_bytes = total
        self._held[reservation] = None

    def _serve_waiting(self) -> None:
        for waiting in list(self._waiting):
            if self.used_bytes + waiting.missing_bytes > self.limit_bytes:
                return  # later entries need at least as much
            if self._fits(waiting.reservation, waiting.total_bytes):
                self._waiting.remove(waiting)
                self._enter(waiting.reservation, waiting.total_bytes)
                waiting.is_served = True
                waiting.over.set()

    def _revoke_enough(self) -> None:
        """Revoke the costliest reservations until enough is being released for those that wait."""
        now = time.monotonic()
        if now < self._revoke_again_at:
            return
        self._revoke_again_at = now + _REVOKE_INTERVAL_SECONDS
        self._revoke(sum(waiting.missing_bytes for waiting in self._waiting), _REVOCABLE_AFTER_SECONDS)
        # For a tiny reservation, larger ones are revoked regardless of how long they have been held.
        tiny_bytes = self.limit_bytes * _TINY_FRACTION
        tiny = sum(waiting.missing_bytes for waiting in self._waiting if waiting.total_bytes <= tiny_bytes)
        self._revoke(tiny, 0, larger_than_bytes=tiny_bytes)

    def _revoke(self, missing_bytes: int, least_seconds: float, larger_than_bytes: float = 0) -> None:
        now = time.monotonic()
        missing_bytes -= sum(one.size_bytes for one in self._held if one.is_revoked)
        revocable = [
            one
            for one in self._held
            if one.is_revocable and one.held_seconds(now) >= least_seconds and one.size_bytes > larger_than_bytes
        ]
        revocable.sort(key=lambda one: one.size_bytes * one.held_seconds(now), reverse=True)
        for one in revocable:
            if missing_bytes <= 0:
                return
            missing_bytes -= one.size_bytes
            one.revoke()


class _Waiting:
    """A reservation that waits to grow to *total_bytes*."""

    def __init__(self, reservation: Reservation, total_bytes: int) -> None:
        self.reservation = reservation
        self.total_bytes = total_bytes
        self.missing_bytes = total_bytes - reservation.size_bytes
        self.is_served = False
        self.over = Event()


class JsonBudget:
    """
    Limits the memory and the time slices that a registry uses for large JSON documents.

    Attributes:
        memory: the memory budget.
        pace: yields items, and yields to the event loop between them; see :meth:`TimeSlices.pace`.
        sort: returns texts sorted, without blocking the event loop; see :meth:`TimeSlices.sort`.
    """

    def __init__(self, slices: TimeSlices, limit_bytes: int = _JSON_BUDGET_BYTES) -> None:
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
        return self.reserve_bytes(len(payload))

    def reserve_bytes(self, size_bytes: int) -> AbstractContextManager[object]:
        """
        Reserve as :meth:`reserve` does, for documents of a total size that need not have been read yet.

        What is needed together must be reserved together: a request that waits for memory while it holds some may wait
        for itself.
        """
        if size_bytes <= LARGE_JSON_BYTES:
            return nullcontext()
        # Documents that need more count as all that large ones may use, so that small ones do not wait for them either.
        most = int(self.memory.limit_bytes * _LARGE_SHARE)
        return self.memory.reserve(min(size_bytes * _JSON_FACTOR, most))
