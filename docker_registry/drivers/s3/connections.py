"""
Connections to the store for requests of single objects.

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
from ssl import SSLWantReadError
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


class Download:
    """
    A response whose body is received in parts.

    Attributes:
        status: 200 or 206.
        headers: by their names in lower case.
        remaining: bytes of the body that have not been read yet.
    """

    __slots__ = ("_ahead", "_connection", "_connections", "headers", "remaining", "status")

    def __init__(self, connections: Connections, connection: Any, head: _Head, length: int) -> None:
        """
        Args:
            length: of the body in bytes.
        """
        self.status = head.status
        self.headers = head.headers
        self.remaining = length
        self._ahead = head.ahead
        self._connections = connections
        self._connection = connection
        if not length:
            self._finish()

    def read(self, max_bytes: int) -> bytes:
        """
        Return the next bytes of the body as soon as there are any; empty only at its end.

        Raises:
            OSError: the connection was lost before the end of the body.
        """
        if not self.remaining:
            return b""
        block, self._ahead = self._ahead, b""
        try:
            if not block:
                block = _receive_available(self._connection, min(self.remaining, max_bytes))
            if not block or len(block) > self.remaining:
                raise ConnectionResetError("no complete response" if not block else "more than one response")
        except BaseException as error:
            connection, self._connection = self._connection, None
            self._connections.drop(connection, error)
            raise
        self.remaining -= len(block)
        if not self.remaining:
            self._finish()
        return bytes(block)

    def close(self) -> None:
        """Close the connection, unless the whole body was read."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        self._connections.release(connection, is_reusable=not self._ahead and _is_reusable(connection, self.headers))


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
                _send(connection, head + body)
            else:
                _send(connection, head)
                connection.sendall(body)
            answer, is_reusable = _receive_rest(connection, method, _receive_head(connection))
        except BaseException as error:
            self.drop(connection, error)
            raise
        self.release(connection, is_reusable=is_reusable)
        return answer

    def download(self, head: bytes) -> Download | Answer:
        """
        Send a GET request once, and return as soon as the head of the response was received.

        Args:
            head: as for :meth:`exchange`.

        Returns:
            The whole response if it is an error or a redirect.

        Raises:
            OSError, HTTPException, HTTPError: there was no complete response, an interim one, or a body without
                Content-Length.
        """
        connection = self._connection()
        try:
            _send(connection, head)
            received = _receive_head(connection)
            if received.status in (200, 206) and received.length is not None:
                return Download(self, connection, received, received.length)
            if received.status < 300:  # the body may be long
                raise ConnectionResetError("not an ordinary response")
            answer, is_reusable = _receive_rest(connection, "GET", received)
        except BaseException as error:
            self.drop(connection, error)
            raise
        self.release(connection, is_reusable=is_reusable)
        return answer

    def drop(self, connection: Any, error: BaseException) -> None:
        """Close a connection after an error; after a timeout also the idle ones, whose host may be gone too."""
        connection.close()
        if isinstance(error, TimeoutError):
            self.close()

    def release(self, connection: Any, *, is_reusable: bool) -> None:
        """Keep a connection for the next request, or close it if it cannot be used again or there are enough."""
        if is_reusable and len(self._idle) < self._max_idle:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

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


class _Head(NamedTuple):
    """
    The head of a response, and what was received with it.

    Attributes:
        status: 0 if the head is not that of an ordinary response.
        ahead: the beginning of the body.
        received: all bytes.
    """

    status: int
    headers: Mapping[str, str]
    ahead: bytes
    received: bytes

    @property
    def length(self) -> int | None:
        """The length of the body by its header, bytes; None if the header is missing or does not count."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdecimal() and "transfer-encoding" not in self.headers else None


def _send(connection: Any, content: bytes) -> None:
    """Send what the socket usually accepts at once; gevent's sendall first asks for the size of its buffer."""
    sent = connection.send(content)
    if sent < len(content):
        connection.sendall(content[sent:])


def _receive_head(connection: Any) -> _Head:
    received = connection.recv(_RECEIVE_BYTES)
    while (end := received.find(b"\r\n\r\n")) < 0:
        block = connection.recv(_RECEIVE_BYTES)
        if not block or len(received) > _MAX_HEAD_BYTES:
            raise ConnectionResetError("no complete response")
        received += block
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    version, _, rest = first.partition(" ")
    status = int(rest[:3]) if version == "HTTP/1.1" and rest[:3].isdecimal() else 0
    return _Head(status, headers, received[end + 4 :], received)


def _receive_rest(connection: Any, method: str, head: _Head) -> tuple[Answer, bool]:
    """Receive the rest of a response; return also whether the connection can be used again."""
    length = 0 if method == "HEAD" or head.status in (204, 304) else head.length
    if head.status < 200 or length is None:
        return _parse(connection, method, head.received)
    blocks, missing = [head.ahead], length - len(head.ahead)
    while missing > 0:
        block = connection.recv(min(missing, _MAX_RECEIVE_BYTES))
        if not block:
            raise ConnectionResetError("no complete response")
        blocks.append(block)
        missing -= len(block)
    if missing:
        raise ConnectionResetError("more than one response")
    return Answer(head.status, head.headers, b"".join(blocks)), _is_reusable(connection, head.headers)


def _receive_available(connection: Any, max_bytes: int) -> bytes:
    """Wait for bytes and return those that are there; empty if the server has closed the connection."""
    block: bytes = connection.recv(max_bytes)
    if not hasattr(connection, "pending"):
        return block
    blocks, size = [block], len(block)  # TLS returns one record of at most 16 KiB at a time
    seconds = connection.gettimeout()
    connection.settimeout(0)
    try:
        while block and size < max_bytes:
            block = connection.recv(max_bytes - size)
            blocks.append(block)
            size += len(block)
    except (BlockingIOError, SSLWantReadError):
        pass
    finally:
        connection.settimeout(seconds)
    return b"".join(blocks)


def _is_reusable(connection: Any, headers: Mapping[str, str]) -> bool:
    """Return whether a connection can be used again after a complete response."""
    has_more = getattr(connection, "pending", int)()  # decrypted already, so that poll would not see it
    return not has_more and headers.get("connection", "").lower() != "close"


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
