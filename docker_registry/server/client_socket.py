"""
Client sockets of the worker, plain and TLS.

They send files with the kernel's sendfile, join a response head with the beginning of its body, and receive the head of
a request before gunicorn parses it, so that the response cache can be consulted first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket as plain_socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from typing import Any, Final

import gevent
from gevent import socket, ssl
from gunicorn.http.errors import LimitRequestHeaders

from docker_registry.dependencies import signature_of
from docker_registry.http.exchange import Exchange
from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.server.connections import Activity
from docker_registry.server.request_body import RequestBody
from docker_registry.server.response_cache import FileSlice

#: Maximum size of one send. A pull of 1 GiB takes 0.7 times as long as with 4 MiB, which exceeds the processor's cache;
#: 64 KiB is slower again.
SLICE_BYTES: Final = 256 * 1024

#: Bytes sent to one client before other greenlets run, even if that client could receive more.
_TURN_BYTES: Final = 1024 * 1024

#: Maximum size of a body, or of its first block, that is joined with the head. Copying a longer one costs more than a
#: second system call.
JOINED_BYTES: Final = 64 * 1024

#: Limit for request line and headers together. It leaves space for access tokens and for Range headers with a thousand
#: ranges.
MAX_HEAD_BYTES: Final = 64 * 1024

#: Bytes requested by each receive of a request head, as in gunicorn.
_HEAD_BYTES: Final = 8192

#: Maximum size of a response that is copied for the cache; sending a longer one costs more than computing it.
MAX_COPY_BYTES: Final = 64 * 1024

#: When a connection is ended while it receives a body, a received part shorter than this is discarded, not stored.
_KEPT_BYTES: Final = 16 * 1024

#: After a receive of fewer than ``_SHORT_PIECE_BYTES`` of a body, the kernel collects up to ``_COLLECTED_BYTES`` before
#: it reports the socket as readable.
_SHORT_PIECE_BYTES: Final = 4096
_COLLECTED_BYTES: Final = 16 * 1024

#: With TLS or very short chunks, the kernel cannot know how many bytes to collect. Then, after ``_TINY_PIECES``
#: consecutive receives of at most ``_TINY_PIECE_BYTES``, the next receive is delayed by ``_PAUSE_SECONDS``.
_TINY_PIECE_BYTES: Final = 64
_TINY_PIECES: Final = 64
_PAUSE_SECONDS: Final = 1.0

#: Response to a client whose body is cut off and discarded.
_MESSAGE: Final = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"The registry is overloaded. Try again later."}]}\n'
_OVERLOADED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)


class ClientSocket(socket.socket):
    """
    Common base of plain and TLS client sockets.

    Attributes:
        address: client address as shown in the access log.
        file_bytes: bytes sent by :meth:`sendfile`, which gunicorn does not count.
        sends_segments: whether :meth:`sendfile` accepts files with segments.
        head: everything that was received with the head of the current request if the head arrived in one receive, else
            None.
        unreader: gunicorn's unreader, which may hold bytes of the next request.
        exchange: the current request and its response, set when it is reported to the observers; None until then.
        answered_at: when the head of the last response was ready to be sent, in seconds of :func:`time.perf_counter`.
        is_ended: whether the worker has ended the connection.
        active_since: start of the current activity, in seconds of :func:`time.monotonic`.
        greenlet: the greenlet that serves the connection.
        identity: SHA-256 of the client's TLS certificate; empty without one.
        unsent: memory budget for response bytes that slow clients have not received yet, shared by all connections.
    """

    address = ""
    file_bytes = 0
    sends_segments = True
    head: bytes | None = None
    unreader: Any = None
    exchange: Exchange | None = None
    answered_at = 0.0
    is_ended = False
    active_since = 0.0
    greenlet: gevent.Greenlet[Any, Any] | None = None
    identity: bytes = b""
    unsent: MemoryBudget | None = None
    _ahead: bytes | None = None
    _has_received = False
    _head_bytes: int | None = None
    _copy: bytearray | None = None
    _copied_file: FileSlice | None = None
    _holds_next = False
    _held = b""
    _activity = Activity.WAITING
    _body: RequestBody | None = None
    _sent_bytes = 0
    _is_sending = False
    _tiny_pieces = 0  # consecutive tiny receives
    _more = 0  # flag for send when more data follows immediately

    def begin(self, activity: Activity, body: RequestBody | None = None) -> None:
        """
        Set the current activity and reset the byte counters.

        Args:
            body: body of the request whose processing begins; None between requests.
        """
        self._activity = activity
        self._body = body
        self._sent_bytes = 0
        self.file_bytes = 0
        self._tiny_pieces = 0
        self.active_since = time.monotonic()
        if self.is_ended and body is not None:  # the request arrived while the connection was being ended
            body.is_cut_off = not body.complete

    @property
    def activity(self) -> Activity:
        """The current activity of the connection."""
        body = self._body
        is_receiving = body is not None and not body.complete and not body.failed
        return Activity.TRANSFERRING if self._is_sending or is_receiving else self._activity

    @property
    def moved_bytes(self) -> int:
        """Bytes received and sent since the activity began."""
        received = 0 if self._body is None else self._received_bytes(self._body)
        return received + self._sent_bytes + self.file_bytes

    def end(self) -> None:
        """
        End the connection without blocking, and interrupt any wait for the client.

        A response that is being sent is cut off. A request body is cut off and the part received so far is stored, if
        it has at least ``_KEPT_BYTES``; otherwise the client gets 503. In all other cases, receives return end of file.
        """
        self.is_ended = True
        if self._is_sending:
            self._shut_down(plain_socket.SHUT_RDWR)
        elif self._body is None or self._body.complete:
            self.stop_receiving()
        elif self._received_bytes(self._body) >= _KEPT_BYTES:
            self._body.cut_off()
        else:
            self._abort(self._body)

    def _received_bytes(self, body: RequestBody) -> int:
        return body.received_bytes

    def receive_body(self, buffer: memoryview, least_left: int, /) -> int:  # noqa: ARG002 - used by an override
        """
        Receive bytes of a body into *buffer*, waiting for at least one.

        A client that sends a few bytes at a time is slowed down, so that it does not wake the worker for each of them.

        Args:
            least_left: minimum number of bytes that the client still has to send.

        Returns:
            The number of bytes received; 0 at the end of file.
        """
        if self._tiny_pieces >= _TINY_PIECES:
            gevent.sleep(_PAUSE_SECONDS)
        arrived = int(self.recv_into(buffer))
        self._tiny_pieces = self._tiny_pieces + 1 if arrived <= _TINY_PIECE_BYTES else 0
        return arrived

    def stop_receiving(self) -> None:
        """Make pending and later receives return end of file."""
        self._shut_down(plain_socket.SHUT_RD)

    def _abort(self, body: RequestBody) -> None:
        """Answer 503 and kill the greenlet. Storing such a short body would cost the application milliseconds."""
        body.is_cut_off = True
        with suppress(OSError):  # closed by the client
            self._send_at_once(_OVERLOADED, 0)
        self._shut_down(plain_socket.SHUT_RDWR)
        if self.greenlet is not None:
            self.greenlet.kill(block=False)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):  # closed by the client
            # gevent's own shutdown would raise an exception in the waiting greenlet. After the TLS socket's, the
            # connection would continue in plain text.
            self._sock.shutdown(how)  # type: ignore[attr-defined]

    def receive_head(self, *, takes_turns: bool = False) -> bytes | None:
        """
        Receive the beginning of the next request; return None if gunicorn has buffered it already.

        Args:
            takes_turns: let other connections whose requests have arrived run first. This does not apply to the first
                request of a connection, because a waiting connection counts as idle and may be closed.
        """
        self.head = None
        if self.unreader is not None and self.unreader.buf.getbuffer().nbytes:
            return None
        if takes_turns and self._has_received:
            self._wait_for_turn()
        self._has_received = True
        return bytes(super().recv(_HEAD_BYTES))

    @property
    def is_new(self) -> bool:
        """Whether the connection has received no request yet, not even a part of one."""
        return not self._has_received

    def _wait_for_turn(self) -> None:
        gevent.sleep(0)  # the next request may be buffered by TLS, so the connection need not become readable

    @property
    def has_head(self) -> bool:
        """Whether the complete head of the next request was received, without leading empty lines."""
        return self._ahead is not None and b"\r\n\r\n" in self._ahead and not self._ahead.startswith(b"\r\n")

    def give_head(self, received: bytes) -> None:
        """Let the next :meth:`recv`, by gunicorn, return *received*; empty bytes mean end of file."""
        self.head = self._ahead = received

    @contextmanager
    def limited_head(self) -> Iterator[None]:
        """Limit the bytes received during the block, the head of a request, to MAX_HEAD_BYTES."""
        self._head_bytes = 0
        try:
            yield
        finally:
            self._head_bytes = None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """
        Receive bytes; those given to :meth:`give_head` come first.

        Raises:
            LimitRequestHeaders: the head of a request exceeds MAX_HEAD_BYTES; gunicorn answers 431.
        """
        if self._head_bytes is not None and self._head_bytes >= MAX_HEAD_BYTES:
            raise LimitRequestHeaders("the request's head is too long")
        if self._ahead is not None:
            received, self._ahead = self._ahead, None
        else:
            self.head = None  # the head did not arrive in one receive
            received = bytes(super().recv(size, flags))
        if self._head_bytes is not None and not flags:
            self._head_bytes += len(received)
        return received

    def begin_copy(self) -> None:
        """Start to copy everything that is sent, until :meth:`end_copy`."""
        self._copy, self._copied_file = bytearray(), None

    def end_copy(self) -> tuple[bytes | None, FileSlice | None]:
        """
        Return what was sent since :meth:`begin_copy`: bytes, and the part of a file that followed them, if any.

        The bytes are None if they exceed MAX_COPY_BYTES or if the response cannot be repeated from the copy.
        """
        copied, self._copy = self._copy, None
        return None if copied is None else bytes(copied), self._copied_file

    def begin_answer(self) -> None:
        """Hold back the next send, the response head, and join it with the send after it."""
        self._holds_next = True

    def end_answer(self) -> None:
        """Send the response head if it is still held back because the response has no body."""
        self._holds_next = False
        if self._held:
            head, self._held = self._held, b""
            self._send_all(head, 0)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*, preceded by the response head if that was held back."""
        if self._copy is not None:
            if len(self._copy) + len(data) > MAX_COPY_BYTES or self._copied_file is not None:
                self._copy = None
            else:
                self._copy += data
        if self._holds_next:
            self._holds_next = False
            self._held = bytes(data)
            self.answered_at = time.perf_counter()
            return
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= JOINED_BYTES:
                data = head + bytes(data)
            else:
                self._send_all(head, self._more)
        self._send_all(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file, or the segments of a file that has a ``segments`` method.

        Args:
            file: an open file. If it has a method ``segments()``, that yields literal bytes and the parts to send, each
                as descriptor, offset and length, and *offset* and *count* are ignored. If it has a true attribute
                ``is_arriving``, literal bytes are sent at once, because the next segment may take a while.
            count: bytes to send; None sends the rest of the file.

        Returns:
            The number of bytes sent from the file, without literal bytes.

        Raises:
            OSError: the client disconnected or stopped reading, or the file is shorter than announced.
        """
        segments = getattr(file, "segments", None)
        if segments is None:
            fd = file.fileno()
            if count is None:
                count = os.fstat(fd).st_size - offset
            self._copy_file(file, offset, count)
            if self._held:
                self._send_ahead(b"")
            return self._send_part(fd, offset, count)
        self._copy = None
        sent = 0
        pending = b""
        is_arriving = getattr(file, "is_arriving", False)
        for segment in segments():
            if not isinstance(segment, bytes):
                self._send_ahead(pending)
                self._count_as_file(pending)
                pending = b""
                sent += self._send_part(*segment)
            elif is_arriving:
                self._send_literal(segment)
            else:
                pending += segment
        self._send_literal(pending)
        return sent

    def _send_literal(self, literal: bytes) -> None:
        head, self._held = self._held, b""
        self._send_all(head + literal, 0)
        self._count_as_file(literal)

    def _count_as_file(self, literal: bytes) -> None:
        """Count bytes that were just sent as bytes of the file, because gunicorn does not count them either."""
        self._sent_bytes -= len(literal)
        self.file_bytes += len(literal)

    def _send_ahead(self, data: bytes) -> None:
        """Send the held response head and *data*; the kernel joins them with the first bytes of the file."""
        head, self._held = self._held, b""
        self._send_all(head + data, self._more)

    def _copy_file(self, file: Any, offset: int, count: int) -> None:
        if self._copy is None:
            return
        if type(file) is not FileIO or self._copied_file is not None:  # closing another class may have side effects
            self._copy = None
        else:
            self._copied_file = FileSlice(signature_of(os.fstat(file.fileno())), offset, count)

    def send_file_slice(self, head: bytes, fd: int, part: FileSlice) -> None:
        """
        Send a response head and a part of a file.

        Raises:
            OSError: as for :meth:`sendfile`.
        """
        self._send_all(head, self._more)
        self._send_part(fd, part.offset, part.length)

    def _send_part(self, source: int, offset: int, count: int) -> int:
        target = self.fileno()
        sent = in_a_row = 0
        while sent < count:
            try:
                size = os.sendfile(target, source, offset + sent, min(count - sent, SLICE_BYTES))
            except BlockingIOError:
                self._is_sending = True
                try:
                    self._wait(self._write_event)  # type: ignore[attr-defined]
                finally:
                    self._is_sending = False
                in_a_row = 0
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            self.file_bytes += size
            in_a_row += size
            if in_a_row >= _TURN_BYTES and sent < count:
                gevent.sleep(0)
                in_a_row = 0
        return sent

    def _send_all(self, data: Any, flags: int) -> None:
        sent = self._send_at_once(data, flags)  # nearly always all of it, in one system call
        self._sent_bytes += sent
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:], flags)

    def _send_at_once(self, data: Any, flags: int) -> int:  # noqa: ARG002 - used by an override
        """Send as much as possible without blocking; return the number of bytes, which may be 0."""
        return 0

    def _send_slowly(self, rest: memoryview, flags: int) -> None:
        held = nullcontext() if self.unsent is None else self.unsent.hold(len(rest), revoke=self.end)
        self._is_sending = True
        try:
            with held:
                while rest:
                    sent = self.send(rest[:SLICE_BYTES], flags)
                    self._sent_bytes += sent
                    rest = rest[sent:]
        finally:
            self._is_sending = False


class PlainSocket(ClientSocket):
    """A client socket without TLS."""

    _more = plain_socket.MSG_MORE
    _has_short_pieces = False
    _least_bytes = 1  # current SO_RCVLOWAT: received bytes that make the socket readable

    def begin(self, activity: Activity, body: RequestBody | None = None) -> None:
        """See :class:`ClientSocket`."""
        if self._has_short_pieces:
            self._collect(1)
            self._has_short_pieces = False
        super().begin(activity, body)

    def receive_body(self, buffer: memoryview, least_left: int, /) -> int:
        """
        Receive as :class:`ClientSocket` does, but let the kernel collect short pieces (SO_RCVLOWAT, socket(7)).

        The threshold never exceeds *least_left*, so the registry does not wait for bytes that never arrive, and the end
        of a body is received at once.
        """
        if self._has_short_pieces:
            self._collect(min(least_left, len(buffer), _COLLECTED_BYTES))
        try:
            arrived = super().receive_body(buffer, least_left)
        except TimeoutError:
            arrived = self._receive_collected(buffer)
        if arrived < min(len(buffer), _SHORT_PIECE_BYTES):
            self._has_short_pieces = True
        return arrived

    def _receive_collected(self, buffer: memoryview) -> int:
        """Receive what has arrived below the threshold when a wait timed out; raise TimeoutError if nothing has."""
        try:
            return int(self._sock.recv_into(buffer))  # type: ignore[attr-defined]
        except BlockingIOError:
            raise TimeoutError from None

    def _collect(self, least_bytes: int) -> None:
        if least_bytes != self._least_bytes:
            self._sock.setsockopt(plain_socket.SOL_SOCKET, plain_socket.SO_RCVLOWAT, least_bytes)  # type: ignore[attr-defined]
            self._least_bytes = least_bytes

    def _received_bytes(self, body: RequestBody) -> int:
        if self._least_bytes == 1:
            return body.received_bytes
        unread = fcntl.ioctl(self.fileno(), termios.FIONREAD, bytes(4))
        return body.received_bytes + int.from_bytes(unread, sys.byteorder)

    def _wait_for_turn(self) -> None:
        # The event loop gets all readable connections in one call and resumes them in turn. Waiting first also saves
        # the recv that gevent would otherwise try before it waits.
        self._wait(self._read_event)  # type: ignore[attr-defined]

    def _send_at_once(self, data: Any, flags: int) -> int:
        try:
            return int(self._sock.send(data, flags))  # type: ignore[attr-defined]
        except BlockingIOError:
            return 0


class TlsSocket(ClientSocket, ssl.SSLSocket):  # type: ignore[misc] # gevent's own signatures differ
    """A TLS client socket."""

    sends_segments = False

    def identify(self) -> None:
        """Record the identity of the client's certificate; called after the TLS handshake."""
        certificate = self.getpeercert(binary_form=True)
        if certificate:
            self.identity = hashlib.sha256(certificate).digest()

    def _send_at_once(self, data: Any, flags: int) -> int:  # noqa: ARG002 - TLS has no flags
        encrypted = self._sslobj  # type: ignore[attr-defined] # of ssl.SSLSocket
        if encrypted is None or not data:
            return 0
        try:
            return int(encrypted.write(data if len(data) <= SLICE_BYTES else memoryview(data)[:SLICE_BYTES]))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0


class TlsContext:
    """Creates the worker's TLS sockets and leaves the handshake to the worker."""

    def __init__(self, current: Callable[[], ssl.SSLContext]) -> None:
        """
        Args:
            current: returns the SSL context to use for a new connection.
        """
        self._current = current

    def wrap_socket(self, connection: socket.socket, server_side: bool = True) -> TlsSocket:
        """Return the TLS socket for an accepted connection, with the handshake still to be done."""
        context = self._current()
        context.sslsocket_class = TlsSocket
        made: TlsSocket = context.wrap_socket(  # type: ignore[assignment]
            connection, server_side=server_side, do_handshake_on_connect=False
        )
        return made
