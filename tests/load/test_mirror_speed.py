"""Many clients that pull a cold image through a mirror on two hosts, from an upstream whose bandwidth is limited."""

from __future__ import annotations

import http.server
import json
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clients.v2 import digest_of
from tests.support.servers.registry import Server

MEBIBYTE = 1024 * 1024
RATE = 10 * MEBIBYTE
LAYERS, LAYER_BYTES = 4, 50 * MEBIBYTE
CLIENTS, LEAVING = 50, 6
NAME = "up.example/app"
BLOCK_BYTES = 64 * 1024


class LimitedUpstream:
    """
    Serves blobs, also parts of them, at a limited rate for all connections together.

    Attributes:
        sent: bytes of blobs that were sent.
        first_sent_at: when the first of them was sent, on the monotonic clock.
    """

    def __init__(self, blobs):
        self.sent, self.first_sent_at = 0, None
        self._lock = threading.Lock()
        self._next_at = 0.0
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                content = blobs.get(self.path.rpartition("/")[2])
                if content is None:
                    self.send_error(404)
                    return
                start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
                self.send_response_only(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                for offset in range(start, len(content), BLOCK_BYTES):
                    upstream.wait_for(BLOCK_BYTES)
                    self.wfile.write(content[offset : offset + BLOCK_BYTES])

            do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_):
                """Log nothing."""

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Print nothing: a worker is killed."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def wait_for(self, size):
        with self._lock:
            now = time.monotonic()
            self._next_at = max(self._next_at, now - 0.01) + size / RATE
            wait = self._next_at - now
            if wait > 0:
                time.sleep(wait)
            self.sent += size
            self.first_sent_at = self.first_sent_at or time.monotonic()

    def sends_to(self, pid):
        """Return whether a process has a connection to this upstream."""
        port = f":{self._server.server_address[1]:04X}"
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{fields[9]}]" for fields in lines if fields[2].endswith(port) and fields[3] == "01"}
        return any(os.readlink(fd) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir())

    def close(self):
        self._server.shutdown()
        self._server.server_close()


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

    def pull(self, digest, size, leave_at=None):
        """Receive a blob, and return the number of its bytes; *leave_at*: bytes after which to leave."""
        received = 0
        for _ in range(60):
            try:
                received += self._receive(digest, received, (leave_at or size) - received)
            except OSError:
                time.sleep(0.1)
            if received >= (leave_at or size):
                return received
        raise AssertionError(f"{received} of {size} bytes after many attempts")

    def _receive(self, digest, start, wanted):
        received = 0
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            part = f"Range: bytes={start}-\r\n" if start else ""
            connection.sendall(
                f"GET /v2/{NAME}/blobs/{digest} HTTP/1.1\r\nHost: a\r\n{part}Connection: close\r\n\r\n".encode()
            )
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
            received = len(body)
            while received < wanted:
                try:
                    count = connection.recv_into(self._buffer)
                except OSError:
                    break
                if not count:
                    break
                self.first_byte_at = self.first_byte_at or time.monotonic()
                received += count
        return min(received, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [False, True], ids=["undisturbed", "a worker dies"])
def test_clients_share_the_bandwidth_of_the_upstream(tmp_path, kills):
    contents = [random.Random(number).randbytes(LAYER_BYTES) for number in range(LAYERS)]
    blobs = {digest_of(content): content for content in contents}
    upstream = LimitedUpstream(blobs)
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

        def pull(number):
            if number < LEAVING:
                return pullers[number].pull(next(iter(blobs)), LAYER_BYTES, leave_at=(number + 1) * MEBIBYTE)
            return sum(pullers[number].pull(digest, LAYER_BYTES) for digest in blobs)

        began = time.monotonic()
        results = [threads.submit(pull, number) for number in range(CLIENTS)]
        if kills:
            time.sleep(7)
            pids = (*one.worker_pids(), *other.worker_pids())
            os.kill(next(filter(upstream.sends_to, pids)), signal.SIGKILL)
        assert {LAYERS * LAYER_BYTES} == {result.result() for result in results[LEAVING:]}
        seconds = time.monotonic() - began
        began = time.monotonic()
        assert LAYERS * LAYER_BYTES == min(threads.map(pull, range(LEAVING, CLIENTS)))
        warm_seconds = time.monotonic() - began  # what the machine needs to send and receive that many bytes
        for digest, content in blobs.items():
            path = tmp_path / "store/docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:] / "data"
            assert content == path.read_bytes()
    upstream.close()
    total = LAYERS * LAYER_BYTES
    first = min(puller.first_byte_at for puller in pullers if puller.first_byte_at) - upstream.first_sent_at
    direct = total / RATE
    print(f"{seconds:.1f} s, {seconds / direct:.2f} of a direct pull; warm {warm_seconds:.1f} s; {first * 1000:.0f} ms")
    assert upstream.sent <= 1.05 * total
    is_busy = warm_seconds > direct / 4  # with other things: then copying the bytes takes as long as receiving them
    assert seconds <= (direct + 1.5 * warm_seconds if is_busy else 1.2 * direct)
    assert first < (1 if is_busy else 0.05)
