"""
What a Redis that fails may cost: one warning, and a tenth of a second.

The first failure opens the circuit: nobody waits for that Redis any more, until a pause is over and one call tries it
again. A Redis that answers, but late, fails too, once it has cost too much.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import gevent
from gevent import monkey

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: What all calls of one request may cost together, beyond what a call costs on a good day.
PATIENCE_SECONDS: Final = 0.1
_GOOD_CALL_SECONDS: Final = 0.005

#: Outside of requests patience comes back by so much in each second: commands and housekeeping never end.
_RECOVERY: Final = 0.1

PAUSE_SECONDS: Final = 5.0


class Away(Exception):
    """The Redis cannot be used for now."""


class Full(Exception):
    """The Redis has no room for anything new; what it has can be read and removed."""


class Circuit:
    """The way to a Redis, for all greenlets or threads of a process."""

    def __init__(
        self,
        redis: Redis,
        place: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """
        Args:
            place: where it is, for the log.
            patience_seconds: how long a request waits for it in all.
            pause_seconds: how long it is left alone after a failure.
        """
        self._redis = redis
        self._place = place
        self._pause_seconds = pause_seconds
        self._patience = _Patience(patience_seconds)
        self._retry_at: float | None = None
        self._was_full = False

    def call(self, work: Callable[[Redis], Answer]) -> Answer:
        """
        Let somebody use the Redis.

        Raises:
            Away: it failed just now, or the pause after a failure is not over.
            Full: it has no room.
        """
        from redis.exceptions import RedisError

        is_trial = self._retry_at is not None
        if self._retry_at is not None:
            if time.monotonic() < self._retry_at:
                raise Away
            self._retry_at = time.monotonic() + self._pause_seconds  # the others go on without it meanwhile
        started, worked = time.monotonic(), time.process_time()
        try:
            with _deadline(self._patience.left()):
                answer = work(self._redis)
        except (RedisError, OSError) as error:
            if _says_full(error):
                self._note_full(True)
                raise Full from None
            self._patience.spend(time.monotonic() - started)
            self._open(_reason(error))
            raise Away from None
        # While this process works on something else it cannot hear an answer: that is not the fault of the Redis.
        seconds = time.monotonic() - started - (time.process_time() - worked)
        if not self._patience.spend(seconds) and seconds > _GOOD_CALL_SECONDS:
            self._open("it is too slow")
        elif is_trial:  # anybody else may have asked before it failed
            self._close()
        return answer

    def begin_request(self) -> None:
        """Say that what this greenlet, or thread, does from now on is another request."""
        self._patience.begin()

    def note_room(self) -> None:
        """Say that something new has found room."""
        if self._was_full:
            self._note_full(False)

    def _note_full(self, is_full: bool) -> None:
        if is_full and not self._was_full:
            logger.warning("the Redis at %s is full and takes nothing new; should it evict (allkeys-lru)?", self._place)
        elif not is_full:
            logger.info("the Redis at %s has room again", self._place)
        self._was_full = is_full

    def _open(self, reason: str) -> None:
        if self._retry_at is None:
            logger.warning(
                "the Redis at %s cannot be used: %s; the store is asked instead, and it again every %g seconds",
                self._place,
                reason,
                self._pause_seconds,
            )
        self._retry_at = time.monotonic() + self._pause_seconds
        # Connections to a server that was restarted are dead, each of them.
        self._redis.connection_pool.disconnect(inuse_connections=False)

    def _close(self) -> None:
        if self._retry_at is not None:
            self._retry_at = None
            logger.info("the Redis at %s is back", self._place)


class _Patience(threading.local):
    """How much longer one greenlet, or thread, waits. Under gevent each greenlet has its own."""

    def __init__(self, seconds: float) -> None:
        self._most = self._left = seconds
        self._recovery = _RECOVERY
        self._seen = time.monotonic()

    def begin(self) -> None:
        """Be patient again, and then no more before the next request."""
        self._left = self._most
        self._recovery = 0.0

    def left(self) -> float:
        """Return how long a call may take."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._seen) * self._recovery, self._most)
        self._seen = now
        return max(self._left, _GOOD_CALL_SECONDS)

    def spend(self, seconds: float) -> bool:
        """Take the time that a call took; tell whether something is left."""
        self._left = max(self._left - max(seconds - _GOOD_CALL_SECONDS, 0), 0)
        return self._left > 0


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """
    End what takes longer with a :class:`TimeoutError`.

    Looking up a name, connecting, introducing oneself and the answer count together, which only gevent can see to;
    elsewhere, in commands, each of them has the time-out of the socket.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    timeout = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as raised:
        if raised is not timeout:
            raise
        raise TimeoutError from None
    finally:
        timeout.close()


def _says_full(error: Exception) -> bool:
    from redis.exceptions import OutOfMemoryError

    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


def _reason(error: Exception) -> str:
    """Say in our words what is wrong: nobody knows what the library's text shows."""
    from redis import exceptions

    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return "it refuses the user or the password"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "it does not answer in time"
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "it cannot be reached"
    return f"it does not do what it is asked ({type(error).__name__})"
