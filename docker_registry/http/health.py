"""
The health of a worker: whether its store can be read, and whether it is stopping.

A background greenlet probes the store by reading, so that a full store, which still serves pulls, counts as ready. The
worker reports SIGTERM here; until ``drain_delay`` is over it accepts connections, while ``/readyz`` tells load
balancers to send no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import gevent

from docker_registry.errors import RegistryError

logger = logging.getLogger(__name__)

#: Time between two probes, and the time limit of each.
PROBE_SECONDS: Final = 10.0

#: Time between two probes until the first success.
STARTUP_PROBE_SECONDS: Final = 1.0

#: Consecutive failed probes after which the worker is not ready.
MAX_FAILURES: Final = 3

DRAINING: Final = "draining"


class Health:
    """
    The state of one worker.

    Attributes:
        drain_delay_seconds: time between SIGTERM and the end of accepting connections.
        is_draining: whether SIGTERM was received.
        has_started: whether a probe has succeeded once.
    """

    def __init__(self, probe: Callable[[], object], drain_delay_seconds: float = 0) -> None:
        """
        Args:
            probe: reads from the store; raises an error if that fails.
        """
        self.drain_delay_seconds = drain_delay_seconds
        self.is_draining = False
        self.has_started = False
        self._probe = probe
        self._attempt: gevent.Greenlet[[], str] | None = None
        self._failures = 0
        self._reason = ""

    def problems(self) -> dict[str, str]:
        """Return why the worker is not ready, by the name of the check; empty if it is ready."""
        found = {}
        if self._failures >= MAX_FAILURES:
            found["storage"] = self._reason
        if self.is_draining:
            found[DRAINING] = "The server is stopping."
        return found

    def watch(self) -> None:
        """Probe the store forever; runs in a greenlet."""
        while True:
            self.check()
            gevent.sleep(PROBE_SECONDS if self.has_started else STARTUP_PROBE_SECONDS)

    def check(self) -> None:
        """Probe the store once."""
        reason = self._try()
        if not reason:
            if self._failures >= MAX_FAILURES:
                logger.warning("the store can be read again")
            self._failures, self.has_started = 0, True
            return
        self._failures, self._reason = self._failures + 1, reason
        if self._failures == MAX_FAILURES:
            logger.error("not ready: the store could not be read %d times: %s", self._failures, reason)

    def _try(self) -> str:
        """Return why a probe failed; empty if it succeeded."""
        with suppress(gevent.Timeout), gevent.Timeout(PROBE_SECONDS):
            if self._attempt is not None:  # its read hangs in a native thread, which cannot be stopped
                self._attempt.join()
            self._attempt = gevent.spawn(self._attempt_once)
            self._attempt.join()
            return str(self._attempt.value)
        if self._attempt is not None:
            self._attempt.kill(block=False)
        return f"no response within {PROBE_SECONDS:.0f} seconds"

    def _attempt_once(self) -> str:
        try:
            self._probe()
        except RegistryError as error:
            return error.sentence
        except Exception:
            logger.exception("the probe of the store failed")
            return "the probe failed; see the registry log"
        return ""
