"""Many concurrent clients on several workers and hosts that share a store."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.registry import layout
from docker_registry.registry.names import RepositoryName
from tests.support.clients.v2 import WAYS, Client, cut, digest_of
from tests.support.images import make_image, make_index, pull, push
from tests.support.registries import Registry
from tests.support.servers.registry import Server

CLIENTS = 16


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=["2-workers", "4-workers"])
def server(request, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("concurrency") / "store", workers=request.param) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


def stored_blobs(store):
    """The digests of all files among the blobs, one for each file."""
    paths = (store / "docker/registry/v2/blobs").glob("**/*")
    return sorted(f"{path.parts[-4]}:{path.parts[-2]}" for path in paths if path.is_file())


def unfinished_uploads(store):
    return list(store.glob("docker/registry/v2/repositories/**/_uploads/*"))


def at_once(work, count=CLIENTS):
    """Call a function for each number, all starting at the same moment, and return the results."""
    together = threading.Barrier(count)

    def begin(number):
        together.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


class TestManyClients:
    def test_pushing_equal_and_different_images_store_each_blob_once(self, tmp_path, server):
        # A separate store, so that its files can be counted.
        with Server(tmp_path / "store", workers=server.workers) as server:
            same, shared = make_image("same", 3, 300_000), make_index("shared")
            own = [make_image(f"own {number}", 2, 100_000) for number in range(CLIENTS)]
            ways = list(WAYS)

            def work(number):
                with Client(server.url) as client:
                    way = ways[number % len(ways)]
                    push(client, "many/same", "v1", same, way)
                    push(client, f"many/own{number}", "v1", own[number], way)
                    push(client, f"many/own{number}", "same", same, way)
                    push(client, "many/same", f"tag{number}", shared, way)
                    return pull(client, f"many/own{number}", "v1"), pull(client, "many/same", "v1")

            assert [(image.contents, same.contents) for image in own] == at_once(work)
            with Client(server.url) as client:
                assert sorted(["v1", *(f"tag{number}" for number in range(CLIENTS))]) == client.tags("many/same")
                assert all(shared.contents == pull(client, "many/same", f"tag{n}") for n in range(CLIENTS))
            everything = same.contents | shared.contents
            for image in own:
                everything |= image.contents
            assert sorted(everything) == stored_blobs(server.store)
            assert [] == unfinished_uploads(server.store)

    def test_moving_one_tag_leave_it_at_one_of_their_manifests(self, server, client):
        images = [make_image(f"tag {number}", 1, 1000) for number in range(CLIENTS)]

        def work(number):
            with Client(server.url) as client:
                push(client, "moved", "latest", images[number])

        at_once(work)
        pulled = pull(client, "moved", "latest")
        assert pulled in [image.contents for image in images]
        assert ["latest"] == client.tags("moved")

    def test_deleting_and_pushing_one_image_keep_the_last_push(self, server, client):
        image = make_image("deleted", 2, 10_000)

        def work(number):
            with Client(server.url) as client:
                for _ in range(3):
                    push(client, "deleted", f"tag{number}", image)
                    client.request("DELETE", f"/v2/deleted/manifests/{image.digest}", 202, 404)

        at_once(work, 8)
        push(client, "deleted", "latest", image)
        assert image.contents == pull(client, "deleted", "latest")


class TestAnUploadOverSeveralWorkers:
    def test_is_continued_on_new_connections(self, server):
        contents = [os.urandom(40_000 + number) for number in range(8)]

        def work(number):
            content = contents[number]
            with Client(server.url) as client:
                client.session.headers["Connection"] = "close"  # any worker may take the next one
                location = client.start_upload("moving")
                for start in range(0, len(content), 2000):
                    location, kept = client.append(location, content[start : start + 2000], start)
                    assert min(start + 2000, len(content)) == kept
                client.commit(location, digest_of(content))
                return client.get_blob("moving", digest_of(content))

        assert contents == at_once(work, len(contents))

    def test_is_continued_on_another_host(self, server):
        content = os.urandom(100_000)
        with (
            Server(server.store) as other,
            Client(server.url) as here,
            Client(other.url) as there,
        ):
            path = here.start_upload("hosts").removeprefix(here.url)
            for start in range(0, len(content), 10_000):
                client = (here, there)[start // 10_000 % 2]
                location, _ = client.append(path, content[start : start + 10_000], start)
                path = location.removeprefix(client.url)
            here.commit(path, digest_of(content))
            there.commit(path, digest_of(content))
            assert content == here.get_blob("hosts", digest_of(content)) == there.get_blob("hosts", digest_of(content))


class TestAnUploadStartedDuringAPurge:
    def test_is_kept(self, tmp_path):
        name = RepositoryName.parse("begins")
        folder = tmp_path / layout.upload(name, "0b5c5b0e-0000-4000-8000-000000000000")
        folder.mkdir(parents=True)  # where its first file is about to be written
        assert 0 == Registry(FileDriver(str(tmp_path))).uploads.purge(name, 0)
        assert folder.is_dir()


class StalledPatch:
    """
    A chunked PATCH of a whole blob that has sent half of its body, and waits.

    It states the position of its body; otherwise a server that receives it late would append it to its repetition.
    """

    def __init__(self, server, path, content):
        self._rest = content[len(content) // 2 :]
        place = f"Content-Range: 0-{len(content) - 1}"
        head = f"PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n{place}\r\n\r\n"
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._socket.sendall(head.encode() + self._chunk(content[: len(content) // 2]))

    def wake_up(self):
        """Send the other half and return the status of the response."""
        with self._socket:
            self._socket.sendall(self._chunk(self._rest) + self._chunk(b""))
            return int(self._socket.recv(65536).split()[1])

    def cut_off(self):
        self._socket.close()

    def _chunk(self, content):
        return f"{len(content):x}\r\n".encode() + content + b"\r\n"


class TestARepeatedPatchAfterAStall:
    GOOD = os.urandom(300_000)
    #: The content of the stalled request: of the same length, so that only the bytes differ.
    EVIL = os.urandom(300_000)

    @pytest.fixture
    def path(self, server, client):
        return client.start_upload("stalled").removeprefix(server.url)

    def test_changes_nothing_if_it_resumes_after_the_commit(self, server, client, path):
        stalled = StalledPatch(server, path, self.EVIL)
        client.append(path, cut(self.GOOD))
        client.commit(path, digest_of(self.GOOD))
        assert stalled.wake_up() in (404, 416)
        assert self.GOOD == client.get_blob("stalled", digest_of(self.GOOD))
        assert [] == unfinished_uploads(server.store)

    def test_changes_nothing_if_it_resumes_before_the_commit(self, server, client, path):
        stalled = StalledPatch(server, path, self.EVIL)
        _, kept = client.append(path, cut(self.GOOD))
        assert len(self.GOOD) == kept
        assert 416 == stalled.wake_up()
        client.commit(path, digest_of(self.GOOD))
        assert self.GOOD == client.get_blob("stalled", digest_of(self.GOOD))

    def test_changes_nothing_if_it_resumes_between_two_chunks(self, server, client, path):
        half = len(self.GOOD) // 2
        stalled = StalledPatch(server, path, self.EVIL)
        client.append(path, self.GOOD[:half], 0)
        assert 416 == stalled.wake_up()
        client.append(path, self.GOOD[half:], half)
        client.commit(path, digest_of(self.GOOD))
        assert self.GOOD == client.get_blob("stalled", digest_of(self.GOOD))

    def test_changes_nothing_if_it_is_truncated_after_the_commit(self, server, client, path):
        stalled = StalledPatch(server, path, self.EVIL)
        client.append(path, cut(self.GOOD))
        client.commit(path, digest_of(self.GOOD))
        stalled.cut_off()
        assert self.GOOD == client.get_blob("stalled", digest_of(self.GOOD))
        assert not client.has_blob("stalled", digest_of(self.EVIL))

    def test_or_its_repetition_is_rejected_if_both_end_at_once(self, server):
        def work(number):
            name = f"races/{number}"
            with Client(server.url) as client, ThreadPoolExecutor(1) as thread:
                path = client.start_upload(name).removeprefix(server.url)
                stalled = StalledPatch(server, path, self.EVIL)
                waking = thread.submit(stalled.wake_up)
                headers = {"Content-Range": f"0-{len(self.GOOD) - 1}"}
                repeated = client.request("PATCH", path, 202, 416, data=self.GOOD, headers=headers).status_code
                statuses = sorted([repeated, waking.result()])
                won = self.GOOD if repeated == 202 else self.EVIL
                client.commit(path, digest_of(won))
                assert won == client.get_blob(name, digest_of(won))
                return statuses

        assert [[202, 416]] * 8 == at_once(work, 8)
