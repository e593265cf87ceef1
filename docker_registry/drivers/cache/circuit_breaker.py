"""
Circuit breaker for Redis: limits the cost of a failing Redis to one warning and a tenth of a second per request.

The first failure opens the circuit: all calls fail immediately until a pause is over and one trial call probes Redis.
Slow responses open the circuit too, once a request has used up its wait time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from docker_registry.concurrency import responsive_deadline

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Total wait time of all calls of one request, not counting the normal duration of each call.
MAX_WAIT_SECONDS: Final = 0.1
#: Timeout of connecting and of each response in commands; workers reach their deadline earlier.
SOCKET_SECONDS: Final = 1.0

#: Normal duration of a call, which does not use up wait time.
_NORMAL_CALL_SECONDS: Final = 0.005

#: Outside of requests, as in commands and housekeeping, this many seconds of wait time are restored per second.
_RECOVERY: Final = 0.1

PAUSE_SECONDS: Final = 5.0


class Unavailable(Exception):
    """Redis cannot be used for now."""


class OutOfMemory(Exception):
    """Redis is out of memory: it rejects new entries, but entries can be read and deleted."""


class CircuitBreaker:
    """A circuit breaker for one Redis, shared by all greenlets or threads of a process."""

    def __init__(
        self,
        redis: Redis,
        address: str,
        *,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """
        Args:
            address: address of Redis, for log messages.
            max_wait_seconds: total wait time of one request.
            pause_seconds: how long the circuit stays open after a failure before a trial.
        """
        from redis.exceptions import RedisError

        self._redis = redis
        self._redis_error = RedisError
        self._address = address
        self._pause_seconds = pause_seconds
        self._wait_time = _WaitTime(max_wait_seconds)
        self._retry_at: float | None = None
        self._was_full = False

    def call(self, work: Callable[[Redis], Result]) -> Result:
        """
        Run *work* with the Redis client and return its result.

        Raises:
            Unavailable: the call failed, or the circuit is open.
            OutOfMemory: Redis is out of memory.
        """
        is_trial = self._retry_at is not None
        if self._retry_at is not None:
            if time.monotonic() < self._retry_at:
                raise Unavailable
            self._retry_at = time.monotonic() + self._pause_seconds  # other calls fail while this one is the trial
        waited: Callable[[], float] = float
        try:
            # Name lookup, connection, authentication and response share one deadline.
            with responsive_deadline(self._wait_time.remaining()) as waited:
                result = work(self._redis)
        except (self._redis_error, OSError) as error:
            if _is_out_of_memory(error):
                self._set_full(True)
                raise OutOfMemory from None
            self._wait_time.spend(waited())
            self._open(_reason(error))
            raise Unavailable from None
        seconds = waited()
        if not self._wait_time.spend(seconds) and seconds > _NORMAL_CALL_SECONDS:
            self._open("it is too slow")
        elif is_trial:  # another call may have started before the failure, so its success proves nothing
            self._close()
        return result

    def begin_request(self) -> None:
        """Restore the wait time of this greenlet or thread at the start of a request."""
        self._wait_time.begin()

    def record_stored(self) -> None:
        """Record that Redis has stored a new entry, so it is not out of memory."""
        if self._was_full:
            self._set_full(False)

    def _set_full(self, is_full: bool) -> None:
        if is_full and not self._was_full:
            logger.warning(
                "Redis at %s is full and rejects writes; consider maxmemory-policy allkeys-lru", self._address
            )
        elif not is_full:
            logger.info("Redis at %s accepts writes again", self._address)
        self._was_full = is_full

    def _open(self, reason: str) -> None:
        if self._retry_at is None:
            logger.warning(
                "Redis at %s is unavailable: %s; reading from the store, retrying Redis every %g seconds",
                self._address,
                reason,
                self._pause_seconds,
            )
        self._retry_at = time.monotonic() + self._pause_seconds
        # After a restart of the server, all pooled connections are dead.
        self._redis.connection_pool.disconnect(inuse_connections=False)

    def _close(self) -> None:
        if self._retry_at is not None:
            self._retry_at = None
            logger.info("Redis at %s is available again", self._address)


class _WaitTime(threading.local):
    """Remaining wait time of the current thread, or under gevent of the current greenlet."""

    def __init__(self, seconds: float) -> None:
        self._total = self._remaining = seconds
        self._recovery = _RECOVERY
        self._seen = time.monotonic()

    def begin(self) -> None:
        """Restore the full wait time, and stop the gradual recovery, which applies outside of requests only."""
        self._remaining = self._total
        self._recovery = 0.0

    def remaining(self) -> float:
        """Return how many seconds the next call may take."""
        now = time.monotonic()
        self._remaining = min(self._remaining + (now - self._seen) * self._recovery, self._total)
        self._seen = now
        return max(self._remaining, _NORMAL_CALL_SECONDS)

    def spend(self, seconds: float) -> bool:
        """Subtract the duration of a call, in seconds; return whether any wait time is left."""
        self._remaining = max(self._remaining - max(seconds - _NORMAL_CALL_SECONDS, 0), 0)
        return self._remaining > 0


def _is_out_of_memory(error: Exception) -> bool:
    from redis.exceptions import OutOfMemoryError

    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


def _reason(error: Exception) -> str:
    """Describe an error for the log without the library's text, which may contain secrets."""
    from redis import exceptions

    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return "it refuses the user or the password"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "it does not answer in time"
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "it cannot be reached"
    return f"it returns an error ({type(error).__name__})"
