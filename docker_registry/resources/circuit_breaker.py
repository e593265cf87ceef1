"""Circuit breaker: after repeated failures a service is asked only now and then, so that no client waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Counts the consecutive failures of one service that is reached over the network."""

    def __init__(
        self,
        service: str,
        unavailable: Callable[[], Exception],
        *,
        max_failures: int,
        probe_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            service: the service in log messages, such as ``the upstream docker.io``.
            unavailable: returns the error for a request that is not sent.
            max_failures: consecutive failures that open the circuit.
            probe_seconds: time between two requests while the circuit is open.
            now: a monotonic clock; returns seconds.
        """
        self._service = service
        self._unavailable = unavailable
        self._max_failures = max_failures
        self._probe_seconds = probe_seconds
        self._now = now
        self._failures = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while requests are refused. One request per probe interval is still allowed."""
        return self._failures >= self._max_failures

    def check(self) -> None:
        """
        Allow a request to the service; while the circuit is open, one in each probe interval.

        Raises:
            Exception: the error of *unavailable*; the request must not be sent now.
        """
        if not self.is_open:
            return
        if self._now() < self._probe_at:
            raise self._unavailable()
        self._probe_at = self._now() + self._probe_seconds

    def record_failure(self, reason: object) -> None:
        """
        Count a failure.

        Args:
            reason: logged when the circuit opens.
        """
        self._failures += 1
        self._probe_at = self._now() + self._probe_seconds
        if self._failures == self._max_failures:
            logger.warning(
                "%s failed %d times, now it is asked every %g seconds: %s",
                self._service, self._max_failures, self._probe_seconds, reason,
            )  # fmt: skip

    def record_success(self) -> None:
        """Close the circuit."""
        if self.is_open:
            logger.info("%s answers again", self._service)
        self._failures = 0
