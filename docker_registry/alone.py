"""
Whether a worker has one client alone, who may then wait for a quick disk where it is.

What waits for a disk is done in a native thread, and other requests go on meanwhile (:mod:`docker_registry.threads`).
To hand it over, and to hear of its end, takes as long as a quick disk does. Who is alone holds nobody up by waiting at
once; only who comes at that very moment waits as well, about as long as for any other work. It is not done while
several clients come in turns, whose changes reach the disk together in threads, nor on a disk that was slow just now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from docker_registry import provenance
from docker_registry.threads import in_thread

Result = TypeVar("Result")

#: So long after two clients were there none counts as alone.
_COMPANY_SECONDS: Final = 1.0

#: A disk that keeps somebody waiting for so long, several times in a row, counts as slow for a while.
_LONG_SECONDS: Final = 0.003
_LONG_CALLS: Final = 3
_SLOW_SECONDS: Final = 60.0


class Answering:
    """The requests that a worker answers. In a worker that is not ours nobody tells of them, and nobody is alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._connection = -1
        self._noted = -_COMPANY_SECONDS
        self._company_until = 0.0

    def begin(self, connection: int) -> None:
        """Tell that a request came over a connection, by its descriptor, and will be answered until :meth:`end`."""
        self.note(connection)
        self._count += 1

    def end(self) -> None:
        """Tell that a request has been answered."""
        self._count -= 1

    def note(self, connection: int) -> None:
        """Tell that a request came over a connection, and was answered at once."""
        now = self._clock()
        if connection != self._connection:
            if now < self._noted + _COMPANY_SECONDS:
                self._company_until = now + _COMPANY_SECONDS
            self._connection = connection
        self._noted = now

    @property
    def is_one_alone(self) -> bool:
        """Whether there is one request, and was none over another connection just before."""
        return self._count == 1 and self._clock() >= self._company_until


#: Those of this process.
answering: Final = Answering()


class Brief:
    """Calls of one kind that wait for a disk, as a rule for less than a millisecond."""

    def __init__(self, requests: Answering = answering) -> None:
        self._requests = requests
        self._long_calls = 0  # the latest ones, in a row
        self._slow_until = 0.0

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call such a function, in this thread or as :func:`in_thread` does, and return its result."""
        began = time.monotonic()
        if not self._requests.is_one_alone or began < self._slow_until:
            return in_thread(function, *args)
        provenance.spoil()  # as in a thread: what is read on the way to a change makes no answer
        try:
            return function(*args)
        finally:
            ended = time.monotonic()
            self._long_calls = self._long_calls + 1 if ended - began > _LONG_SECONDS else 0
            if self._long_calls == _LONG_CALLS:
                self._long_calls, self._slow_until = 0, ended + _SLOW_SECONDS
