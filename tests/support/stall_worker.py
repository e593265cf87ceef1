"""
The worker that measures how long its event loop is blocked, in processor time, and writes it when it gets a signal.

Processor time does not depend on what else runs on the machine. It counts all that ran before the measuring greenlet
got its turn, so it is the time that any new request has to wait.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import gevent

from docker_registry.server.worker import RegistryWorker

#: The variable with the folder where a worker writes the seconds of its longest stall, in a file named by its process
#: id, upon SIGUSR2.
FOLDER = "STALLS_FOLDER"


class StallWorker(RegistryWorker):
    longest_seconds = 0.0

    def run(self):
        gevent.signal_handler(signal.SIGUSR2, self._write)
        gevent.spawn(self._measure)
        super().run()

    def _measure(self):
        while True:
            before = time.thread_time()
            gevent.sleep(0.002)
            self.longest_seconds = max(self.longest_seconds, time.thread_time() - before)

    def _write(self):
        path = Path(os.environ[FOLDER]) / str(os.getpid())
        path.with_suffix(".new").write_text(str(self.longest_seconds))
        path.with_suffix(".new").replace(path)
        self.longest_seconds = 0.0
