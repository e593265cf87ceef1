"""Thousands of pushes and pulls while servers are reloaded, stopped and started: none fails."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import threading

import pytest
import requests

from tests.support.servers.nginx import running_nginx
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

TYPE = "application/vnd.oci.image.manifest.v1+json"
CLIENTS = 4
PUSHES = 2500  # each followed by a pull
RELOADS = 20
STOPS = 4


class Traffic:
    """Clients that push and pull a given number of images of one layer; a context manager."""

    def __init__(self, url):
        self.url = url
        self.failures = []
        self.done = 0
        self._numbers = iter(range(PUSHES))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._act) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._numbers = iter(())
        for thread in self._threads:
            thread.join()

    def wait_for(self, share):
        """Wait until a share of all pushes and pulls is done."""
        wait_until(lambda: self.done >= PUSHES * share, lambda: (self.done, self.failures[:3]), seconds=900)

    def _act(self):
        with requests.Session() as session:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                try:
                    self._push_and_pull(session, number)
                except (requests.RequestException, AssertionError) as error:
                    self.failures.append((number, repr(error)))
                with self._lock:
                    self.done += 1

    def _push_and_pull(self, session, number):
        layer = f"layer {number}".encode()
        digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
        descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)}
        content = json.dumps({"schemaVersion": 2, "mediaType": TYPE, "config": descriptor, "layers": [descriptor]})
        start = session.post(f"{self.url}/v2/acme/web/blobs/uploads/", timeout=120)
        assert 202 == start.status_code, start.text
        place = requests.compat.urljoin(self.url, start.headers["Location"])
        put = session.put(place, params={"digest": digest}, data=layer, timeout=120)
        assert 201 == put.status_code, put.text
        manifest = f"{self.url}/v2/acme/web/manifests/v{number % 100}-{threading.get_ident()}"
        put = session.put(manifest, data=content, headers={"Content-Type": TYPE}, timeout=120)
        assert 201 == put.status_code, put.text
        get = session.get(manifest, headers={"Accept": TYPE}, timeout=120)
        assert (200, content) == (get.status_code, get.text)
        assert layer == session.get(f"{self.url}/v2/acme/web/blobs/{digest}", timeout=120).content


@pytest.mark.slow
class TestNoRequestFails:
    def test_while_a_server_is_reloaded(self, tmp_path):
        with Server(tmp_path / "store", workers=2) as server, Traffic(server.url) as traffic:
            for turn in range(RELOADS):
                before = set(server.worker_pids())
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda before=before: set(server.worker_pids()) - before)
                traffic.wait_for((turn + 1) / RELOADS)
            assert [] == traffic.failures

    def test_while_one_of_two_hosts_is_stopped_and_started(self, tmp_path):
        (tmp_path / "nginx").mkdir()
        hosts = [Server(tmp_path / "store", REGISTRY_DRAIN_DELAY="1") for _ in range(2)]
        # A restarted host receives requests at once, instead of after ten seconds.
        nginx = running_nginx(tmp_path / "nginx", [host.port for host in hosts], options="max_fails=0")
        with hosts[0], hosts[1], nginx as url, Traffic(url) as traffic:
            for turn, host in zip(range(STOPS), itertools.cycle(hosts)):
                host.stop()
                traffic.wait_for((turn + 0.5) / STOPS)
                host.start()
                traffic.wait_for((turn + 1) / STOPS)
            assert [] == traffic.failures
