"""Reads of objects, and what a store that misbehaves makes of them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.errors import PathNotFound, StorageError, StorageUnavailable
from tests.support.servers.scripted import Scripted

CONTENT = bytes(range(256)) * 1200
CUT = 100_000

LISTING = (
    b"<?xml version='1.0'?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)
NO_KEY = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"
NO_BUCKET = b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code></Error>"
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"


def response(status, content, *headers, etag='"1"', length=None):
    lines = [f"HTTP/1.1 {status}", f"ETag: {etag}", f"Content-Length: {len(content) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + content


def part(start, end=None, **more):
    end = end or len(CONTENT)
    header = f"Content-Range: bytes {start}-{end - 1}/{len(CONTENT)}"
    return response("206 Partial Content", CONTENT[start:end], header, **more)


def refusal(status, content):
    return response(status, content, "Content-Type: application/xml")


WHOLE = response("200 OK", CONTENT)
BROKEN = response("200 OK", CONTENT[:CUT], "connection: close", length=len(CONTENT))


@contextmanager
def opened(*responses):
    """A driver and its store, which sends prepared responses."""
    with Scripted(response("200 OK", LISTING), *responses) as store:
        driver = S3Driver(
            s3_bucket="b",
            s3_access_key="k",
            s3_secret_key="s",
            s3_endpoint=store.url,
            s3_secure=False,
            s3_timeout=5,
        )
        try:
            yield driver, store
        finally:
            driver.close()


@pytest.fixture
def reading(monkeypatch):
    """Read an object from a store that sends prepared responses; returns its content and the heads of the requests."""
    monkeypatch.setattr("time.sleep", lambda _: None)

    def read(*responses, offset=0, length=None):
        with opened(*responses) as (driver, store):
            return b"".join(driver.stream_read("a", offset, length)), store.requests[1:]

    return read


def by_us(request):
    return b"user-agent: docker-registry" in request


class TestARead:
    def test_does_not_need_the_client(self, reading):
        for responses, options, expected in (
            ([WHOLE], {}, CONTENT),
            ([part(5)], {"offset": 5}, CONTENT[5:]),
            ([part(5, 9)], {"offset": 5, "length": 4}, CONTENT[5:9]),
        ):
            content, requests = reading(*responses, **options)
            assert content == expected
            assert [True] == [by_us(request) for request in requests]

    @pytest.mark.parametrize("count", [0, 1])
    def test_closes_its_connection_when_it_is_abandoned(self, count):
        with opened(WHOLE) as (driver, _):
            blocks = driver.stream_read("a")
            body = blocks.gi_frame.f_locals["body"]
            for _ in range(count):
                next(blocks)
            assert body._connection is not None
            blocks.close()
            assert body._connection is None

    def test_resumes_after_a_lost_connection(self, reading):
        content, requests = reading(BROKEN, part(CUT))
        assert content == CONTENT
        assert f"range: bytes={CUT}-".encode() in requests[1]
        assert b'if-match: "1"' in requests[1]

    @pytest.mark.parametrize(
        "first",
        [
            b"",
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + WHOLE,
            refusal("503 Slow Down", BUSY),
            response("307 Temporary Redirect", b"", "Location: http://127.0.0.1:1/"),
            WHOLE.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX"),
            WHOLE.replace(b"ETag", b"X"),
            part(0),
        ],
    )
    def test_is_left_to_the_client_if_the_response_is_unusual(self, reading, first):
        content, requests = reading(first, WHOLE)
        assert content == CONTENT
        assert [True, False] == [by_us(request) for request in requests]

    def test_is_retried_by_the_client_while_the_store_is_busy(self, reading):
        busy = refusal("503 Slow Down", BUSY)
        content, requests = reading(busy, busy, WHOLE)
        assert content == CONTENT
        assert 3 == len(requests)

    def test_finds_that_there_is_no_such_object(self, reading):
        with pytest.raises(PathNotFound):
            reading(refusal("404 Not Found", NO_KEY))
        with pytest.raises(StorageError, match="s3_bucket does not exist"):
            reading(refusal("404 Not Found", NO_BUCKET), refusal("404 Not Found", NO_BUCKET))

    @pytest.mark.parametrize(
        "resumed",
        [
            WHOLE,  # the range is ignored
            part(CUT + 1),
            part(CUT, len(CONTENT) - 1),
            part(CUT, etag='"2"'),
            response("412 Precondition Failed", b""),
            refusal("404 Not Found", NO_KEY),
        ],
    )
    def test_never_continues_with_other_bytes(self, reading, resumed):
        with pytest.raises(StorageError):
            reading(BROKEN, resumed, resumed)

    def test_ends_with_an_error_after_repeated_interruptions(self, reading):
        header = f"Content-Range: bytes {CUT}-{len(CONTENT) - 1}/{len(CONTENT)}"
        empty = response("206 Partial Content", b"", header, "connection: close", length=len(CONTENT) - CUT)
        with pytest.raises(StorageUnavailable):
            reading(BROKEN, *[empty] * 3)
