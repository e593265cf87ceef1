"""Request bodies read by the registry and by gunicorn from a connection that delivers pieces of any size."""

from __future__ import annotations

import io

from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import ParseException

from docker_registry.server.request_body import open_request_body

_CONFIG = Config()

CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Pieces:
    """A connection that delivers bytes in pieces of given sizes and then ends."""

    def __init__(self, content, sizes):
        self._stream = io.BytesIO(content)
        self._sizes = sizes
        self._turn = 0

    def recv(self, most):
        return self._stream.read(min(self._size(), most))

    def receive_body(self, buffer, min_remaining):
        return self._stream.readinto(buffer[: self._size()])

    def rest(self):
        return self._stream.read()

    def _size(self):
        self._turn += 1
        return self._sizes[self._turn % len(self._sizes)]


def parser_of(connection):
    """Return gunicorn's parser for a connection."""
    return RequestParser(_CONFIG, connection, ("127.0.0.1", 1))


def receive(header, wire, sizes):
    """Return a request as gunicorn parses it, and its connection."""
    connection = Pieces(b"PUT / HTTP/1.1\r\n" + header + b"\r\n" + wire, sizes)
    return next(parser_of(connection)), connection


def read_all(body, buffer_bytes):
    content, buffer = bytearray(), memoryview(bytearray(buffer_bytes))
    while filled := body.readinto(buffer):
        content += buffer[:filled]
    assert body.complete != body.failed
    assert 0 == body.readinto(buffer)
    return bytes(content)


def read_ours(header, wire, sizes, buffer_bytes=100):
    """Return the content and the start of the next request; None for the latter if the body is rejected."""
    request, connection = receive(header, wire, sizes)
    body = open_request_body(request, connection)
    content = read_all(body, buffer_bytes)
    return content, request.unreader.take_buffered() + connection.rest() if body.complete else None


def read_theirs(header, wire, sizes):
    """Return the same as gunicorn reads it; None if the body is rejected."""
    request, connection = receive(header, wire, sizes)
    try:
        content = request.body.read()
    except (OSError, ParseException):
        return None
    return content, request.unreader.take_buffered() + connection.rest()
