"""Responses as the registry and as gunicorn write them, over real sockets: the same bytes, or the same error."""

from __future__ import annotations

import re
import socket

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import FileWrapper, Response

from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.request_body import open_request_body
from docker_registry.server.response_writer import ResponseWriter

LENGTH = ("Content-Length", "5")
TYPE = ("Content-Type", "text/plain")

DATE = re.compile(rb"\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n")

#: Request methods and versions.
REQUESTS = ["GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"]

#: Status, headers and body of responses.
RESPONSES = {
    "usual": ("200 OK", [TYPE, LENGTH], [b"abcde"]),
    "in blocks": ("200 OK", [TYPE, LENGTH], [b"ab", b"", b"cde"]),
    "too long": ("200 OK", [LENGTH], [b"abc", b"defg", b"h"]),
    "too short": ("200 OK", [LENGTH], [b"abc"]),
    "without a length": ("200 OK", [TYPE], [b"ab", b"", b"c"]),
    "empty": ("404 NOT FOUND", [TYPE, ("Content-Length", "0")], []),
    "no headers": ("200 OK", [], [b"a"]),
    "no reason": ("200", [LENGTH], [b"abcde"]),
    "not modified": ("304 NOT MODIFIED", [("ETag", '"a"'), LENGTH], []),
    "no content": ("204 NO CONTENT", [TYPE, LENGTH], []),
    "interim": ("100 Continue", [LENGTH], []),
    "repeated header": (
        "401 UNAUTHORIZED",
        [("WWW-Authenticate", "Basic"), ("WWW-Authenticate", "Bearer"), LENGTH],
        [],
    ),
    "repeated length": ("200 OK", [LENGTH, ("content-length", "3")], [b"abcde"]),
    "lower case": ("200 OK", [("content-length", "3"), ("content-type", "a/b")], [b"abc"]),
    "values with spaces": ("200 OK", [("A", " a\tb "), ("B", ""), ("C", "\t"), ("Content-Length", " 1 ")], [b"a"]),
    "bytes above ASCII": ("200 \xe4", [("A", "\xe4\xff"), LENGTH], [b"abcde"]),
    "hop by hop": (
        "200 OK",
        [("Connection", "close"), ("Server", "x"), ("date", "y"), ("TE", "z"), LENGTH],
        [b"abcde"],
    ),
    "upgrade": ("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "websocket")], []),
    "file": ("200 OK", [LENGTH], FileWrapper),
    "status of bytes": (b"200 OK", [LENGTH], []),
    "status with a line break": ("200 OK\r\nA: b", [LENGTH], []),
    "status of four digits": ("2000 OK", [LENGTH], []),
    "negative length": ("200 OK", [("Content-Length", "-1")], [b"a"]),
    "length in words": ("200 OK", [("Content-Length", "five")], []),
    "no body of bytes": ("200 OK", [LENGTH], ["abcde"]),
    "headers in pairs of bytes": ("200 OK", [(b"A", b"b")], []),
    "number as value": ("200 OK", [("A", 1)], []),
    "three parts": ("200 OK", [("A", "b", "c")], []),
    "name empty": ("200 OK", [("", "b")], []),
    "name with a colon": ("200 OK", [("A: b", "c")], []),
    "name with a space": ("200 OK", [("A ", "b")], []),
    "name with a line break": ("200 OK", [("A\nB", "c"), LENGTH], []),
    "value with CR LF": ("200 OK", [("A", "b\r\nC: d"), LENGTH], []),
    "value with LF": ("200 OK", [("A", "b\nc"), LENGTH], []),
    "value with LF at the end": ("200 OK", [LENGTH, ("A", "b\n")], []),
    "value with CR": ("200 OK", [("A", "b\rC: d")], []),
    "value with NUL": ("200 OK", [("A", "b\0")], []),
    "value beyond latin-1": ("200 OK", [("A", "\u20ac")], []),
}


@pytest.fixture
def written(tmp_path):
    """Return what a class of responses writes: bytes, what gunicorn counts and keeps; and the error."""
    file = tmp_path / "file"
    file.write_bytes(b"abcdefg")
    cfg = Config()

    def write(response_class, line, status, headers, blocks):
        server, client = socket.socketpair()
        with client, PlainSocket(server.family, server.type, server.proto, fileno=server.detach()) as server:
            client.sendall(f"{line}\r\n\r\n".encode())
            request = next(RequestParser(cfg, server, ("127.0.0.1", 1)))
            request.body = open_request_body(request, server)
            response, error = response_class(request, server, cfg), None
            response.must_close = request.should_close()  # as the request loop does
            with file.open("rb") as content:
                body = FileWrapper(content) if blocks is FileWrapper else blocks
                try:
                    response.start_response(status, list(headers))
                    if isinstance(body, FileWrapper):
                        response.write_file(body)
                    else:
                        for block in body:
                            response.write(block)
                    response.close()
                except Exception as raised:  # noqa: BLE001 - compared with that of gunicorn
                    error = type(raised), str(raised)
            server.end_answer()
            server.shutdown(socket.SHUT_WR)
            wire = b"".join(iter(lambda: client.recv(65536), b""))
            facts = (
                response.sent,
                response.headers,
                response.headers_sent,
                error is not None or response.should_close(),
            )
            return DATE.sub(b"\r\nDate: now\r\n", wire), error, facts

    return write


class TestAResponse:
    @pytest.mark.parametrize("name", RESPONSES)
    def test_is_written_as_by_gunicorn(self, written, name):
        for line in REQUESTS:
            wire, error, facts = written(ResponseWriter, line, *RESPONSES[name])
            their_wire, their_error, their_facts = written(Response, line, *RESPONSES[name])
            assert their_wire == wire
            assert their_error == error
            if error is None:
                assert their_facts == facts

    def test_that_was_never_started_is_an_error(self):
        with pytest.raises(AssertionError, match="start_response"):
            ResponseWriter(None, None, None).close()
