"""
How brief disk waits run beside the requests that a worker is answering.

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

#: After several calls in a row that took longer, the disk counts as slow for a while.
_LONG_SECONDS: Final = 0.003
_LONG_CALLS: Final = 3
_SLOW_SECONDS: Final = 60.0


class BriefCalls:
    """
    Runs calls that wait for a disk, usually for less than a millisecond.

    It is the ``run_brief`` of a storage driver (:attr:`~docker_registry.drivers.base.StorageDriver.run_brief`).

    Attributes:
        has_lone_client: returns whether the worker serves a single client. It is set by
            :class:`~docker_registry.server.worker.RegistryWorker`; in any other worker no client counts as alone.
    """

    def __init__(self) -> None:
        self.has_lone_client: Callable[[], bool] = lambda: False
        self._long_calls = 0  # consecutive ones, up to the latest call
        self._slow_until = 0.0

    def __call__(self, function: Callable[..., Result], /, *args: Any) -> Result:
        """Call a function, directly or through :func:`run_in_thread`, and return its result."""
        began = time.monotonic()
        if not self.has_lone_client() or began < self._slow_until:
            return run_in_thread(function, *args)
        dependencies.make_uncacheable()  # as in a thread: reads that serve a write must not make a response cacheable
        try:
            return function(*args)
        finally:
            ended = time.monotonic()
            self._long_calls = self._long_calls + 1 if ended - began > _LONG_SECONDS else 0
            if self._long_calls == _LONG_CALLS:
                self._long_calls, self._slow_until = 0, ended + _SLOW_SECONDS
