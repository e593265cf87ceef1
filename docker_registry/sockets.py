"""A client's socket, as the worker needs it: the kernel sends files, and heads are looked at before gunicorn does."""

from __future__ import annotations

import errno
import os
import socket as plain_socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

import gevent
from gevent import socket, ssl
from gunicorn.http.errors import LimitRequestHeaders

from docker_registry.connections import Activity
from docker_registry.direct_body import DirectBody
from docker_registry.memory_budget import MemoryBudget

#: Sent in one system call at most, so that other greenlets get their turn in between.
SLICE_BYTES: Final = 4 * 1024 * 1024

#: A body, or the first block of it, that is joined with its head; a longer one costs more to copy than to send alone.
JOINED_BYTES: Final = 64 * 1024

#: A request's line and headers together; tokens are long, and so is a Range with a thousand parts.
MAX_HEAD_BYTES: Final = 64 * 1024

#: What gunicorn receives at once of a head.
_HEAD_BYTES: Final = 8192

#: A longer answer is not copied: to send it costs more than to make it.
MAX_COPY_BYTES: Final = 64 * 1024


#: A body of which less has come is not worth being kept when it is cut off.
_KEPT_BYTES: Final = 64 * 1024

#: What a client hears whose body is cut off and not kept.
_MESSAGE: Final = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"The registry is overloaded. Try again later."}]}\n'
_OVERLOADED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)


class ClientSocket(socket.socket):
    """
    What plain and TLS sockets of clients have in common.

    Attributes:
        address: of the client, as the access log shows it.
        file_bytes: what :meth:`sendfile` has sent; gunicorn does not count it.
        sends_segments: that :meth:`sendfile` takes files with segments.
        head: of the request under way, if it came at once; what came with it is part of it.
        unreader: gunicorn's, which may hold what was received of the next request.
        logged: what the access log said of the last answer.
        is_ended: whether the worker has ended it.
        active_since: when the present activity began, by the monotonic clock.
        greenlet: the one that serves it.
        unsent: the budget for what slow clients have not taken yet of their responses.
    """

    address = ""
    file_bytes = 0
    sends_segments = True
    head: bytes | None = None
    unreader: Any = None
    logged: dict[str, Any] | None = None
    is_ended = False
    active_since = 0.0
    greenlet: gevent.Greenlet[Any, Any] | None = None
    unsent: MemoryBudget | None = None
    _ahead: bytes | None = None
    _head_bytes: int | None = None
    _copy: bytearray | None = None
    _holds_next = False
    _held = b""
    _activity = Activity.WAITING
    _body: DirectBody | None = None
    _sent_bytes = 0
    _is_sending = False
    _more = 0  # a flag of send: more is going to be sent at once

    def begin(self, activity: Activity, body: DirectBody | None = None) -> None:
        """
        Note what the connection is occupied with from now on.

        Args:
            body: of the request that is answered from now on.
        """
        self._activity = activity
        self._body = body
        self._sent_bytes = 0
        self.file_bytes = 0
        self.active_since = time.monotonic()
        if self.is_ended and body is not None:  # its request arrived at that very moment
            body.is_cut_off = not body.complete

    @property
    def activity(self) -> Activity:
        """What the connection is occupied with."""
        body = self._body
        is_receiving = body is not None and not body.complete and not body.failed
        return Activity.TRANSFERRING if self._is_sending or is_receiving else self._activity

    @property
    def moved_bytes(self) -> int:
        """What was received or sent since the activity began."""
        received = 0 if self._body is None else self._body.received_bytes
        return received + self._sent_bytes + self.file_bytes

    def end(self) -> None:
        """Make whatever waits for the client end soon."""
        self.is_ended = True
        if self._is_sending:
            self._shut_down(plain_socket.SHUT_RDWR)
        elif self._body is None or self._body.complete:
            self.stop_receiving()
        elif self._body.received_bytes >= _KEPT_BYTES:
            self._body.cut_off()
        else:
            self._abort(self._body)

    def stop_receiving(self) -> None:
        """Let whatever waits for bytes of the client find the end of the connection."""
        self._shut_down(plain_socket.SHUT_RD)

    def _abort(self, body: DirectBody) -> None:
        """End a request without the application, which would take milliseconds to keep what came of a body."""
        body.is_cut_off = True
        with suppress(OSError):  # closed by its client
            self._send_at_once(_OVERLOADED, 0)
        self._shut_down(plain_socket.SHUT_RDWR)
        if self.greenlet is not None:
            self.greenlet.kill(block=False)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):  # closed by its client
            # Not gevent's shutdown, which raises an error in the greenlet that waits; nor that of TLS, which would
            # let it go on in plain text.
            self._sock.shutdown(how)  # type: ignore[attr-defined]

    def receive_head(self) -> bytes | None:
        """Receive the beginning of the next request; None when gunicorn holds it already."""
        self.head = None
        if self.unreader is not None and self.unreader.buf.getbuffer().nbytes:
            return None
        return bytes(super().recv(_HEAD_BYTES))

    @property
    def has_head(self) -> bool:
        """Whether the head of the next request was received whole, and nothing before it."""
        return self._ahead is not None and b"\r\n\r\n" in self._ahead and not self._ahead.startswith(b"\r\n")

    def give_head(self, received: bytes) -> None:
        """Let gunicorn have what was received, as if it came now; nothing is the end of the connection."""
        self.head = self._ahead = received

    @contextmanager
    def limited_head(self) -> Iterator[None]:
        """Limit what is received meanwhile, which is the head of a request."""
        self._head_bytes = 0
        try:
            yield
        finally:
            self._head_bytes = None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """
        Receive, after what was received ahead.

        Raises:
            LimitRequestHeaders: the head of a request does not end within MAX_HEAD_BYTES; gunicorn answers 431.
        """
        if self._head_bytes is not None and self._head_bytes >= MAX_HEAD_BYTES:
            raise LimitRequestHeaders("the request's head is too long")
        if self._ahead is not None:
            received, self._ahead = self._ahead, None
        else:
            self.head = None  # more than came at once
            received = bytes(super().recv(size, flags))
        if self._head_bytes is not None and not flags:
            self._head_bytes += len(received)
        return received

    def begin_copy(self) -> None:
        """Keep a copy of what is sent from now on."""
        self._copy = bytearray()

    def end_copy(self) -> bytes | None:
        """Return what was sent meanwhile; None when it is too long, or was a file."""
        copied, self._copy = self._copy, None
        return None if copied is None else bytes(copied)

    def begin_answer(self) -> None:
        """Keep what is sent next, the head of an answer, until there is more to be sent with it."""
        self._holds_next = True

    def end_answer(self) -> None:
        """Send what is kept: there is no more."""
        self._holds_next = False
        if self._held:
            head, self._held = self._held, b""
            self._send_all(head, 0)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*, after the head of the answer if that was kept."""
        if self._copy is not None:
            if len(self._copy) + len(data) > MAX_COPY_BYTES:
                self._copy = None
            else:
                self._copy += data
        if self._holds_next:
            self._holds_next = False
            self._held = bytes(data)
            return
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= JOINED_BYTES:
                data = head + bytes(data)
            else:
                super().sendall(head, self._more)
        self._send_all(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file; or, of one that has ``segments``, those.

        Args:
            file: its ``segments()``, if it has any, are bytes to send as they are, and offset and length of parts of
                the file; then *offset* and *count* mean nothing.

        Returns:
            Bytes sent of the file.

        Raises:
            OSError: the client went away or stopped reading, or the file is shorter than was announced.
        """
        self._copy = None
        segments = getattr(file, "segments", None)
        if segments is None:
            if self._held:
                self._send_ahead(b"")
            return self._send_part(file, offset, count)
        sent = 0
        pending = b""
        for segment in segments():
            if isinstance(segment, bytes):
                pending += segment
                continue
            self._send_ahead(pending)
            self.file_bytes += len(pending)
            pending = b""
            sent += self._send_part(file, *segment)
        self._send_all(pending, 0)
        self.file_bytes += len(pending)
        return sent

    def _send_ahead(self, data: bytes) -> None:
        """Send the kept head of the answer and *data*; the kernel joins them with the first bytes of a file."""
        head, self._held = self._held, b""
        super().sendall(head + data, self._more)

    def _send_part(self, file: Any, offset: int, count: int | None) -> int:
        source, target = file.fileno(), self.fileno()
        left = os.fstat(source).st_size - offset if count is None else count
        sent = 0
        while sent < left:
            try:
                size = os.sendfile(target, source, offset + sent, min(left - sent, SLICE_BYTES))
            except BlockingIOError:
                self._is_sending = True
                try:
                    socket.wait_write(target, timeout=self.gettimeout())
                finally:
                    self._is_sending = False
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            self.file_bytes += size
            gevent.sleep(0)
        return sent

    def _send_all(self, data: Any, flags: int) -> None:
        sent = self._send_at_once(data, flags)  # nearly always all of it, in one call of the system
        self._sent_bytes += sent
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:], flags)

    def _send_at_once(self, data: Any, flags: int) -> int:  # noqa: ARG002 - for those that can
        """Send as much as goes without waiting; may be nothing."""
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


class TransferSocket(ClientSocket):
    """A client's socket, whose sendfile lets the kernel do the work while other greenlets run."""

    _more = plain_socket.MSG_MORE

    def _send_at_once(self, data: Any, flags: int) -> int:
        try:
            return int(self._sock.send(data, flags))  # type: ignore[attr-defined]
        except BlockingIOError:
            return 0


class TlsSocket(ClientSocket, ssl.SSLSocket):  # type: ignore[misc] # gevent's own signatures differ
    """A client's socket with TLS."""

    sends_segments = False


class TlsContext:
    """Makes the sockets of a worker with TLS; their handshake is still to be done."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        context.sslsocket_class = TlsSocket

    def wrap_socket(self, connection: socket.socket, server_side: bool = True) -> TlsSocket:
        """Return the TLS socket of an accepted connection."""
        made: TlsSocket = self._context.wrap_socket(  # type: ignore[assignment]
            connection, server_side=server_side, do_handshake_on_connect=False
        )
        return made
