"""The speed of a mirror: many clients that pull a cold image from an upstream of limited bandwidth, and warm tags."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, push
from tests.support.servers.limited_upstream import LimitedUpstream
from tests.support.servers.registry import Server
from tests.support.servers.upstream import Upstream
from tests.support.timing import wait_until

MEBIBYTE = 1024 * 1024
RATE = 10 * MEBIBYTE
LAYERS, LAYER_BYTES = 4, 50 * MEBIBYTE
CLIENTS, LEAVING = 50, 6
NAME, PUSHED = "up.example/app", "pushed/app"

#: The kernel collects so many bytes before it wakes a client, so that 50 clients leave the processors to the servers.
COLLECTED_BYTES = 256 * 1024


class Puller:
    """
    A client that pulls one blob after the other, and continues broken transfers as Docker does.

    Attributes:
        first_byte_at: when the first byte of a blob arrived.
    """

    def __init__(self, port):
        self._port = port
        self._buffer = bytearray(MEBIBYTE)
        self.first_byte_at = None

    def pull(self, name, digest, size):
        """Receive a blob, or its first bytes, and return their number."""
        received = 0
        for _ in range(60):
            try:
                received += self._receive(f"/v2/{name}/blobs/{digest}", received, size - received)
            except OSError:
                time.sleep(0.1)
            if received >= size:
                return received
        raise AssertionError(f"{received} of {size} bytes after many attempts")

    def _receive(self, path, start, wanted):
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            part = f"Range: bytes={start}-\r\n" if start else ""
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n{part}Connection: close\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                block = connection.recv(65536)
                if not block:
                    return 0
                head += block
            head, _, body = head.partition(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")) or b" 50" in head[:20], head
            if not head.startswith(b"HTTP/1.1 20"):
                return 0
            received = len(body) or connection.recv_into(self._buffer)
            self.first_byte_at = self.first_byte_at or time.monotonic()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, COLLECTED_BYTES)
            while received < wanted:
                try:
                    count = connection.recv_into(self._buffer)
                except OSError:
                    break
                if not count:
                    break
                received += count
        return min(received, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [False, True], ids=["undisturbed", "a worker dies"])
def test_clients_share_the_bandwidth_of_the_upstream(tmp_path, kills):
    blobs = {}
    (tmp_path / "blobs").mkdir()
    for number in range(LAYERS):
        content = random.Random(number).randbytes(LAYER_BYTES)
        blobs[digest_of(content)] = content
        (tmp_path / "blobs" / digest_of(content)).write_bytes(content)
    total = LAYERS * LAYER_BYTES
    with LimitedUpstream(tmp_path / "blobs", RATE) as upstream:
        upstreams = [{"name": "up.example", "url": upstream.url}]
        settings = {"storage": "file", "storage_path": str(tmp_path / "store"), "mirroring": {"upstreams": upstreams}}
        (tmp_path / "config.yml").write_text(json.dumps({"dev": settings}))
        environment = {"DOCKER_REGISTRY_CONFIG": str(tmp_path / "config.yml")}
        with (
            Server(tmp_path / "store", workers=2, **environment) as one,
            Server(tmp_path / "store", workers=2, **environment) as other,
            ThreadPoolExecutor(CLIENTS) as threads,
        ):
            pullers = [Puller((one, other)[number % 2].port) for number in range(CLIENTS)]

            def pull(number, name=NAME):
                if number < LEAVING:
                    return pullers[number].pull(name, next(iter(blobs)), (number + 1) * MEBIBYTE)
                return sum(pullers[number].pull(name, digest, LAYER_BYTES) for digest in blobs)

            began = time.monotonic()
            results = [threads.submit(pull, number) for number in range(CLIENTS)]
            if kills:
                wait_until(lambda: upstream.counters().sent > total / 3)
                pids = (*one.worker_pids(), *other.worker_pids())
                os.kill(next(filter(upstream.sends_to, pids)), signal.SIGKILL)
            assert {total} == {result.result() for result in results[LEAVING:]}
            seconds = time.monotonic() - began
            first_byte_at = min(puller.first_byte_at for puller in pullers if puller.first_byte_at)

            for digest in blobs:
                url = f"http://127.0.0.1:{one.port}/v2/{PUSHED}/blobs/uploads/"
                mounted = requests.post(url, params={"mount": digest, "from": NAME}, timeout=60)
                assert 201 == mounted.status_code
            began = time.monotonic()
            list(threads.map(lambda number: pull(number, PUSHED), range(CLIENTS)))
            pushed_seconds = time.monotonic() - began  # what the machine needs to send and receive that many bytes
            for digest, content in blobs.items():
                path = tmp_path / "store/docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:] / "data"
                assert content == path.read_bytes()
        sent, first_sent_at = upstream.counters()
    first, direct = first_byte_at - first_sent_at, total / RATE
    print(
        f"{seconds:.1f} s, {seconds / direct:.2f} of a direct pull; pushed {pushed_seconds:.1f} s; "
        f"first byte {first * 1000:.0f} ms; sent {sent / total:.3f}"
    )
    assert sent <= 1.05 * total
    is_busy = pushed_seconds > direct / 4  # with other things: then copying the bytes takes as long as receiving them
    assert seconds <= (direct + 1.5 * pushed_seconds if is_busy else 1.2 * direct)
    assert first < (1 if is_busy else 0.05)


@pytest.mark.slow
def test_a_warm_tag_is_served_without_its_upstream_as_quickly_as_a_pushed_one(tmp_path):
    image = make_image("warm")
    with Upstream() as upstream:
        upstream.add("app", "v1", image)
        upstreams = [{"name": "up.example", "url": upstream.url}]
        settings = {"storage": "file", "storage_path": str(tmp_path / "store"), "mirroring": {"upstreams": upstreams}}
        (tmp_path / "config.yml").write_text(json.dumps({"dev": settings}))
        with Server(tmp_path / "store", DOCKER_REGISTRY_CONFIG=str(tmp_path / "config.yml")) as server:
            with Client(server.url) as client:
                push(client, PUSHED, "v1", image)
                assert image.manifest == client.get_manifest(NAME, "v1").payload
            asked = upstream.asked()
            seconds = {NAME: [], PUSHED: []}
            time.sleep(0.5)  # then the files are old enough for the response cache
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                for _ in range(1000):  # by turns; the quickest ones are not disturbed by other programs
                    for name, turns in seconds.items():
                        turns.append(seconds_to_get(connection, f"/v2/{name}/manifests/v1", image.manifest))
        assert asked == upstream.asked()
    rate = sum(sorted(seconds[PUSHED])[:20]) / sum(sorted(seconds[NAME])[:20])
    print(f"{rate:.2f} of the rate of a pushed tag")
    assert rate >= 0.9


def seconds_to_get(connection, path, content):
    """Send a request, and return the seconds that it takes."""
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    began = time.monotonic()
    connection.sendall(request)
    answer = b""
    while not answer.endswith(content):
        answer += connection.recv(65536)
    seconds = time.monotonic() - began
    assert answer.startswith(b"HTTP/1.1 200")
    return seconds
