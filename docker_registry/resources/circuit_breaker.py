"""Circuit breaker for an upstream: after repeated failures it is asked only now and then, so that no client waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from docker_registry.errors import UpstreamUnavailable

logger = logging.getLogger(__name__)

#: Failures in a row that open the circuit.
MAX_FAILURES: Final = 5

#: Time between two attempts while the circuit is open.
PROBE_SECONDS: Final = 30.0


class CircuitBreaker:
    """
    Counts the failures of one upstream.

    A failure is a connection that cannot be made or breaks, a timeout, or a status of 500 or more.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            name: name of the upstream, for messages.
            now: the clock, seconds.
        """
        self._name = name
        self._now = now
        self._failures = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether requests fail without asking the upstream, except one in :data:`PROBE_SECONDS`."""
        return self._failures >= MAX_FAILURES

    def check(self) -> None:
        """
        Allow a request to the upstream; while the circuit is open, one in :data:`PROBE_SECONDS`.

        Raises:
            UpstreamUnavailable: the upstream is not asked now.
        """
        if not self.is_open:
            return
        if self._now() < self._probe_at:
            raise UpstreamUnavailable(upstream=self._name)
        self._probe_at = self._now() + PROBE_SECONDS

    def record_failure(self, reason: object) -> None:
        """Count a failure."""
        self._failures += 1
        self._probe_at = self._now() + PROBE_SECONDS
        if self._failures == MAX_FAILURES:
            logger.warning(
                "the upstream %s failed %d times, now it is asked every %g seconds: %s",
                self._name, MAX_FAILURES, PROBE_SECONDS, reason,
            )  # fmt: skip

    def record_success(self) -> None:
        """Close the circuit."""
        if self.is_open:
            logger.info("the upstream %s answers again", self._name)
        self._failures = 0
