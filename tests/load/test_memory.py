"""A transfer of any size costs a worker only a few MiB of memory, and so do many concurrent ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clients import programs
from tests.support.clients.v2 import Client
from tests.support.processes import children, memory_bytes
from tests.support.servers.registry import Server

MIB = 1024 * 1024

#: The maximum growth of a worker's peak memory during any transfer.
MAX_GROWTH_BYTES = 8 * MIB

SIZES = [256 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)]

#: The maximum peak memory of a worker while many clients push or pull at once.
TRANSFERS = 64
MAX_BYTES = 150 * MIB

SIZES_AT_ONCE = [16 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)]

PIECE_BYTES = 256 * 1024

NOISE = os.urandom(2 * MIB)


class Noise:
    """A part of a generated content, which is never in memory. Its length is known, so it is not sent chunked."""

    def __init__(self, size, start=0):
        self._size, self._start = size, start

    def __len__(self):
        return self._size

    def __iter__(self):
        for offset in range(self._start, self._start + self._size, PIECE_BYTES):
            begin = offset // PIECE_BYTES * 7919 % MIB
            yield NOISE[begin : begin + PIECE_BYTES]

    @property
    def digest(self):
        content = hashlib.sha256()
        for piece in self:
            content.update(piece)
        return f"sha256:{content.hexdigest()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("memory") / "store", new_interpreter=True) as server:
        yield server
    shutil.rmtree(server.store)  # pytest keeps the folders of its last runs, and these are large


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture
def growth(server, client):
    """The maximum growth of the worker since the test began, in bytes."""
    for way in ("streamed", "ranged", "put", "posted"):  # memory that every worker allocates once
        client.get_blob("warm", client.push_blob("warm", os.urandom(3 * MIB), way))
    (pid,) = children(server.process.pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    before = memory_bytes(pid, "VmRSS")

    def growth():
        grown = memory_bytes(pid, "VmHWM") - before
        print(f"the worker grew by {grown / MIB:.1f} MiB, from {before / MIB:.1f} MiB")
        return grown

    return growth


@pytest.mark.parametrize("size", SIZES)
class TestAWorkerGrowsByFewMebibytes:
    def test_while_a_chunked_body_is_pushed_and_pulled(self, client, growth, size):
        digest = client.push_stream("memory", Noise(size))
        assert size == client.pull_blob("memory", digest)
        assert growth() < MAX_GROWTH_BYTES

    def test_while_a_body_with_a_length_is_pushed(self, client, growth, size):
        content = Noise(size)
        client.commit(client.start_upload("memory/put"), content.digest, content)
        assert growth() < MAX_GROWTH_BYTES

    def test_while_chunks_are_joined(self, client, growth, size):
        location, length = client.start_upload("memory/joined"), size // 4
        for start in range(0, size, length):
            headers = {"Content-Range": f"{start}-{start + length - 1}"}
            client.request("PATCH", location, 202, data=Noise(length, start), headers=headers)
        client.commit(location, Noise(size).digest)
        assert growth() < MAX_GROWTH_BYTES

    def test_while_a_response_is_sent_to_a_stalled_client(self, server, client, growth, size):
        digest = client.push_stream("memory", Noise(size))
        with client.request("GET", f"/v2/memory/blobs/{digest}", 200, stream=True) as answer:
            assert MIB == len(answer.raw.read(MIB))
            assert growth() < MAX_GROWTH_BYTES


@pytest.fixture
def peak(server):
    """The peak memory of the worker since the test began, in bytes."""
    (pid,) = children(server.process.pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak():
        most = memory_bytes(pid, "VmHWM")
        print(f"the worker had {most / MIB:.1f} MiB at most")
        return most

    return peak


def at_once(server, work):
    """Run many clients, each with its number and a barrier at which all transfers are in progress."""
    together = threading.Barrier(TRANSFERS, timeout=600)

    def begin(number):
        try:
            with Client(server.url) as client:
                work(client, number, together)
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(TRANSFERS) as threads:
        list(threads.map(begin, range(TRANSFERS)))


@pytest.mark.parametrize("size", SIZES_AT_ONCE)
class TestAWorkerStaysSmall:
    def test_while_many_push_at_once(self, server, peak, size):
        """No client sends more than half before all have sent half."""
        if shutil.disk_usage(server.store).free < (needed := (TRANSFERS + 2) * size):
            programs.missing(f"there is no disk for uploads of {needed // MIB} MiB at once")
        content = Noise(size)
        digest = content.digest

        def push(client, number, together):
            location = client.start_upload(f"many/{number}")
            client.append(location, self.halting(content, together))
            client.commit(location, digest)
            assert client.has_blob(f"many/{number}", digest)

        at_once(server, push)
        assert peak() < MAX_BYTES

    def test_while_many_pull_at_once(self, server, client, peak, size):
        digest = client.push_stream("many", Noise(size))

        def pull(client, number, together):
            received, left = hashlib.sha256(), size
            with client.request("GET", f"/v2/many/blobs/{digest}", 200, stream=True) as answer:
                while block := answer.raw.read(MIB):
                    received.update(block)
                    left -= len(block)
                    if left == size // 2:
                        together.wait()
            assert digest == f"sha256:{received.hexdigest()}"

        at_once(server, pull)
        assert peak() < MAX_BYTES

    @staticmethod
    def halting(content, together):
        for number, piece in enumerate(content):
            if number == len(content) // PIECE_BYTES // 2:
                together.wait()
            yield piece
