"""Memory budgets: who waits, who is refused, and which reservations are revoked."""

from __future__ import annotations

import time

import gevent
import pytest

from docker_registry import errors
from docker_registry.errors import Overloaded
from docker_registry.resources import memory_budget
from docker_registry.resources.memory_budget import JsonBudget, MemoryBudget
from docker_registry.resources.time_slices import TimeSlices


def taken(budget, size, **options):
    """Start to reserve in another greenlet; its value is the reservation."""
    greenlet = gevent.spawn(budget.open, size, **options)
    gevent.sleep(0)
    return greenlet


class TestABudget:
    def test_is_used_while_a_reservation_lasts(self):
        budget = MemoryBudget(1000)
        with budget.reserve(600), budget.reserve(10) as other:
            other.grow(5)
            assert 615 == budget.used_bytes
        assert 0 == budget.used_bytes

    def test_is_given_back_after_an_error(self):
        budget = MemoryBudget(1000)
        with pytest.raises(ZeroDivisionError), budget.reserve(600):
            1 / 0  # noqa: B018
        assert 0 == budget.used_bytes

    def test_that_is_exhausted_keeps_a_request_waiting(self):
        budget = MemoryBudget(1000)
        first = budget.open(1000)
        second = taken(budget, 1)
        assert not second.ready()
        first.release()
        assert 1 == second.get(timeout=10).size_bytes == budget.used_bytes

    def test_that_stays_used_up_refuses(self):
        budget = MemoryBudget(1000, wait_seconds=0.2)
        held, growing = budget.open(990), budget.open(10)
        began = time.monotonic()
        with pytest.raises(Overloaded):
            growing.grow(1)
        assert 0.2 <= time.monotonic() - began < 10
        assert (1000, 10) == (budget.used_bytes, growing.size_bytes)
        assert (1, 1) == (budget.waits, budget.refusals)
        held.release()
        growing.grow(1)
        growing.release()
        growing.release()
        assert 0 == budget.used_bytes

    def test_grants_more_than_it_has_to_one_that_is_alone(self):
        budget = MemoryBudget(1000, wait_seconds=0.05)
        with budget.reserve(5000) as reservation:
            reservation.grow(5000)
            with pytest.raises(Overloaded):
                budget.open(1)
        assert 0 == budget.used_bytes

    def test_forgets_a_request_that_is_killed_while_it_waits(self):
        budget = MemoryBudget(1000)
        held = budget.open(1000)
        killed = taken(budget, 500)
        killed.kill()
        held.release()
        assert 0 == budget.used_bytes
        killed = taken(budget, 1000)
        waiting = taken(budget, 500)
        waiting.kill(block=False)
        killed.get().release()  # the reservation is granted before the greenlet is killed
        waiting.join()
        assert 0 == budget.used_bytes


class TestSmallReservations:
    def test_do_not_wait_for_large_ones(self):
        budget = MemoryBudget(6400)
        large = [taken(budget, 3200) for _ in range(4)]
        assert [True, False, False, False] == [one.ready() for one in large]
        assert all(taken(budget, 100).ready() for _ in range(16))

    def test_do_not_wait_for_several_documents_of_one_request(self):
        budget = JsonBudget(TimeSlices(), 64 * 1024**2)
        with budget.reserve_bytes(2 * 8 * 1024**2):
            assert taken(budget.memory, 1024**2).ready()

    def test_are_served_first(self):
        budget = MemoryBudget(6400)
        held = budget.open(6400)
        large, small = taken(budget, 6400), taken(budget, 10)
        held.release()
        gevent.sleep(0)
        assert (False, True) == (large.ready(), small.ready())
        small.get().release()
        assert 6400 == large.get(timeout=10).size_bytes


class TestARevocableReservation:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(memory_budget, "_REVOCABLE_AFTER_SECONDS", 0.05)

    def test_is_revoked_if_it_held_most_for_longest(self):
        budget = MemoryBudget(1000)
        revoked = []

        def open_revocable(size, name):
            def revoke():
                revoked.append(name)
                gevent.spawn(reservation.release)

            reservation = budget.open(size, revoke=revoke)

        for size, name in ((100, "a"), (400, "b"), (200, "c")):
            open_revocable(size, name)
        gevent.sleep(0.1)
        with budget.reserve(300):
            assert ["b"] == revoked

    def test_is_left_alone_while_nothing_waits(self):
        budget = MemoryBudget(1000)
        with budget.reserve(1000, revoke=pytest.fail):
            gevent.sleep(0.2)

    def test_is_revoked_for_a_tiny_one_at_once(self, monkeypatch):
        monkeypatch.setattr(memory_budget, "_REVOCABLE_AFTER_SECONDS", 60)
        budget = MemoryBudget(5120)
        held = budget.open(5120, revoke=lambda: gevent.spawn(held.release))
        with pytest.raises(Overloaded), gevent.Timeout(0.3, Overloaded):
            budget.open(11)
        with gevent.Timeout(10), budget.reserve(10):
            assert held.is_revoked

    def test_does_not_wait_on_when_it_is_revoked(self):
        """Those that hold everything together and want more would otherwise wait for each other."""
        budget = MemoryBudget(6400, wait_seconds=60)
        refused = []

        def take_more():
            reservation = budget.open(100, revoke=lambda: None)
            gevent.sleep(0.1)
            try:
                reservation.grow(100)
            except Overloaded:
                refused.append(reservation)
            finally:
                reservation.release()

        with gevent.Timeout(30):
            gevent.joinall([gevent.spawn(take_more) for _ in range(64)])
        assert 0 == budget.used_bytes
        assert 0 < len(refused) < 64

    def test_is_revoked_once(self):
        budget = MemoryBudget(1000, wait_seconds=0.5)
        revoked = []
        budget.open(1000, revoke=lambda: revoked.append(1))
        gevent.sleep(0.1)
        with pytest.raises(Overloaded):
            budget.open(1)
        assert [1] == revoked


def test_a_rejection_is_an_overload_error():
    assert "The registry is overloaded. Try again later." == str(errors.Overloaded())
