"""
All kinds of requests at once for a long time: the resources of a worker do not grow.

Half an hour unless ``DOCKER_REGISTRY_SOAK_SECONDS`` is set; the figures are printed (``-s``) once a minute.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import WAYS, Client, cut, digest_of
from tests.support.counting_worker import FOLDER
from tests.support.images import make_image, pull, push
from tests.support.processes import memory_bytes
from tests.support.servers.registry import Server
from tests.support.v1_images import chain

SECONDS = float(os.environ.get("DOCKER_REGISTRY_SOAK_SECONDS") or 1800)

CLIENTS = 8

MIB = 1024 * 1024

#: The maximum growth of a worker from the second quarter of the load to the last. It serves hundreds of requests per
#: second here, so in half an hour a leak of 20 bytes per request is more. The memory of a program that allocates blocks
#: of all sizes in many threads varies by a few MiB.
MAX_GROWTH_BYTES = 8 * MIB

#: Idle native threads end after five seconds, each with its greenlets.
QUIET_SECONDS = 12

#: Pushed repeatedly, so that the store does not grow; and pulled, completely and in parts.
LARGE = [random.Random(size).randbytes(size) for size in (MIB, 5 * MIB + 1, 16 * MIB)]

TAGS = 20


class Soak:
    """The requests of one client, in an order determined by its number."""

    def __init__(self, server, number):
        self.server = server
        self.number = number
        self.source = random.Random(number)
        self.name = f"soak/{number}"
        self.done = Counter()
        self._works = [
            self.push_large, self.push_small, self.push_small, self.pull_large, self.pull_part, self.pull_part,
            self.pull_image, self.ask_for_manifests, self.ask_for_manifests, self.list, self.push_and_pull_by_v1,
            self.leave_a_pull, self.leave_a_push, self.leave_in_a_head, self.delete, self.refused,
        ]  # fmt: skip

    def run(self, is_over):
        with Client(self.server.url) as self.client, Docker(self.server.url) as self.docker:
            for work in self._works:  # each kind at least once
                if work != self.delete:
                    work()
            while not is_over():
                work = self.source.choice(self._works)
                work()
                self.done[work.__name__] += 1
        return self.done

    def push_large(self):
        self.client.push_blob(self.name, self.source.choice(LARGE), self.source.choice(list(WAYS)))

    def push_small(self):
        """A new image."""
        self.image = make_image(self.source.random(), layers=2, layer_bytes=self.source.randint(100, 20_000))
        push(self.client, self.name, self._tag(), self.image, self.source.choice(list(WAYS)))
        push(self.client, self.name, "kept", self.image)

    def pull_large(self):
        content = self.source.choice(LARGE)
        assert content == self.client.get_blob(self.name, self._pushed(content))

    def pull_part(self):
        content = self.source.choice(LARGE)
        first = self.source.randrange(len(content))
        last = min(first + self.source.choice([0, 1000, MIB]), len(content) - 1)
        headers = {"Range": f"bytes={first}-{last}"}
        path = f"/v2/{self.name}/blobs/{self._pushed(content)}"
        assert content[first : last + 1] == self.client.request("GET", path, 206, headers=headers).content

    def pull_image(self):
        assert self.image.contents == pull(self.client, self.name, "kept")

    def ask_for_manifests(self):
        for _ in range(20):
            assert self.image.digest == self.client.get_manifest(self.name, "kept").digest
            assert self.client.has_manifest(self.name, self.image.digest)
            assert not self.client.has_manifest(self.name, f"none-{self.source.randrange(100_000)}")

    def list(self):
        assert "kept" in self.client.tags(self.name)
        assert self.name in self.client.repositories()

    def push_and_pull_by_v1(self):
        # Its own image: of two concurrent pushes of one image, one may be rejected because the image exists (409).
        images = chain(2, first=(self.number * 1000 + self.source.randrange(1000)) * 10)
        self.docker.push(f"{self.name}v1", f"t{self.source.randrange(TAGS)}", *images)
        self.docker.push(f"{self.name}v1", "kept", *images)
        pulled = self.docker.pull(f"{self.name}v1", "kept")
        assert [(image.text, image.payload, image.layer) for image in images] == pulled

    def leave_a_pull(self):
        digest = self._pushed(LARGE[-1])
        with self._connect() as connection:
            connection.sendall(f"GET /v2/{self.name}/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(self.source.choice([1, 100_000]))
            self._reset_now_and_then(connection)

    def leave_a_push(self):
        """Disconnect in the middle of a body, with a Content-Length or in chunks; then cancel the upload."""
        location = self.client.start_upload(self.name)
        path = location.removeprefix(self.server.url)
        with self._connect() as connection:
            header = self.source.choice(["Content-Length: 9000000", "Transfer-Encoding: chunked"])
            connection.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
            content = LARGE[0][: self.source.choice([0, 10, 300_000])]
            connection.sendall(b"%x\r\n%b" % (len(content) + 1, content))
            self._reset_now_and_then(connection)
        # The session is locked while the server still stores the received bytes.
        self.client.request("DELETE", location, 204, 404, 409)

    def leave_in_a_head(self):
        with self._connect() as connection:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHo"[: self.source.randint(0, 20)])
            self._reset_now_and_then(connection)

    def delete(self):
        tag = self._tag()
        self.client.put_manifest(self.name, tag, self.image.manifest)
        self.client.delete_manifest(self.name, tag)

    def refused(self):
        self.client.request("GET", f"/v2/{self.name}/blobs/{digest_of(self.source.randbytes(8))}", 404)
        location = self.client.start_upload(self.name)
        self.client.append(location, cut(LARGE[0][:100_000]))
        self.client.request("PUT", location, 400, params={"digest": digest_of(b"something else")})

    def _pushed(self, content):
        digest = digest_of(content)
        if not self.client.has_blob(self.name, digest):
            self.client.push_blob(self.name, content, "put")
        return digest

    def _tag(self):
        return f"tag-{self.source.randrange(TAGS)}"

    def _connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=60)

    def _reset_now_and_then(self, connection):
        if self.source.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture
def greenlets(tmp_path, monkeypatch):
    """Count the greenlets of a worker, by their kinds."""
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def count(pid):
        path = tmp_path / str(pid)
        path.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        for _ in range(300):
            if path.exists():
                return json.loads(path.read_text())
            time.sleep(0.1)
        raise AssertionError("the worker does not say how many greenlets it has")

    return count


@pytest.fixture
def server(tmp_path, greenlets):
    with Server(
        tmp_path / "store", workers=2, GUNICORN_OPTS="-k tests.support.counting_worker.CountingWorker"
    ) as server:
        yield server
    shutil.rmtree(server.store)


@pytest.mark.slow
class TestFullLoad:
    def test_keeps_memory_flat_and_leaks_no_file_or_greenlet(self, server, greenlets):
        self.load(server, min(SECONDS / 10, 30))
        pids = server.pids
        before = self.at_rest(pids, greenlets)
        memory, done = self.load(server, SECONDS)
        print(f"requests of clients: {dict(sorted(done.items()))}")
        assert pids == server.pids, "a worker was replaced"
        after = self.at_rest(pids, greenlets, before)
        print(f"at rest before: {before}\nat rest after:  {after}")
        for pid in pids:
            quarter = len(memory[pid]) // 4
            first, last = (
                statistics.median(part) for part in (memory[pid][quarter : 2 * quarter], memory[pid][-quarter:])
            )
            print(f"worker {pid}: {first / MIB:.1f} MiB in the second quarter, {last / MIB:.1f} MiB in the last")
            assert last - first < MAX_GROWTH_BYTES
        assert before == after
        assert "Traceback" not in server.log.read_text()

    def load(self, server, seconds):
        """Run all clients, and return the memory of each worker per second, and the number of requests of each kind."""
        failed = threading.Event()
        until = time.monotonic() + seconds
        memory = {pid: [] for pid in server.pids}

        def work(number):
            try:
                return Soak(server, number).run(lambda: failed.is_set() or time.monotonic() > until)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [threads.submit(work, number) for number in range(CLIENTS)]
            while time.monotonic() < until and not failed.is_set():
                failed.wait(1)
                for pid, values in memory.items():
                    values.append(memory_bytes(pid, "VmRSS"))
                if len(values) % 60 == 0:
                    now = ", ".join(
                        f"{values[-1] / MIB:.1f} MiB and {open_files(pid)} files" for pid, values in memory.items()
                    )
                    print(f"after {len(values)} s: {now}", flush=True)
        return memory, sum((client.result() for client in clients), Counter())

    def at_rest(self, pids, greenlets, wanted=None):
        """Return the number of open files and greenlets of each idle worker."""
        deadline = time.monotonic() + 60
        earlier, since = None, 0.0
        while True:
            time.sleep(2)
            now = {pid: (open_files(pid), greenlets(pid)) for pid in pids}
            if now != earlier:
                earlier, since = now, time.monotonic()
            is_quiet = time.monotonic() - since > QUIET_SECONDS if wanted is None else now == wanted
            if is_quiet or time.monotonic() > deadline:
                return now
