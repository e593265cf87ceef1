"""
The sockets of clients, as the worker sees them: their activity, how they are ended, and how requests are received.

The head of a request is received before gunicorn parses it, so that the response cache can be consulted first.
:mod:`docker_registry.server.sending_socket` sends the responses.
"""

from __future__ import annotations

import fcntl
import logging
import select
import socket as plain_socket
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import gevent
from gevent import monkey
from gunicorn.http.errors import LimitRequestHeaders

from docker_registry.http.exchange import Exchange
from docker_registry.server.connections import Activity
from docker_registry.server.request_body import RequestBody
from docker_registry.server.sending_socket import SendingSocket

logger = logging.getLogger(__name__)

#: Limit for request line and headers together. It leaves space for access tokens and for Range headers with a thousand
#: ranges.
MAX_HEAD_BYTES: Final = 64 * 1024

#: Bytes requested by each receive of a request head, as in gunicorn.
_HEAD_BYTES: Final = 8192

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

#: A client that has shut down its sending side counts as connected for this time after its request.
HALF_CLOSED_SECONDS: Final = 2.0

#: gevent's own ``poll`` would switch to other greenlets.
_native_poll: Final = monkey.get_original("select", "poll")

#: Response to a client whose body is cut off and discarded.
_MESSAGE: Final = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"The registry is overloaded. Try again later."}]}\n'
_OVERLOADED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)


class ClientSocket(SendingSocket):
    """
    Common base of plain and TLS client sockets.

    Attributes:
        address: client address as shown in the access log.
        head: everything that was received with the head of the current request if the head arrived in one receive, else
            None.
        unreader: gunicorn's unreader, which may hold bytes of the next request.
        exchange: the current request and its response, set when it is reported to the observers; None until then.
        is_ended: whether the worker has ended the connection.
        active_since: start of the current activity, in seconds of :func:`time.monotonic`.
        greenlet: the greenlet that serves the connection.
        identity: SHA-256 of the client's TLS certificate; empty without one.
        parser: the HeadParser of the connection; None to leave all heads to gunicorn.
        request: the current request, if *parser* has parsed it; None between requests.
    """

    address = ""
    head: bytes | None = None
    unreader: Any = None
    exchange: Exchange | None = None
    is_ended = False
    active_since = 0.0
    greenlet: gevent.Greenlet[Any, Any] | None = None
    identity: bytes = b""
    parser: Any = None
    request: Any = None
    _ahead: bytes | None = None
    _has_received = False
    _head_bytes: int | None = None
    _activity = Activity.WAITING
    _body: RequestBody | None = None
    _tiny_pieces = 0  # consecutive tiny receives
    _has_short_pieces = False  # whether the kernel collects them

    def begin(self, activity: Activity, body: RequestBody | None = None) -> None:
        """
        Set the current activity and reset the byte counters.

        Args:
            body: body of the request whose processing begins; None between requests.
        """
        if self._has_short_pieces:
            self._stop_collecting()
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

    def _stop_collecting(self) -> None:
        """Receive bytes as they arrive again."""

    def receive_body(self, buffer: memoryview, min_remaining: int, /) -> int:  # noqa: ARG002 - used by an override
        """
        Receive bytes of a body into *buffer*, waiting for at least one.

        A client that sends a few bytes at a time is slowed down, so that it does not wake the worker for each of them.

        Args:
            min_remaining: lower bound of the bytes that the client has yet to send.

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

    def has_left(self) -> bool:
        """
        Return whether the client has closed its connection, without blocking and without consuming data.

        The end of the client's stream does not tell whether it has left or still reads (RFC 9293, section 3.6). So a
        computation that takes longer than ``HALF_CLOSED_SECONDS`` is stopped, and a shorter one is answered.
        """
        poll = _native_poll()
        try:
            poll.register(self.fileno(), select.POLLRDHUP)
        except ValueError:  # closed by the worker
            return True
        for _, events in poll.poll(0):
            is_reset = events & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
            return bool(is_reset) or time.monotonic() - self.active_since >= HALF_CLOSED_SECONDS
        return False

    def first_byte(self) -> bytes:
        """Wait for the first byte of the connection and return it without consuming it; empty if none arrives."""
        try:
            return self.recv(1, plain_socket.MSG_PEEK)
        except OSError:  # closed by the client
            return b""

    def receive_head(self, *, takes_turns: bool = False) -> bytes | None:
        """
        Receive the beginning of the next request.

        Args:
            takes_turns: let other connections whose requests have arrived run first. This does not apply to the first
                request of a connection, because a waiting connection counts as idle and may be closed.

        Returns:
            None if gunicorn has buffered it already; empty at the end of file, or when the connection is ended.
        """
        self.head = None
        if self._ahead is not None:
            received, self._ahead = self._ahead, None
            return received
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

    @property
    def has_next(self) -> bool:
        """Whether the next request has arrived with the current one."""
        return bool(self._ahead) or (self.unreader is not None and self.unreader.buf.getbuffer().nbytes > 0)

    def give_back(self, received: bytes) -> None:
        """Keep bytes that were received after the current request for the next :meth:`receive_head`."""
        self._ahead = received

    def give_head(self, received: bytes) -> None:
        """Let the next :meth:`recv`, by gunicorn, return *received*; empty bytes mean end of file."""
        self.head = self._ahead = received

    @contextmanager
    def limited_head(self) -> Iterator[None]:
        """
        Limit the bytes received during the block, the head of a request or the rest of it, to MAX_HEAD_BYTES.

        The time for them begins now: a connection that was idle until now must not end in the middle of a head.
        """
        self.begin(Activity.WAITING)
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


class PlainSocket(ClientSocket):
    """A client socket without TLS."""

    _more = plain_socket.MSG_MORE
    _least_bytes = 1  # current SO_RCVLOWAT: received bytes that make the socket readable

    def receive_body(self, buffer: memoryview, min_remaining: int, /) -> int:
        """
        Receive as :class:`ClientSocket` does, but let the kernel collect short pieces (SO_RCVLOWAT, socket(7)).

        The threshold never exceeds *min_remaining*, so the registry does not wait for bytes that never arrive, and the
        end of a body is received at once.
        """
        if self._has_short_pieces:
            self._collect(min(min_remaining, len(buffer), _COLLECTED_BYTES))
        try:
            arrived = super().receive_body(buffer, min_remaining)
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

    def _stop_collecting(self) -> None:
        self._collect(1)
        self._has_short_pieces = False

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
