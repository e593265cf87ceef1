"""
Lookups of host names in threads of their own.

gevent looks names up in the pool of native threads in which files are written, too. A name server that does not answer
holds a thread for many seconds at each lookup; ten of these would hold up all requests that change the store. Requests
that look up the same name at the same time share a thread, so that a name that cannot be looked up does not hold up the
lookups of others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

import gevent
from gevent.resolver.thread import Resolver
from gevent.threadpool import ThreadPool

#: Names that a worker looks up at the same time.
MAX_LOOKUPS: Final = 10


class LookupThreads(ThreadPool):
    """Threads that look names up; equal lookups at the same time are one."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._lookups: dict[Hashable, gevent.Greenlet[..., Callable[[], Any]]] = {}

    def apply(
        self, func: Callable[..., Any], args: tuple[Any, ...] | None = None, kwds: dict[str, Any] | None = None
    ) -> Any:
        """Call a function in a thread, or wait for an equal call; return its result or raise its error."""
        key = func, args, tuple(sorted((kwds or {}).items()))
        lookup = self._lookups.get(key)
        if lookup is None:  # in a greenlet, because the first caller may be killed while others wait
            lookup = self._lookups[key] = gevent.spawn(self._outcome, key, func, args, kwds)
        return lookup.get()()

    def _outcome(
        self, key: Hashable, func: Callable[..., Any], args: tuple[Any, ...] | None, kwds: dict[str, Any] | None
    ) -> Callable[[], Any]:
        """Call a function in a thread, and return a function that returns its result or raises its error."""
        try:
            result = super().apply(func, args, kwds)
        except Exception as error:  # noqa: BLE001 - the callers get it
            failure = error
        else:
            return lambda: result
        finally:
            del self._lookups[key]

        def fail() -> Any:
            raise failure.with_traceback(None)

        return fail


def use_own_threads() -> None:
    """Have the current thread's event loop look names up in threads that do nothing else."""
    resolver = gevent.get_hub().resolver
    if isinstance(resolver, Resolver):  # another one may be chosen by GEVENT_RESOLVER
        resolver.pool = LookupThreads(MAX_LOOKUPS)
