"""Request bodies under any WSGI server: their content and whether they are complete."""

from __future__ import annotations

import io

import pytest
from gunicorn.http.errors import NoMoreData

from docker_registry.api.requests import open_body
from docker_registry.errors import Invalid, SizeInvalid
from docker_registry.server.request_body import ChunkedBody


def read(environ, buffer_bytes=4):
    """Return what came, and whether it was complete."""
    body, content, buffer = open_body(environ), b"", memoryview(bytearray(buffer_bytes))
    while filled := body.readinto(buffer):
        content += bytes(buffer[:filled])
    return content, body.complete


class TornChunks:
    """How gunicorn ends a chunked body that was cut off: it raises, and gives what it had of it when asked again."""

    def __init__(self):
        self.answers = [b"abcd", NoMoreData(), b"ef", b""]

    def read(self, size):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Gone:
    def read(self, size):
        raise ConnectionResetError


class TestABody:
    def test_of_the_registrys_worker_is_used_directly(self):
        stream = ChunkedBody(io.BytesIO(), b"", lambda rest: None)
        assert stream is open_body({"wsgi.input": stream, "HTTP_TRANSFER_ENCODING": "chunked"})

    @pytest.mark.parametrize("size", [0, 1, 4, 9])
    def test_with_a_length_ends_there(self, size):
        stream = io.BytesIO(b"x" * size + b"GET / HTTP/1.1")
        assert (b"x" * size, True) == read({"wsgi.input": stream, "CONTENT_LENGTH": str(size)})

    def test_with_a_length_may_be_truncated(self):
        assert (b"abc", False) == read({"wsgi.input": io.BytesIO(b"abc"), "CONTENT_LENGTH": "5"})

    def test_without_a_length_is_empty(self):
        assert (b"", True) == read({"wsgi.input": io.BytesIO(b"abc")})
        assert (b"", True) == read({"wsgi.input": io.BytesIO(b"abc"), "CONTENT_LENGTH": ""})

    @pytest.mark.parametrize("coding", ["chunked", "Chunked", " chunked\t", "identity, chunked"])
    def test_in_chunks_ends_where_the_server_reports_the_end(self, coding):
        assert (b"abcdef", True) == read({"wsgi.input": io.BytesIO(b"abcdef"), "HTTP_TRANSFER_ENCODING": coding})

    def test_in_chunks_may_be_truncated(self):
        assert (b"abcdef", False) == read({"wsgi.input": TornChunks(), "HTTP_TRANSFER_ENCODING": "chunked"})

    @pytest.mark.parametrize("header", [{"CONTENT_LENGTH": "5"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
    def test_of_a_client_that_disconnects_is_incomplete(self, header):
        assert (b"", False) == read({"wsgi.input": Gone(), **header})

    @pytest.mark.parametrize("text", ["x", "-1", "1.0", "+5", "٣", "0x5"])
    def test_with_an_invalid_length_is_rejected(self, text):
        with pytest.raises(SizeInvalid):
            open_body({"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": text})

    @pytest.mark.parametrize("coding", ["gzip, chunked", "GZIP,chunked", "deflate, chunked", "compress", "x"])
    def test_in_an_unsupported_coding_is_rejected(self, coding):
        with pytest.raises(Invalid):
            open_body({"wsgi.input": io.BytesIO(), "HTTP_TRANSFER_ENCODING": coding})
