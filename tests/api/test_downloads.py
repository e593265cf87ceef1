"""Files of a store that fails while they are sent."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager

import pytest

from docker_registry.api.downloads import SegmentedBody
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageError, StorageUnavailable, UpstreamUnavailable
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.stored_file import FilePart
from docker_registry.services import build
from tests.support.multipart import parts_of
from tests.support.registries import Registry

NAME = RepositoryName.parse("lab/download")
CONTENT = b"two blocks"


class Failing(MemoryDriver):
    """A store that breaks off after some blocks of each file."""

    def __init__(self, blocks, error):
        super().__init__()
        self.blocks = blocks
        self.error = error
        self.closed = 0

    def stream_read(self, path, offset=0, length=None):
        return self._read()

    def _read(self):
        try:
            yield from [b"two ", b"blocks"][: self.blocks]
            if self.blocks < 2:
                raise self.error
        finally:
            self.closed += 1


@pytest.fixture
def get():
    """GET a blob of a store that gives so many blocks, and then fails."""

    def get(blocks, error=StorageUnavailable):
        driver = Failing(blocks, error)
        registry = Registry(driver)
        digest = Digest.of(CONTENT)
        registry.blobs.put(CONTENT, digest)
        registry.blobs.link(NAME, digest)
        return driver, create_app(build(Config(), registry.driver)).test_client().get(f"/v2/{NAME}/blobs/{digest}")

    return get


def test_a_file_is_sent_block_by_block(get):
    driver, answer = get(2)
    assert (200, CONTENT, 1) == (answer.status_code, answer.data, driver.closed)


def test_a_file_that_cannot_be_read_at_all_is_an_error(get):
    driver, answer = get(0)
    assert (503, 1) == (answer.status_code, driver.closed)
    assert answer.json["errors"]


@pytest.mark.parametrize(
    ("error", "raised"), [(StorageUnavailable, StorageUnavailable), (UpstreamUnavailable, ConnectionResetError)]
)
def test_a_file_that_fails_later_is_truncated(get, error, raised):
    _, answer = get(1, error)
    assert 200 == answer.status_code
    with pytest.raises(raised):
        answer.get_data()


class Counting(MemoryDriver):
    """A store that counts how often it is read, and offers signed URLs."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def stream_read(self, path, offset=0, length=None):
        self.reads.append((offset, length))
        return super().stream_read(path, offset, length)

    def content_redirect_url(self, path):
        return f"http://store/{path}"


class TestSeveralParts:
    CONTENT = random.Random(1).randbytes(3_000_000)

    @pytest.fixture
    def served(self):
        driver = Counting()
        registry = Registry(driver)
        digest = Digest.of(self.CONTENT)
        registry.blobs.put(self.CONTENT, digest)
        registry.blobs.link(NAME, digest)
        client = create_app(build(Config(storage_redirect=True), registry.driver)).test_client()
        driver.reads.clear()
        return driver, lambda text: client.get(f"/v2/{NAME}/blobs/{digest}", headers={"Range": f"bytes={text}"})

    def test_are_sent_by_the_registry_while_a_single_part_is_redirected(self, served):
        _, get = served
        assert 307 == get("0-1").status_code
        answer = get("0-1,5-6")
        expected = [(0, self.CONTENT[:2]), (5, self.CONTENT[5:7])]
        assert (206, expected) == (answer.status_code, parts_of(answer.content_type, answer.data))

    def test_that_are_close_together_are_read_in_one_request(self, served):
        driver, get = served
        answer = get("2900000-2900009,0-9,200000-200009,400000-400009,399990-399999")
        starts = [2_900_000, 0, 200_000, 400_000, 399_990]
        expected = [(start, self.CONTENT[start : start + 10]) for start in starts]
        assert expected == parts_of(answer.content_type, answer.data)
        assert [(2_900_000, 10), (0, 400_010), (399_990, 10)] == driver.reads


class TestASegmentedBody:
    def test_is_read_in_blocks_by_a_server_without_sendfile(self, tmp_path):
        (tmp_path / "piece").write_bytes(b"0123456789")
        with (tmp_path / "piece").open("rb") as file:
            body = SegmentedBody(iter([b"ab", FilePart(file.fileno(), 2, 5), b"cd"]))
            assert [b"ab", b"234", b"56", b"cd", b""] == [body.read(3) for _ in range(5)]
            body.close()
            shorter = SegmentedBody(iter([FilePart(file.fileno(), 2, 50)]))
            assert b"23456789" == shorter.read()
            with pytest.raises(StorageError):
                shorter.read()
            shorter.close()

    def test_reports_that_it_is_being_sent(self):
        def send_whole(body):
            return [sent for sent in iter(lambda: body.read(3), b"") if events == ["begin"]]

        def send_part(body):
            return [body.read(3)]

        @contextmanager
        def sending():
            events.append("begin")
            try:
                yield
            finally:
                events.append("end")

        for send in (send_whole, send_part, lambda body: [*body.segments()], lambda body: [next(body.segments())]):
            events = []
            body = SegmentedBody(iter([b"ab", b"cd"]))
            body.hold(sending())
            assert [] == events
            assert [b"ab", b"cd"][: len(sent := send(body))] == sent
            body.close()
            body.close()
            assert ["begin", "end"] == events

    def test_cuts_the_connection_if_the_upstream_fails(self):
        def segments():
            yield b"ab"
            raise UpstreamUnavailable

        for send in (lambda body: [*body.segments()], lambda body: [body.read(3), body.read(3)]):
            body = SegmentedBody(segments())
            with pytest.raises(ConnectionResetError, match="cannot be reached"):  # gunicorn logs no traceback of it
                send(body)
            body.close()
        body = SegmentedBody(segments(), segments)
        with pytest.raises(UpstreamUnavailable):  # the server takes other errors for those of a store
            [*body.segments()]
        body.close()

    def test_closes_its_file_if_its_segments_fail(self):
        class Segments:
            def __next__(self):
                return b"ab"

            def close(self):
                raise StorageUnavailable

        body = SegmentedBody(Segments())
        descriptor = body.fileno()
        with pytest.raises(StorageUnavailable):
            body.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
