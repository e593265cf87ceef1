from __future__ import annotations

import pytest

from docker_registry.errors import StorageUnavailable
from docker_registry.resources.circuit_breaker import CircuitBreaker
from tests.support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker("the service", StorageUnavailable, max_failures=2, probe_seconds=10, now=clock)


def fail(breaker, times):
    for _ in range(times):
        breaker.check()
        breaker.record_failure("it hangs up")


class TestACircuitBreaker:
    def test_refuses_requests_after_several_failures_in_a_row(self, breaker):
        fail(breaker, 1)
        breaker.record_success()
        fail(breaker, 2)

        with pytest.raises(StorageUnavailable):
            breaker.check()

    def test_allows_one_request_in_each_interval(self, breaker, clock):
        fail(breaker, 2)
        clock.now += 10
        breaker.check()

        with pytest.raises(StorageUnavailable):
            breaker.check()

    def test_allows_all_requests_after_a_success(self, breaker, clock):
        fail(breaker, 2)
        clock.now += 10
        breaker.check()
        breaker.record_success()

        breaker.check()
        breaker.check()
        assert not breaker.is_open
