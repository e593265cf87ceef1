"""How orchestrators learn whether a worker lives, is ready, and is stopping."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import pytest
import requests

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageUnavailable
from docker_registry.services import build
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

    def test_is_ready_with_a_store_that_is_full(self, services, store, statuses):
        store.is_full = True
        services.health.check()
        assert [200, 200, 200, 200] == statuses()

    def test_tells_which_check_failed(self, services, store):
        store.is_away = True
        for _ in range(3):
            services.health.check()
        client = create_app(services).test_client()
        assert ["storage"] == list(client.get("/debug/health").json)
        assert ["storage"] == list(client.get("/readyz").json["problems"])


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
        with Server(tmp_path / "store", workers=2, REGISTRY_DRAIN_DELAY="20s") as server:
            is_over, statuses, errors = threading.Event(), Counter(), []

            def work(number):
                url = f"{server.url}/v2/acme/web/manifests/v{number}"
                with requests.Session() as session:
                    while not is_over.is_set():
                        try:
                            statuses[session.put(url, data=MANIFEST, headers=TYPE, timeout=20).status_code] += 1
                            statuses[session.get(url, timeout=20).status_code] += 1
                            statuses[requests.get(f"{server.url}/readyz", timeout=20).status_code] += 1
                        except requests.RequestException as error:
                            errors.append(error)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(3):
                before = set(server.worker_pids())
                server.process.send_signal(signal.SIGHUP)
                deadline = time.monotonic() + 30
                while before & set(server.worker_pids()) and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not before & set(server.worker_pids())
            is_over.set()
            for thread in threads:
                thread.join()
            assert [] == errors
            assert {200, 201} == set(statuses)
            server.kill()  # rather than wait for the drain delay
