"""How orchestrators learn whether a worker lives, is ready, and is stopping."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import requests

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageUnavailable
from docker_registry.services import build
from tests.support.gevent_program import under_gevent
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
PATHS = ("/livez", "/readyz", "/startupz", "/debug/health")


class Store(MemoryDriver):
    """A store that cannot be read while it is away, and cannot be written once it is full."""

    is_away = False
    is_full = False

    def get_content(self, path):
        if self.is_away:
            raise StorageUnavailable
        return super().get_content(path)

    def put_content(self, path, content, **options):
        assert not self.is_full
        return super().put_content(path, content, **options)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def services(store):
    with build(Config(storage="memory"), store) as services:
        yield services


@pytest.fixture
def statuses(services):
    """Return the status of each path."""
    client = create_app(services).test_client()
    return lambda: [client.get(path).status_code for path in PATHS]


class TestAWorker:
    def test_has_not_started_before_the_store_could_be_read(self, services, store, statuses):
        store.is_away = True
        services.health.check()
        assert [200, 200, 503, 200] == statuses()
        store.is_away = False
        services.health.check()
        assert [200, 200, 200, 200] == statuses()

    def test_is_not_ready_after_three_failures(self, services, store, statuses):
        services.health.check()
        store.is_away = True
        services.health.check()
        services.health.check()
        assert [200, 200, 200, 200] == statuses()
        services.health.check()
        assert [200, 503, 200, 503] == statuses()
        store.is_away = False
        services.health.check()
        assert [200, 200, 200, 200] == statuses()

    @pytest.mark.parametrize("seconds", [50, 0.05])  # without an end, and with an error after the time limit
    def test_is_not_ready_while_reads_hang_in_a_native_thread(self, seconds):
        program = """
import sys

from docker_registry.concurrency import run_in_thread
from docker_registry.errors import StorageUnavailable
from docker_registry.http import health

def read():
    run_in_thread(native_sleep, float(sys.argv[1]))
    raise StorageUnavailable

health.PROBE_SECONDS = health.STARTUP_PROBE_SECONDS = 0.02
worker = health.Health(read)
gevent.spawn(worker.watch)
with gevent.Timeout(5):
    while not worker.problems():
        gevent.sleep(0.02)
print(*worker.problems())
"""
        assert ["storage"] == under_gevent(program, str(seconds), errors=True)

    def test_is_ready_with_a_store_that_is_full(self, services, store, statuses):
        store.is_full = True
        services.health.check()
        assert [200, 200, 200, 200] == statuses()

    def test_names_the_failed_check(self, services, store):
        store.is_away = True
        for _ in range(3):
            services.health.check()
        client = create_app(services).test_client()
        assert ["storage"] == list(client.get("/debug/health").json)
        assert ["storage"] == list(client.get("/readyz").json["problems"])


def late_request(server):
    """Return the status of a request over a new connection that is idle for a second first."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        time.sleep(1)
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: r\r\n\r\n")
        return int(connection.recv(12)[9:])


@contextmanager
def slow_upload(server):
    """Begin a PATCH of an upload; yield a function that sends the rest and returns the beginning of the response."""
    location = requests.post(f"{server.url}/v2/acme/web/blobs/uploads/", timeout=60).headers["Location"]
    path = location.removeprefix(server.url)
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(f"PATCH {path} HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\na".encode())

        def finish():
            connection.sendall(b"b")
            return connection.recv(13)

        yield finish


class TestAServerThatStops:
    def test_drains_its_connections_first(self, tmp_path):
        with Server(tmp_path / "store", workers=2, REGISTRY_DRAIN_DELAY="1m") as server, requests.Session() as session:
            session.get(f"{server.url}/v2/", timeout=20)
            assert [200] * 4 == [requests.get(server.url + path, timeout=20).status_code for path in PATHS]
            server.process.send_signal(signal.SIGTERM)

            def closing(client):
                """Get a cached response, and return whether its connection is closed."""
                answer = client.get(f"{server.url}/v2/", timeout=20)
                assert 200 == answer.status_code
                return "close" == answer.headers.get("Connection")

            wait_until(lambda: closing(session))  # over a connection that was open before
            wait_until(lambda: all(closing(requests) for _ in range(10)))  # both workers, over new connections
            ready = requests.get(f"{server.url}/readyz", timeout=20)
            assert (503, ["draining"]) == (ready.status_code, list(ready.json()["problems"]))
            assert 200 == requests.get(f"{server.url}/livez", timeout=20).status_code
            for worker in server.worker_pids():
                os.kill(worker, signal.SIGTERM)
            assert 0 == server.process.wait(60)
        assert "/readyz" not in server.log.read_text()

    def test_loses_no_request_when_a_reload_replaces_workers(self, tmp_path):
        config = tmp_path / "config.yml"
        shutil.copy(Server(tmp_path).root / "config" / "config_sample.yml", config)
        environment = {"DOCKER_REGISTRY_CONFIG": str(config), "REGISTRY_DRAIN_DELAY": "20s"}
        with Server(tmp_path / "store", workers=2, new_interpreter=True, **environment) as server:
            is_over, statuses, errors = threading.Event(), Counter(), []

            def work(number):
                url = f"{server.url}/v2/acme/web/manifests/v{number}"
                with requests.Session() as session:
                    while not is_over.is_set():
                        try:
                            statuses[session.put(url, data=MANIFEST, headers=TYPE, timeout=60).status_code] += 1
                            statuses[session.get(url, timeout=60).status_code] += 1
                            statuses[late_request(server)] += 1
                        except OSError as error:
                            errors.append(error)

            with slow_upload(server) as finish:
                threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
                for thread in threads:
                    thread.start()
                for _ in range(2):
                    before = set(server.worker_pids())
                    server.process.send_signal(signal.SIGHUP)
                    # The worker of the slow upload stays.
                    wait_until(lambda before=before: len(before & set(server.worker_pids())) <= 1)
                before = set(server.worker_pids())
                config.write_text("dev: [", "utf-8")
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda: "Not reloaded" in server.log.read_text())
                assert before == set(server.worker_pids())
                is_over.set()
                for thread in threads:
                    thread.join()
                assert [] == errors
                assert {200, 201} == set(statuses)
                assert b"HTTP/1.1 202 " == finish()
            server.kill()  # rather than wait for the drain delay
