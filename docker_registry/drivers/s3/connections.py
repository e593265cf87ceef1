"""
Connections to the store for small requests.

urllib3 opens them. The requests are written, and ordinary responses parsed, without its layers, which take most of the
time of a small request. Responses with chunked bodies or interim responses are parsed by http.client.
"""

from __future__ import annotations

import io
import select
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from gevent import monkey
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

#: gevent's own poll would let other greenlets run, and takes longer.
_poll: Final = monkey.get_original("select", "poll")

#: Connections that were idle for longer are closed: servers and NAT gateways may have forgotten them.
_MAX_IDLE_SECONDS: Final = 30.0

_RECEIVE_BYTES: Final = 64 * 1024
_MAX_RECEIVE_BYTES: Final = 1024 * 1024
_MAX_HEAD_BYTES: Final = 64 * 1024
#: A body up to this size is copied to send it in one system call with the head.
_JOINED_BYTES: Final = 256 * 1024


class Answer(NamedTuple):
    """
    The response to a request.

    Attributes:
        headers: by their names in lower case.
        content: the whole body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def modified(self) -> float:
        """The time of the last modification, in seconds since the Unix epoch."""
        return parsedate_to_datetime(self.headers["last-modified"]).timestamp()


class Connections:
    """Persistent connections to one server, which greenlets and threads may share."""

    def __init__(
        self, origin: str, *, ca_file: str | None, connect_seconds: float, read_seconds: float, max_idle: int
    ) -> None:
        """
        Args:
            origin: URL without a path.
            ca_file: PEM file of the trusted certificates; None for connections without TLS.
            read_seconds: timeout of each receive.
            max_idle: maximum number of connections that are kept open.
        """
        parts = urlsplit(origin)
        self._open = _opener(parts.hostname or "", parts.port, ca_file, connect_seconds)
        self._read_seconds = read_seconds
        self._max_idle = max_idle
        self._idle: list[tuple[Any, float]] = []
        weakref.finalize(self, _close_all, self._idle)  # for drivers that are never closed

    def exchange(self, method: str, head: bytes, body: bytes = b"") -> Answer:
        """
        Send a request once, and return its response.

        Args:
            head: the request line and all headers, with the empty line.

        Raises:
            OSError, HTTPException, HTTPError: there was no complete response. The server may have received the request.
        """
        connection = self._connection()
        try:
            if len(body) <= _JOINED_BYTES:
                connection.sendall(head + body)
            else:
                connection.sendall(head)
                connection.sendall(body)
            answer, is_reusable = _receive(connection, method)
        except TimeoutError:
            connection.close()
            self.close()  # the others may lead to a host that is gone, too
            raise
        except BaseException:
            connection.close()
            raise
        if is_reusable and len(self._idle) < self._max_idle:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close all idle connections."""
        _close_all(self._idle)

    def _connection(self) -> Any:
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            poll = _poll()
            poll.register(connection.fileno(), select.POLLIN)
            if time.monotonic() - since < _MAX_IDLE_SECONDS and not poll.poll(0):  # the server has not closed it
                return connection
            connection.close()
        connection = self._open()
        connection.settimeout(self._read_seconds)
        return connection


def _close_all(idle: list[tuple[Any, float]]) -> None:
    while idle:
        with suppress(IndexError):  # another thread was faster
            idle.pop()[0].close()


def _opener(host: str, port: int | None, ca_file: str | None, seconds: float) -> Callable[[], Any]:
    """Return a function that opens a connection; with *ca_file* by TLS, and the certificate is verified."""
    if ca_file is None:
        return lambda: _opened(HTTPConnection(host, port, timeout=seconds))
    context = create_urllib3_context()
    context.load_verify_locations(ca_file)
    return lambda: _opened(HTTPSConnection(host, port, timeout=seconds, ssl_context=context))


def _opened(connection: HTTPConnection) -> Any:
    connection.connect()
    return connection.sock


def _receive(connection: Any, method: str) -> tuple[Answer, bool]:
    """Receive a response; return also whether the connection can be used again."""
    received = connection.recv(_RECEIVE_BYTES)
    while (end := received.find(b"\r\n\r\n")) < 0:
        block = connection.recv(_RECEIVE_BYTES)
        if not block or len(received) > _MAX_HEAD_BYTES:
            raise ConnectionResetError("no complete response")
        received += block
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    version, _, rest = first.partition(" ")
    status = int(rest[:3]) if version == "HTTP/1.1" and rest[:3].isdecimal() else 0
    if method == "HEAD" or status in (204, 304):
        length = "0"
    else:
        length = "" if "transfer-encoding" in headers else headers.get("content-length", "")
    if status < 200 or not length.isdecimal():
        return _parse(connection, method, received)
    blocks, missing = [received[end + 4 :]], int(length) - (len(received) - end - 4)
    while missing > 0:
        block = connection.recv(min(missing, _MAX_RECEIVE_BYTES))
        if not block:
            raise ConnectionResetError("no complete response")
        blocks.append(block)
        missing -= len(block)
    if missing:
        raise ConnectionResetError("more than one response")
    has_more = getattr(connection, "pending", int)()  # decrypted already, so that poll would not see it
    return Answer(status, headers, b"".join(blocks)), not has_more and headers.get("connection", "").lower() != "close"


def _parse(connection: Any, method: str, received: bytes) -> tuple[Answer, bool]:
    """Receive the rest of any response."""
    response = HTTPResponse(_Replay(connection, received), method=method)  # type: ignore[arg-type]
    response.begin()
    content = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    # http.client takes an interim response other than 100 for the final one, which is still to come.
    return Answer(response.status, headers, content), not response.will_close and response.status >= 200


class _Replay(io.RawIOBase):
    """A connection whose first bytes were received already, as http.client expects it."""

    def __init__(self, connection: Any, received: bytes) -> None:
        self._connection = connection
        self._received = memoryview(received)

    def makefile(self, _: str) -> io.BufferedReader:
        """Return a file with the received bytes, followed by those of the connection."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """See :class:`io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """See :class:`io.RawIOBase`."""
        if not self._received:
            return int(self._connection.recv_into(buffer))
        block = self._received[: len(buffer)]
        buffer[: len(block)] = block
        self._received = self._received[len(block) :]
        return len(block)
