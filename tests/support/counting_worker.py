"""
A worker that reports its number of greenlets when it receives a signal.

It caches few responses, so that this memory is full within seconds and does not look like a leak.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

import gevent
import greenlet

from docker_registry.server.response_cache import ResponseCache
from docker_registry.server.worker import RegistryWorker

#: The folder where a worker writes its count, in a file named by its process id.
FOLDER = "COUNTS_FOLDER"


class CountingWorker(RegistryWorker):
    KEPT_BYTES = 1024 * 1024

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._cache = ResponseCache(self.KEPT_BYTES)

    def run(self):
        gevent.signal_handler(signal.SIGUSR2, self._count)
        super().run()

    def _count(self):
        gc.collect()
        here = gevent.getcurrent()
        kinds = Counter(
            f"{type(each).__module__}.{type(each).__qualname__}"
            for each in gc.get_objects()
            if isinstance(each, greenlet.greenlet) and each and each is not here
        )
        path = Path(os.environ[FOLDER]) / str(os.getpid())
        path.with_suffix(".new").write_text(json.dumps(kinds))
        path.with_suffix(".new").replace(path)
