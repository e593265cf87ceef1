"""The messages of a worker that ends."""

from __future__ import annotations

from tests.support.gevent_program import under_gevent

#: As in gunicorn's process of a worker: an error ends it, is logged, and no greenlet runs any more.
FAILURE = """
import logging, os, sys
from gunicorn.config import Config
from docker_registry.logs.setup import start_logging
from docker_registry.server.access_log import AccessLog
from docker_registry.server.worker import RegistryWorker

class FailingWorker(RegistryWorker):
    def notify(self):
        self.log.info("serving")
        raise RuntimeError("no more requests")

class Observer:
    def __init__(self, name):
        self.name = name

    def __call__(self, exchange):
        pass

    def close(self):
        logging.getLogger("docker_registry").warning("closing %s", self.name)
        if self.name == "first":
            raise ValueError("cannot be closed")

class Application:
    observers = (Observer("first"), Observer("second"))

sys.stderr = sys.stdout
log = AccessLog(Config())
start_logging("info")
worker = FailingWorker(1, os.getppid(), [], None, 30, log.cfg, log)
worker.wsgi = Application()
try:
    worker.run()
except RuntimeError:
    log.exception("Exception in worker process")
log.info("Worker exiting")
os._exit(0)
"""


class TestAWorkerThatFails:
    def test_logs_its_last_messages(self):
        words = " ".join(under_gevent(FAILURE))
        assert "ValueError: cannot be closed" in words
        assert "RuntimeError: no more requests" in words.partition("Exception in worker process")[2]
        expected = ("serving", "closing first", "closing second", "Exception in worker process", "Worker exiting")
        places = [words.find(each) for each in expected]
        assert -1 not in places, words
        assert sorted(places) == places
