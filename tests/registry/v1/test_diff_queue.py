"""The queue of diffs in a real Redis."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time

import pytest

from docker_registry.config.schema import Config
from docker_registry.config.sections import Cache
from docker_registry.errors import ConfigError, StorageUnavailable
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.diff_queue import RedisDiffQueue
from docker_registry.services import open_diff_queue
from tests.support.processes import free_port
from tests.support.servers.redis import PASSWORD, redis_server  # noqa: F401 - a fixture

FIRST, SECOND = ImageId("1" * 64), ImageId("2" * 16)


def open_queue(port, password=None):
    return open_diff_queue(Config(cache=Cache(host="127.0.0.1", port=port, password=password)))


@pytest.fixture
def queue(redis_server):  # noqa: F811
    queue = open_queue(redis_server.port, PASSWORD)
    queue._redis.flushdb()
    yield queue
    queue._redis.close()


@pytest.fixture
def nowhere():
    return open_queue(free_port())


class TestAnImage:
    def test_is_processed_in_order(self, queue):
        for image_id in (FIRST, SECOND):
            queue.push(image_id)
        assert [FIRST, SECOND, None] == [queue.pop(1) for _ in range(3)]

    def test_is_queued_in_the_format_of_0_7_1(self, queue):
        queue.push(FIRST)
        assert [json.dumps(str(FIRST)).encode()] == queue._redis.lrange("diff-worker", 0, -1)

    def test_is_queued_once(self, queue):
        for image_id in (FIRST, SECOND, FIRST):
            queue.push(image_id)
        assert [SECOND, FIRST, None] == [queue.pop(1) for _ in range(3)]

    def test_that_is_oldest_is_dropped_from_a_full_queue(self, queue):
        for number in range(1030):
            queue.push(ImageId(f"{number:064x}"))
        assert 1024 == queue._redis.llen("diff-worker")
        assert ImageId(f"{6:064x}") == queue.pop(1)


class TestAWaitingWorker:
    def test_waits_longer_than_a_request(self, queue):
        pusher = threading.Timer(3, queue.push, [FIRST])
        pusher.start()
        started = time.monotonic()
        assert FIRST == queue.pop(60)
        assert time.monotonic() - started < 50
        pusher.join()


class TestAForeignEntry:
    @pytest.mark.parametrize("element", [b"", b"{", b"7", b'"x"', b"[]", b"\xff"])
    def test_is_skipped(self, queue, element):
        queue._redis.lpush("diff-worker", element)
        assert None is queue.pop(1)


class TestUnreachableRedis:
    def test_is_logged_and_fails_no_push(self, nowhere, caplog):
        with caplog.at_level(logging.WARNING):
            nowhere.push(FIRST)
        assert str(FIRST) in caplog.text

    def test_is_not_asked_again_for_a_while(self, caplog):
        seconds = [0.0]
        queue = RedisDiffQueue(open_queue(free_port())._redis, now=lambda: seconds[0])
        for second, lines in ((0, 1), (0, 1), (9, 1), (11, 2), (12, 2)):
            seconds[0] = second
            queue.push(FIRST)
            assert lines == len(caplog.records)

    def test_that_accepts_but_never_answers_times_out(self, caplog):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            queue = open_queue(silent.getsockname()[1])
            started = time.monotonic()
            queue.push(FIRST)
            with pytest.raises(StorageUnavailable):
                queue.ping()
            assert time.monotonic() - started < 30
        assert str(FIRST) in caplog.text

    def test_is_reported_to_workers_and_in_the_status(self, nowhere):
        with pytest.raises(StorageUnavailable):
            nowhere.pop(1)
        with pytest.raises(StorageUnavailable):
            nowhere.ping()


class TestWithoutTheLibrary:
    def test_the_start_names_the_package_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ConfigError, match=r"pip install 'docker-registry\[redis\]'"):
            open_queue(1)
