"""
The gunicorn worker: gevent's, with what a registry needs besides.

* Files go from the page cache to the socket by the kernel, without stopping other greenlets (gevent's own sendfile
  reads and sends 8 KiB at a time).
* Bodies are received straight into the reader's buffer (:mod:`docker_registry.direct_body`).
* A TLS hello on the plain port is answered in plain text at once: Docker up to 17.05 tries one first and would wait.
* At SIGTERM connections on which nothing is under way are closed at once, so that only transfers are waited for.
"""

from __future__ import annotations

import errno
import os
import socket as plain_socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
from gevent import socket
from gunicorn.http.body import Body
from gunicorn.workers.ggevent import GeventWorker

from docker_registry.direct_body import DirectBody, direct_body

#: Sent in one system call at most, so that other greenlets get their turn in between.
SLICE_BYTES: Final = 4 * 1024 * 1024

#: Seconds without a single byte from or to the client after which a transfer counts as cut off.
SILENCE_SECONDS: Final = 300

#: What is read, and how long, of a body that nobody wanted, before the connection is closed instead.
DRAIN_BYTES: Final = 1024 * 1024
DRAIN_SECONDS: Final = 1.0

_TLS_HELLO: Final = b"\x16"

#: `docker manifest --insecure` turns to plain HTTP only when it reads HTTP where it expects TLS.
_NO_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTP, not HTTPS.\n"
)
_HELLO_BYTES: Final = 64 * 1024


class TransferSocket(socket.socket):
    """A client's socket, whose sendfile lets the kernel do the work while other greenlets run."""

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file.

        Raises:
            OSError: the client went away or stopped reading, or the file is shorter than was announced.
        """
        source, target = file.fileno(), self.fileno()
        left = os.fstat(source).st_size - offset if count is None else count
        sent = 0
        while sent < left:
            try:
                size = os.sendfile(target, source, offset + sent, min(left - sent, SLICE_BYTES))
            except BlockingIOError:
                socket.wait_write(target, timeout=SILENCE_SECONDS)
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            gevent.sleep(0)
        return sent


class RegistryWorker(GeventWorker):  # type: ignore[misc]
    """Serves the registry; ``-k docker_registry.worker.RegistryWorker`` with any gunicorn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients: dict[Any, Any] = {}
        self._idle: set[Any] = set()

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
        sock.settimeout(SILENCE_SECONDS)
        goes_on = True
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            goes_on = False
        if not body.complete:
            goes_on = self._drain(body, sock) and goes_on
        sock.settimeout(None)
        if not goes_on or not self.alive:
            raise StopIteration
        return True

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for the next request of a connection, which is idle meanwhile."""
        client = self._clients.get(gevent.getcurrent())
        self._idle.add(client)
        try:
            with super().timeout_ctx():
                yield
        finally:
            self._idle.discard(client)

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

        A long one is not worth it. Then the client first gets to read its answer: closing with bytes unread would
        reset the connection under it.
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
        try:
            sock.shutdown(plain_socket.SHUT_WR)
            while time.monotonic() < until and sock.recv_into(block):
                pass
        except OSError:
            pass
        return False

    def _close_idle_at_the_end(self) -> None:
        while self.alive:
            gevent.sleep(0.2)
        for client in list(self._idle):
            try:
                client.shutdown(plain_socket.SHUT_RD)
            except (OSError, AttributeError):
                continue
