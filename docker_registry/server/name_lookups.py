"""
Lookups of host names in threads of their own.

gevent looks names up in the pool of native threads in which files are written, too. A name server that does not answer
holds a thread for many seconds at each lookup; ten of these would hold up all requests that change the store.
"""

from __future__ import annotations

from typing import Final

import gevent
from gevent.resolver.thread import Resolver
from gevent.threadpool import ThreadPool

#: Names that a worker looks up at the same time.
MAX_LOOKUPS: Final = 10


def use_own_threads() -> None:
    """Have the current thread's event loop look names up in threads that do nothing else."""
    resolver = gevent.get_hub().resolver
    if isinstance(resolver, Resolver):  # another one may be chosen by GEVENT_RESOLVER
        resolver.pool = ThreadPool(MAX_LOOKUPS)
