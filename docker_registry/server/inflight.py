"""
The requests that a worker is answering, and how brief disk waits run beside them.

Disk waits normally run in a native thread while other requests proceed (:mod:`docker_registry.concurrency`). Handing a
call over to a thread and back takes as long as a fast disk does. While a worker serves one request of one client,
waiting on the event loop delays no other request; a request that arrives in that moment waits about as long as for any
other work. So a PUT of a manifest by a lone client is 1.05 to 1.1 times faster on a fast disk, and not slower on a slow
one. Calls go to threads while several clients alternate, so that their changes can be synced together, and for a while
after the disk was slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from docker_registry import dependencies
from docker_registry.concurrency import run_in_thread

Result = TypeVar("Result")

#: For this time after requests on two connections, no client counts as alone.
_COMPANY_SECONDS: Final = 1.0

#: After several calls in a row that took longer, the disk counts as slow for a while.
_LONG_SECONDS: Final = 0.003
_LONG_CALLS: Final = 3
_SLOW_SECONDS: Final = 60.0


class InflightRequests:
    """
    Tracks the requests that a worker is answering.

    Only :class:`~docker_registry.server.worker.RegistryWorker` reports them; in any other worker no client counts as
    alone.

    Attributes:
        count: number of requests in progress.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._connection = -1
        self._last_at = -_COMPANY_SECONDS
        self._company_until = 0.0

    def begin(self, connection: int) -> None:
        """Record that the answering of a request begins; *connection* identifies its connection."""
        self.saw(connection)
        self.count += 1

    def end(self) -> None:
        """Record that a request has been answered."""
        self.count -= 1

    def saw(self, connection: int) -> None:
        """Record a request without counting it as in progress, such as one answered from the response cache."""
        now = self._clock()
        if connection != self._connection:
            if now < self._last_at + _COMPANY_SECONDS:
                self._company_until = now + _COMPANY_SECONDS
            self._connection = connection
        self._last_at = now

    @property
    def has_lone_client(self) -> bool:
        """Whether one connection sends all requests: one is in progress, and no other connection sent one recently."""
        return self.count == 1 and self._clock() >= self._company_until


class BriefCalls:
    """
    Runs calls that wait for a disk, usually for less than a millisecond.

    It is the ``run_brief`` of a storage driver (:attr:`~docker_registry.drivers.base.StorageDriver.run_brief`).
    """

    def __init__(self, requests: InflightRequests) -> None:
        self._requests = requests
        self._long_calls = 0  # consecutive ones, up to the latest call
        self._slow_until = 0.0

    def __call__(self, function: Callable[..., Result], /, *args: Any) -> Result:
        """Call a function, directly or through :func:`run_in_thread`, and return its result."""
        began = time.monotonic()
        if not self._requests.has_lone_client or began < self._slow_until:
            return run_in_thread(function, *args)
        dependencies.make_uncacheable()  # as in a thread: reads that serve a write must not make a response cacheable
        try:
            return function(*args)
        finally:
            ended = time.monotonic()
            self._long_calls = self._long_calls + 1 if ended - began > _LONG_SECONDS else 0
            if self._long_calls == _LONG_CALLS:
                self._long_calls, self._slow_until = 0, ended + _SLOW_SECONDS
