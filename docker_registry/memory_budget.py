"""
Bounded shares of a worker's memory.

Memory that requests need in proportion to what clients send or stored (bodies, parsed JSON, decompression windows,
responses) is reserved before it is allocated. A request that finds its budget used up waits for a while and is then
refused with :class:`~docker_registry.errors.Overloaded`, instead of driving the worker out of memory::

    budget = MemoryBudget(64 * MIB)
    with budget.reserve(len(payload) * 20):
        document = json.loads(payload)

Budgets are used by the greenlets of one event loop; they are not meant for native threads.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gevent.event import Event

from docker_registry.errors import Overloaded

#: Reservations up to this fraction of a budget are small.
_SMALL_FRACTION: Final = 1 / 64

#: Reservations up to this fraction are tiny: larger ones are revoked at once when a tiny one has to wait.
_TINY_FRACTION: Final = 1 / 512

#: Large reservations together get at most this fraction of a budget, so that small ones never wait for them.
_LARGE_SHARE: Final = 3 / 4

#: A reservation is not revoked before it has been held for this time.
_REVOCABLE_AFTER_SECONDS: Final = 1.0

#: How often a waiting request looks for reservations that have become revocable.
_REVOKE_INTERVAL_SECONDS: Final = 0.1


class Reservation:
    """A part of a budget, held until it is released."""

    def __init__(self, budget: MemoryBudget, revoke: Callable[[], object] | None) -> None:
        self.size_bytes = 0
        self._budget = budget
        self._revoke = revoke
        self._is_revoked = False
        self._waits: Event | None = None  # set when it has to wait no longer
        self._since = time.monotonic()

    def grow(self, size_bytes: int) -> None:
        """
        Reserve more.

        Raises:
            Overloaded: no room became free in time, or the reservation was revoked meanwhile; what was reserved
                before stays reserved.
        """
        self._budget._take(self, size_bytes)  # noqa: SLF001 - the two classes are one mechanism

    def release(self) -> None:
        """Give everything back; may be called again."""
        self._budget._give_back(self)  # noqa: SLF001

    def held_seconds(self, now: float) -> float:
        """Return for how long it has been held."""
        return now - self._since

    @property
    def is_revocable(self) -> bool:
        """Whether its holder can be asked to release it, and was not asked yet."""
        return self._revoke is not None

    @property
    def is_revoked(self) -> bool:
        """Whether its holder was asked to release it."""
        return self._is_revoked

    def revoke(self) -> None:
        """Ask the holder to release it."""
        revoke, self._revoke, self._is_revoked = self._revoke, None, True
        if self._waits is not None:
            self._waits.set()
        if revoke is not None:
            revoke()


class MemoryBudget:
    """
    A number of bytes that requests share.

    Small reservations (up to 1/64 of the budget) are served before larger ones and have a quarter of the budget to
    themselves, so that a few large requests cannot delay the many small ones.
    """

    def __init__(self, limit_bytes: int, wait_seconds: float = 10.0) -> None:
        """
        Args:
            limit_bytes: reserved at the same time, at most.
            wait_seconds: how long a request waits for others to release theirs.
        """
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._wait_seconds = wait_seconds
        self._large_bytes = 0
        self._held: dict[Reservation, None] = {}  # in the order of their beginning
        self._waiting: list[_Waiting] = []  # the one that needs least first
        self._revoke_again_at = 0.0

    @contextmanager
    def reserve(self, size_bytes: int, *, revoke: Callable[[], object] | None = None) -> Iterator[Reservation]:
        """
        Reserve memory for the duration of a ``with`` block.

        Args:
            size_bytes: more than the whole budget counts as the whole budget.
            revoke: called at most once when others wait and this reservation has held the most memory for the
                longest time. It must make the holder release the reservation soon, and must not block. Without it
                the reservation is never revoked.

        Raises:
            Overloaded: no room became free in time.
        """
        reservation = self.open(size_bytes, revoke=revoke)
        try:
            yield reservation
        finally:
            reservation.release()

    @contextmanager
    def hold(self, size_bytes: int, *, revoke: Callable[[], object]) -> Iterator[Reservation]:
        """
        Count memory that is in use already for the duration of a ``with`` block, without waiting.

        What exceeds the budget by that is revoked at once, the costliest first, however short it has been held.
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
        """Reserve as :meth:`reserve` does, until :meth:`Reservation.release` is called."""
        reservation = Reservation(self, revoke)
        reservation.grow(size_bytes)
        return reservation

    def _take(self, reservation: Reservation, size_bytes: int) -> None:
        total = min(reservation.size_bytes + size_bytes, self.limit_bytes)
        if not self._waiting and self._fits(reservation, total):
            self._enter(reservation, total)
            return
        waiting = _Waiting(reservation, total)
        insort(self._waiting, waiting, key=lambda one: one.missing_bytes)  # the first come among equals goes first
        self._serve_waiting()
        deadline = time.monotonic() + self._wait_seconds
        reservation._waits = waiting.over  # noqa: SLF001 - the two classes are one mechanism
        try:
            while not waiting.over.is_set() and (left := deadline - time.monotonic()) > 0:
                self._revoke_enough()
                waiting.over.wait(min(left, _REVOKE_INTERVAL_SECONDS))
        except BaseException:
            if waiting.is_served:  # what was just granted will not be used
                self._give_back(reservation)
            raise
        finally:
            reservation._waits = None  # noqa: SLF001
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if not waiting.is_served:
            raise Overloaded

    def _give_back(self, reservation: Reservation) -> None:
        self._enter(reservation, 0)
        self._held.pop(reservation, None)
        self._serve_waiting()

    def _fits(self, reservation: Reservation, total: int) -> bool:
        used_by_others = self.used_bytes - reservation.size_bytes
        if used_by_others + total > self.limit_bytes:
            return False
        if not self._is_large(total):
            return True
        large_others = self._large_bytes - (reservation.size_bytes if self._is_large(reservation.size_bytes) else 0)
        return not large_others or large_others + total <= self.limit_bytes * _LARGE_SHARE

    def _enter(self, reservation: Reservation, total: int) -> None:
        for size, sign in ((reservation.size_bytes, -1), (total, 1)):
            self.used_bytes += sign * size
            if self._is_large(size):
                self._large_bytes += sign * size
        reservation.size_bytes = total
        self._held[reservation] = None

    def _is_large(self, size_bytes: int) -> bool:
        return size_bytes > self.limit_bytes * _SMALL_FRACTION

    def _serve_waiting(self) -> None:
        for waiting in list(self._waiting):
            if self.used_bytes + waiting.missing_bytes > self.limit_bytes:
                return  # those behind it need no less
            if self._fits(waiting.reservation, waiting.total_bytes):
                self._waiting.remove(waiting)
                self._enter(waiting.reservation, waiting.total_bytes)
                waiting.is_served = True
                waiting.over.set()

    def _revoke_enough(self) -> None:
        """Revoke the costliest reservations, until what they release is enough for those that wait."""
        now = time.monotonic()
        if now < self._revoke_again_at:
            return
        self._revoke_again_at = now + _REVOKE_INTERVAL_SECONDS
        self._revoke(sum(waiting.missing_bytes for waiting in self._waiting), _REVOCABLE_AFTER_SECONDS)
        # A tiny one waits for no time to pass: something larger makes room for it at once.
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
    """A reservation that waits to grow to a size."""

    def __init__(self, reservation: Reservation, total_bytes: int) -> None:
        self.reservation = reservation
        self.total_bytes = total_bytes
        self.missing_bytes = total_bytes - reservation.size_bytes
        self.is_served = False
        self.over = Event()
