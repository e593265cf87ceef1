"""
The gunicorn worker: gevent's, with what a registry needs besides.

* Files go from the page cache to the socket by the kernel, without stopping other greenlets (gevent's own sendfile
  reads and sends 8 KiB at a time).
* The head of an answer goes out together with the beginning of its body.
* Bodies are received straight into the reader's buffer (:mod:`docker_registry.direct_body`).
* A TLS hello on the plain port is answered in plain text at once: Docker up to 17.05 tries one first and would wait.
* A client that is silent in the middle of a transfer is given up after a while, and one that is answered before it has
  sent all gets to read its answer.
* Idle connections make room for new ones, and at SIGTERM are closed at once, so that only transfers are waited for.
"""

from __future__ import annotations

import errno
import os
import socket as plain_socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import gevent
from gevent import socket
from gunicorn.glogging import Logger
from gunicorn.http.body import Body
from gunicorn.workers.ggevent import GeventWorker

from docker_registry.direct_body import DirectBody, direct_body

#: Sent in one system call at most, so that other greenlets get their turn in between.
SLICE_BYTES: Final = 4 * 1024 * 1024

#: What is read, and how long, of a body that nobody wanted, before the connection is closed instead.
DRAIN_BYTES: Final = 1024 * 1024
DRAIN_SECONDS: Final = 1.0

#: A body, or the first block of it, that is joined with its head; a longer one costs more to copy than to send alone.
JOINED_BYTES: Final = 64 * 1024

#: What a line of the access log is made of when it shows no headers.
_LOGGED: Final = (
    "REMOTE_ADDR", "REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL", "PATH_INFO", "QUERY_STRING", "HTTP_REFERER",
    "HTTP_USER_AGENT", "HTTP_AUTHORIZATION",
)  # fmt: skip

_TLS_HELLO: Final = b"\x16"

#: `docker manifest --insecure` turns to plain HTTP only when it reads HTTP where it expects TLS.
_NO_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTP, not HTTPS.\n"
)
_HELLO_BYTES: Final = 64 * 1024


class TransferSocket(socket.socket):
    """
    A client's socket, whose sendfile lets the kernel do the work while other greenlets run.

    Attributes:
        file_bytes: what was sent of files; gunicorn does not count it.
    """

    file_bytes = 0
    _holds_next = False
    _held = b""

    def begin_answer(self) -> None:
        """Keep what is sent next, the head of an answer, until there is more to be sent with it."""
        self._holds_next = True

    def end_answer(self) -> None:
        """Send what is kept: there is no more."""
        self._holds_next = False
        if self._held:
            head, self._held = self._held, b""
            super().sendall(head)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*, after the head of the answer if that was kept."""
        if self._holds_next:
            self._holds_next = False
            self._held = bytes(data)
            return
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= JOINED_BYTES:
                data = head + bytes(data)
            else:
                super().sendall(head, plain_socket.MSG_MORE)
        super().sendall(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file.

        Raises:
            OSError: the client went away or stopped reading, or the file is shorter than was announced.
        """
        if self._held:
            head, self._held = self._held, b""
            super().sendall(head, plain_socket.MSG_MORE)  # the kernel waits for the file's first bytes
        source, target = file.fileno(), self.fileno()
        left = os.fstat(source).st_size - offset if count is None else count
        sent = 0
        while sent < left:
            try:
                size = os.sendfile(target, source, offset + sent, min(left - sent, SLICE_BYTES))
            except BlockingIOError:
                socket.wait_write(target, timeout=self.gettimeout())
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            self.file_bytes += size
            gevent.sleep(0)
        return sent


class AccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logs, where the bytes of an answer are also those that the kernel sent of a file."""

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return what the line of a request may be made of."""
        sent = resp.sent + getattr(resp.sock, "file_bytes", 0)
        if "{" not in self.cfg.access_log_format:  # headers, of which gunicorn would make copies for every line
            req, environ = (), {name: environ[name] for name in _LOGGED if name in environ}
            resp = SimpleNamespace(status=resp.status, sent=sent, headers=())
        return {**super().atoms(resp, req, environ, request_time), "b": str(sent), "B": sent}


class RegistryWorker(GeventWorker):  # type: ignore[misc]
    """Serves the registry; ``-k docker_registry.worker.RegistryWorker`` with any gunicorn."""

    #: Seconds without a single byte from or to the client after which a transfer counts as cut off.
    silence_seconds: float = 300

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients: dict[Any, TransferSocket] = {}
        self._idle: dict[TransferSocket | None, None] = {}  # a set that keeps its order

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way."""
        gevent.spawn(self._close_idle_at_the_end)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        if self.cfg.is_ssl:
            super().handle(listener, client, addr)
            return
        greenlet = gevent.getcurrent()
        client = TransferSocket(client.family, client.type, client.proto, fileno=client.detach())
        self._clients[greenlet] = client
        try:
            if self._is_tls_hello(client):
                self._refuse_tls(client)
            else:
                super().handle(listener, client, addr)
        finally:
            del self._clients[greenlet]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer one request; False when the connection shall not be used for another."""
        body = direct_body(req, sock) if isinstance(req.body, Body) and isinstance(sock, TransferSocket) else None
        if body is None:
            return bool(super().handle_request(listener_name, req, sock, addr))
        req.body = body
        should_close = req.should_close
        # Asked when the head of the answer is sent: the client must hear whether it can go on with this connection.
        req.should_close = lambda: should_close() or body.left_bytes > DRAIN_BYTES
        sock.settimeout(self.silence_seconds)
        sock.file_bytes = 0
        sock.begin_answer()
        goes_on = True
        try:
            try:
                super().handle_request(listener_name, req, sock, addr)
            finally:
                sock.end_answer()
        except StopIteration:
            goes_on = False
        except TimeoutError:  # gunicorn would take it for a mistake of ours and log a traceback
            raise ConnectionResetError(errno.ECONNRESET, "the client has been silent for too long") from None
        if not body.complete:
            goes_on = self._drain(body, sock) and goes_on
        sock.settimeout(None)
        if not goes_on or not self.alive:
            raise StopIteration
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not even a request."""
        super().handle_error(req, client, addr, exc)
        if self.alive and isinstance(client, TransferSocket):
            self._let_read_the_answer(client, time.monotonic() + DRAIN_SECONDS)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for the next request of a connection, which is idle meanwhile."""
        client = self._clients.get(gevent.getcurrent())
        if len(self._clients) >= self.worker_connections:
            self._close_idle(1)  # nobody else could connect
        self._idle[client] = None
        try:
            with super().timeout_ctx():
                yield
        finally:
            self._idle.pop(client, None)

    def _is_tls_hello(self, client: Any) -> bool:
        try:
            with self.timeout_ctx():
                return bool(client.recv(1, plain_socket.MSG_PEEK) == _TLS_HELLO)
        except OSError:
            return False

    def _refuse_tls(self, client: Any) -> None:
        try:
            client.recv(_HELLO_BYTES)  # bytes that nobody reads would turn the close into a reset, and lose the answer
            client.sendall(_NO_TLS)
        except OSError:  # it does not wait for an answer
            pass
        finally:
            client.close()

    def _drain(self, body: DirectBody, sock: Any) -> bool:
        """
        Read away the end of a body that nobody wanted; tell whether the connection can be used again.

        A long one is not worth it.
        """
        block = memoryview(bytearray(65536))
        until = time.monotonic() + DRAIN_SECONDS
        left = DRAIN_BYTES
        sock.settimeout(DRAIN_SECONDS)
        while left > 0 and time.monotonic() < until:
            arrived = body.readinto(block)
            if not arrived:
                break
            left -= arrived
        if body.complete:
            return True
        self._let_read_the_answer(sock, until)
        return False

    def _let_read_the_answer(self, sock: Any, until: float) -> None:
        """Wait for the client's end, but not long: closing with bytes unread would reset the connection under it."""
        block = bytearray(65536)
        try:
            sock.settimeout(DRAIN_SECONDS)
            sock.shutdown(plain_socket.SHUT_WR)
            while time.monotonic() < until and sock.recv_into(block):
                pass
        except OSError:
            pass

    def _close_idle_at_the_end(self) -> None:
        while True:  # until the process ends: for a second after SIGTERM gunicorn still accepts connections
            gevent.sleep(0.2)
            if not self.alive:
                self._close_idle(len(self._idle))

    def _close_idle(self, count: int) -> None:
        """Close the connections that have been idle for the longest time."""
        for client in list(self._idle)[:count]:
            try:
                if client:
                    client.shutdown(plain_socket.SHUT_RD)
            except OSError:  # closed by its client
                continue
