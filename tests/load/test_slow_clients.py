"""Clients that send or read a byte per second, or never finish, beside others at full speed, which are not delayed."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest

from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, push
from tests.support.servers.registry import Server

#: Clients of each kind: more than the native threads of a worker, so no thread may wait for a client.
SLOW_CLIENTS = 24

#: The number of bytes that a slow client sends or reads, one per second.
SLOW_BYTES = 6

#: Limits for requests at full speed: the median, and the maximum. Alone they take a tenth of that. One that
#: waits for a slow client would wait for all its seconds, and one that waits for a silent client for at least 30.
MAX_MEDIAN_SECONDS = 3.0
MAX_SECONDS = 25.0

LAYER = os.urandom(4 * 1024 * 1024 + 13)
LARGE = os.urandom(12 * 1024 * 1024)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One worker for all clients."""
    with Server(tmp_path_factory.mktemp("slow") / "store") as server, Client(server.url) as client:
        client.push_blob("slow", LARGE, "put")
        push(client, "fast", "latest", make_image("fast"))
        yield server


class SlowClient:
    """A connected slow client."""

    def __init__(self, server):
        self.server = server
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", server.port))
        self.begin()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def begin(self):
        """The steps at full speed before the client becomes slow."""

    def turn(self, number):
        """The step of each second."""

    def check(self):
        """Check the result at the end."""


class SlowPush(SlowClient):
    """Sends the last bytes of a blob one by one."""

    CHUNK = os.urandom(300_000)

    def begin(self):
        with Client(self.server.url) as client:
            self.location = client.start_upload("slow")
        self.content = self.CHUNK + os.urandom(100)
        head, wire = self.framed(self.content)
        self.rest = wire[-SLOW_BYTES:]
        path = self.location.removeprefix(self.server.url)
        self.socket.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + wire[:-SLOW_BYTES])

    def framed(self, content):
        return f"Content-Length: {len(content)}", content

    def turn(self, number):
        self.socket.sendall(self.rest[number : number + 1])

    def check(self):
        answer = HTTPResponse(self.socket)
        answer.begin()
        assert 202 == answer.status
        with Client(self.server.url) as client:
            client.commit(self.location, digest_of(self.content))
            assert self.content == client.get_blob("slow", digest_of(self.content))


class SlowChunks(SlowPush):
    """The same in chunks; the last bytes are the content of a chunk and its framing."""

    def framed(self, content):
        chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (content[:70_000], content[70_000:-1]))
        return "Transfer-Encoding: chunked", chunks + b"1\r\n" + content[-1:] + b"\r\n0\r\n\r\n"


class SlowPull(SlowClient):
    """Reads a few bytes of a blob one by one, and the rest when the others are done."""

    def begin(self):
        self.socket.sendall(f"GET /v2/slow/blobs/{digest_of(LARGE)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.received = bytearray()  # appending to bytes would copy them each time

    def turn(self, number):
        self.received += self.socket.recv(1)

    def check(self):
        wanted = None
        while wanted is None or len(self.received) < wanted:
            block = self.socket.recv(1024 * 1024)
            assert block, "the answer ends early"
            self.received += block
            if wanted is None and b"\r\n\r\n" in self.received:
                wanted = self.received.index(b"\r\n\r\n") + 4 + len(LARGE)
        head, _, content = self.received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert content == LARGE


class Stalled(SlowClient):
    """Announces a large blob, sends some of it, and stays silent; then goes away."""

    def begin(self):
        with Client(self.server.url) as client:
            path = client.start_upload("slow").removeprefix(self.server.url)
        self.socket.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        self.socket.sendall(SlowPush.CHUNK)


class HeadWithoutEnd(SlowClient):
    """Sends the head of a request byte by byte, and goes away before its end."""

    def turn(self, number):
        self.socket.sendall(b"GET /v2/ HTTP/1.1\r\n"[number : number + 1])


def at_full_speed(server, work, is_over):
    """Call a function repeatedly, and return the durations."""
    durations = []
    with Client(server.url) as client:
        while not is_over():
            started = time.monotonic()
            work(client)
            durations.append(time.monotonic() - started)
    return durations


def push_a_layer(client):
    content = os.urandom(8) + LAYER
    client.push_blob("fast", content, "streamed")


def pull_a_blob(client):
    client.pull_blob("slow", digest_of(LARGE))


def pull_what_is_small(client):
    client.get_manifest("fast", "latest")
    client.tags("fast")
    assert not client.has_blob("fast", digest_of(os.urandom(8)))


class TestSlowClients:
    def test_do_not_starve_others_and_are_served(self, server):
        kinds = [SlowPush, SlowChunks, SlowPull, Stalled, HeadWithoutEnd]
        over = threading.Event()
        works = [push_a_layer, pull_a_blob, pull_what_is_small]
        with ExitStack() as stack, ThreadPoolExecutor(len(works)) as threads:
            slow = [stack.enter_context(kind(server)) for kind in kinds for _ in range(SLOW_CLIENTS)]
            fast = [threads.submit(at_full_speed, server, work, over.is_set) for work in works]
            began = time.monotonic()
            try:
                for number in range(SLOW_BYTES):
                    time.sleep(max(began + number + 1 - time.monotonic(), 0))
                    for client in slow:
                        client.turn(number)
            finally:
                over.set()
            slow_seconds = time.monotonic() - began  # more on a busy machine
            for work, durations in zip(works, (each.result() for each in fast), strict=True):
                print(f"{work.__name__}: {len(durations)} times, the longest took {max(durations):.2f} s")
                assert len(durations) > 1
                assert statistics.median(durations) < max(MAX_MEDIAN_SECONDS, slow_seconds / 3)
                assert max(durations) < MAX_SECONDS
            for client in slow:
                client.check()
