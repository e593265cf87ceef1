"""Requests that no library would send: paths, headers and bodies are sent exactly as given."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def error(self):
        """Return the status and the message of an error."""
        return self.status, json.loads(self.content)["error"]


def ask(server, method, target, *lines, body=b""):
    """
    Send a request and read the response.

    Args:
        target: of the request line; text or bytes.
        lines: headers beside ``Host`` and ``Connection``.
    """
    with connect(server) as connection:
        send(connection, method, target, *lines, body=body)
        return receive(connection, method)


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)


def send(connection, method, target, *lines, body=b""):
    head = [b"%b %b HTTP/1.1" % (method.encode(), _bytes(target)), b"Host: 127.0.0.1", b"Connection: close"]
    content = b"\r\n".join([*head, *map(_bytes, lines), b"", body])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # rejected before its end
        connection.sendall(content)


def receive(connection, method="GET"):
    response = HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def length(body):
    return f"Content-Length: {len(body)}"


def chunked(*chunks):
    """Return a chunked body without its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


END = b"0\r\n\r\n"


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode("latin-1")
