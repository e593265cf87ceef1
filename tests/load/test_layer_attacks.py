"""Layers that are cheap to send and expensive to read, on a real server that other clients use meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.registry.layers.test_limits import zstd_zeros
from tests.support.clients.v2 import digest_of
from tests.support.layers import COMPRESS, member, tar
from tests.support.processes import children, memory_bytes
from tests.support.servers.registry import Server
from tests.support.timing import Latency, wait_until
from tests.support.v1_images import make

MIB = 1024 * 1024

#: Requirements during an attack.
MAX_WORKER_BYTES = 300 * MIB
MAX_LATENCY_SECONDS = 0.25


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("attacks") / "store", workers=2, new_interpreter=True) as server:
        yield server


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """An idle server."""
    with Server(tmp_path_factory.mktemp("idle") / "store") as server:
        yield server


def push(server, image):
    path = f"{server.url}/v1/images/{image.text}"
    requests.put(f"{path}/json", image.payload, timeout=30).raise_for_status()
    requests.put(f"{path}/layer", image.layer, timeout=30).raise_for_status()
    headers = {"X-Docker-Checksum-Payload": image.payload_sum}
    requests.put(f"{path}/checksum", headers=headers, timeout=30).raise_for_status()


class Honest:
    """Clients that push and pull within this context."""

    def __init__(self, server, idle):
        self._server = server
        self._stopped = threading.Event()
        self._latency = Latency(server.url, idle.url)
        self.pushes, self.errors = 0, []

    def __enter__(self):
        for pid in self._server.worker_pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
        self._thread = threading.Thread(target=self._push)
        self._thread.start()
        self._latency.__enter__()
        return self

    def __exit__(self, *error):
        self._stopped.set()
        self._thread.join()
        self._latency.__exit__(*error)
        assert [] == self.errors
        assert self.pushes
        self._latency.assert_below(MAX_LATENCY_SECONDS)
        assert max(memory_bytes(pid, "VmHWM") for pid in self._server.worker_pids()) < MAX_WORKER_BYTES

    def _push(self):
        with requests.Session() as session:
            while not self._stopped.is_set():
                content = b"%d" % self.pushes * 100_000
                url = f"{self._server.url}/v2/honest/blobs/uploads/?digest={digest_of(content)}"
                try:
                    session.post(url, data=content, timeout=60).raise_for_status()
                except Exception as error:  # noqa: BLE001 - told when the clients have stopped
                    self.errors.append(error)
                    return
                self.pushes += 1


def header(kind):
    described, _ = member("x", kind)
    return described.tobuf()


class TestDecompressionBombs:
    def test_do_not_affect_others_and_are_stored_without_being_read(self, server, idle):
        bomb = zstd_zeros(1 << 30) * 32
        with Honest(server, idle):
            for number in range(4):
                image = make(100 + number, layer=bomb + b"\0" * number)
                push(server, image)
                path = f"{server.url}/v1/repositories/lab/bomb/tags/v{number}"
                requests.put(path, json.dumps(image.text), timeout=30).raise_for_status()
            answer = requests.get(f"{server.url}/v2/lab/bomb/manifests/v0", timeout=120)
        assert answer.status_code >= 400
        assert bomb == requests.get(f"{server.url}/v1/images/{make(100).text}/layer", timeout=30).content

    def test_are_rejected_once(self, server):
        image = make(200, layer=COMPRESS["zstd"](header(b"x") * (1 << 17)) * 16)
        push(server, image)
        for _ in range(2):
            answer = requests.get(f"{server.url}/v1/images/{image.text}/files", timeout=60)
            assert (413, True) == (answer.status_code, "extended headers" in answer.json()["error"])

    @pytest.mark.parametrize("files", [15_000, pytest.param(40_000, marks=pytest.mark.slow)])
    def test_within_the_limits_do_not_affect_others(self, server, idle, files):
        layers = [COMPRESS["zstd"](header(b"0") * files + bytes(number)) for number in (0, 512, 1024)]
        images = [make(300 + files + number, layer=layer) for number, layer in enumerate(layers)]
        for image in images:
            push(server, image)
        with Honest(server, idle), ThreadPoolExecutor(4) as pool:
            urls = [f"{server.url}/v1/images/{image.text}/files" for image in images]
            answers = list(pool.map(lambda url: requests.get(url, timeout=120), urls))
        assert {200, 503} >= {answer.status_code for answer in answers}
        assert 200 in {answer.status_code for answer in answers}


class TestDecompressionWindows:
    def test_of_open_pushes_use_no_memory(self, server, idle):
        with Honest(server, idle):
            connections = []
            for number in range(20):
                image = make(400 + number)
                url = f"{server.url}/v1/images/{image.text}/json"
                requests.put(url, image.payload, timeout=30).raise_for_status()
                head = f"PUT /v1/images/{image.text}/layer HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
                frame = b"\x28\xb5\x2f\xfd\0" + bytes([(27 - 10) << 3])
                raw = (struct.pack("<I", 131072 << 3)[:3] + bytes(131072)) * 18
                connections.append(socket.create_connection(("127.0.0.1", server.port)))
                connections[-1].sendall(head.encode() + frame + raw)
            time.sleep(1)
        for connection in connections:
            connection.close()


class TestADisconnectedClient:
    def test_ends_the_computation_for_it(self, server):
        image = make(500, layer=COMPRESS["zstd"](header(b"0") * 200_000))
        push(server, image)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"GET /v1/images/{image.text}/files HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            self.wait(server, lambda busy: busy)
        self.wait(server, lambda busy: not busy)

    def wait(self, server, condition):
        """Wait until the processes that read layers are busy, or idle."""
        wait_until(lambda: condition(self.is_busy(server)))

    def is_busy(self, server):
        before = self.ticks(server)
        time.sleep(0.5)
        return any(ticks - before.get(pid, 0) > 10 for pid, ticks in self.ticks(server).items())

    def ticks(self, server):
        found = {}
        for pid in (child for worker in server.worker_pids() for child in children(worker)):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            found[pid] = int(fields[11]) + int(fields[12])
        return found


def test_a_layer_of_an_ordinary_push_is_inspected_during_it(server):
    image = make(600, layer=COMPRESS["gzip"](tar(member("etc/motd", content=b"hello" * 1000))))
    push(server, image)
    link = server.store / "images" / image.text / "_blob"
    wait_until(lambda: json.loads(link.read_text())["diffId"] is not None)
