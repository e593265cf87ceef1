"""
The gunicorn worker: gevent's, with what a registry needs besides.

* Files go from the page cache to the socket by the kernel, without stopping other greenlets (gevent's own sendfile
  reads and sends 8 KiB at a time).
* The head of an answer goes out together with the beginning of its body.
* A request that was answered before is answered again without gunicorn and the application, if nothing has changed
  (:mod:`docker_registry.repeats`).
* Bodies are received straight into the reader's buffer (:mod:`docker_registry.direct_body`).
* A TLS hello on the plain port is answered in plain text at once: Docker up to 17.05 tries one first and would wait.
* A client that is silent in the middle of a transfer is given up after a while, and one that is answered before it has
  sent all gets to read its answer.
* Idle connections make room for new ones, and at SIGTERM are closed at once, so that only transfers are waited for.
"""

from __future__ import annotations

import errno
import gc
import itertools
import signal
import socket as plain_socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import gevent
import gevent.socket
from gevent import monkey
from gunicorn.http.body import Body
from gunicorn.workers.ggevent import GeventWorker

from docker_registry import endings, provenance
from docker_registry.access_log import AccessLog
from docker_registry.alone import answering
from docker_registry.direct_body import direct_body
from docker_registry.patching import patch_worker
from docker_registry.repeats import Answer, Repeats
from docker_registry.sockets import TransferSocket

#: Methods whose answers may be given again.
_SAFE: Final = {"GET", "HEAD"}

#: So many requests of one connection are answered again before others get their turn.
_TURN_REQUESTS: Final = 32


class RegistryWorker(GeventWorker):  # type: ignore[misc]
    """Serves the registry; ``-k docker_registry.worker.RegistryWorker`` with any gunicorn."""

    #: Seconds without a single byte from or to the client after which a transfer counts as cut off.
    silence_seconds: float = 300

    alive: bool
    sockets: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients: dict[Any, TransferSocket] = {}
        self._idle: dict[TransferSocket | None, None] = {}  # a set that keeps its order
        self._repeats = Repeats() if self._may_repeat() else None

    def patch(self) -> None:
        """Patch what is not patched yet: all of it, or the little that ``docker-registry`` leaves to the worker."""
        if not monkey.is_module_patched("socket"):
            super().patch()
            return
        patch_worker()
        self.sockets = [
            gevent.socket.socket(one.FAMILY, plain_socket.SOCK_STREAM, fileno=one.sock.detach()) for one in self.sockets
        ]

    def init_process(self) -> None:
        """Get ready, and serve."""
        # gunicorn does so a little later; until then what its master is told would be lost, and this worker go on.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.handle_exit)
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way."""
        # gunicorn asks some twenty settings for each request, and each time searches for them in three places.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        gc.freeze()  # what is there now stays, and no search for garbage needs to pass through it
        gevent.spawn(self._close_idle_at_the_end)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        if self.cfg.is_ssl:
            super().handle(listener, client, addr)
            return
        greenlet = gevent.getcurrent()
        client = TransferSocket(client.family, client.type, client.proto, fileno=client.detach())
        client.address = str(addr[0]) if isinstance(addr, tuple) else ""
        self._clients[greenlet] = client
        try:
            if self._is_tls_hello(client):
                endings.refuse_tls(client)
            else:
                super().handle(listener, client, addr)
        finally:
            del self._clients[greenlet]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer one request; False when the connection shall not be used for another."""
        answering.begin(sock.fileno())
        try:
            return self._handle_request(listener_name, req, sock, addr)
        finally:
            answering.end()

    def _handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        body = direct_body(req, sock) if isinstance(req.body, Body) and isinstance(sock, TransferSocket) else None
        if body is None:
            return bool(super().handle_request(listener_name, req, sock, addr))
        req.body = body
        sock.unreader = req.unreader
        should_close = req.should_close
        # Asked when the head of the answer is sent: the client must hear whether it can go on with this connection.
        req.should_close = lambda: should_close() or body.left_bytes > endings.DRAIN_BYTES
        sock.settimeout(self.silence_seconds)
        sock.file_bytes = 0
        sock.begin_answer()
        goes_on = True
        try:
            try:
                self._answer(listener_name, req, sock, addr)
            finally:
                sock.end_answer()
        except StopIteration:
            goes_on = False
        except TimeoutError:  # gunicorn would take it for a mistake of ours and log a traceback
            raise ConnectionResetError(errno.ECONNRESET, "the client has been silent for too long") from None
        if not body.complete:
            goes_on = endings.drain(body, sock) and goes_on
        sock.settimeout(None)
        if not goes_on or not self.alive:
            raise StopIteration
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not even a request."""
        super().handle_error(req, client, addr, exc)
        if self.alive and isinstance(client, TransferSocket):
            endings.let_read_the_answer(client)

    def _answer(self, listener_name: Any, req: Any, sock: TransferSocket, addr: Any) -> None:
        """Let the application answer, and remember the answer if it can be given again."""
        head = sock.head
        if self._repeats is None or head is None or req.body.length != 0 or req.method not in _SAFE:
            super().handle_request(listener_name, req, sock, addr)
            return
        sock.logged = None
        sock.begin_copy()
        try:
            with provenance.collected() as made_of:
                super().handle_request(listener_name, req, sock, addr)
        finally:
            answer = sock.end_copy()
        if answer is not None:
            self._repeats.keep(head, answer, made_of, sock.logged)

    def _answer_again(self, client: TransferSocket) -> None:
        """Answer requests that were answered before, until there is one that was not."""
        for turn in itertools.count(1):
            received: bytes | None = b""
            with self._waiting(client):
                received = client.receive_head()
            if received is None:
                return
            began = time.perf_counter()
            answer = self._repeats.find(received) if self._repeats is not None and self.alive else None
            if answer is None:
                client.give_head(received)
                return
            answering.note(client.fileno())
            self._send_again(client, answer)
            if answer.logged is not None:
                self.log.access_again(answer.logged, client.address, time.perf_counter() - began)
            self.nr += 1
            if self.nr >= self.max_requests:
                self.alive = False
            if turn % _TURN_REQUESTS == 0:
                gevent.sleep(0)

    def _send_again(self, client: TransferSocket, answer: Answer) -> None:
        client.settimeout(self.silence_seconds)
        try:
            client.sendall(answer.now())
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the client has been silent for too long") from None
        client.settimeout(None)

    def _may_repeat(self) -> bool:
        """Tell whether nobody wants to see every request: hooks of an operator, another log, or one of headers."""
        is_logged_by_us = isinstance(self.log, AccessLog) or not self.log.access_log_enabled
        hooks = (self.cfg.settings[name] for name in ("pre_request", "post_request"))
        return (
            is_logged_by_us
            and "{" not in self.cfg.access_log_format
            and self.cfg.proxy_protocol in (False, "off")
            and all(hook.get() is hook.default for hook in hooks)
        )

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for the next request of a connection that has to go to the application."""
        client = self._clients.get(gevent.getcurrent())
        if client is not None and self._repeats is not None:
            self._answer_again(client)
            if client.has_head:
                yield
                return
        with self._waiting(client), client.limited_head() if client else nullcontext():
            yield

    @contextmanager
    def _waiting(self, client: TransferSocket | None) -> Iterator[None]:
        """Wait for a client, whose connection is idle meanwhile."""
        if len(self._clients) >= self.worker_connections:
            self._close_idle(1)  # nobody else could connect
        self._idle[client] = None
        try:
            with super().timeout_ctx():
                yield
        finally:
            self._idle.pop(client, None)

    def _is_tls_hello(self, client: TransferSocket) -> bool:
        beginning = b""
        try:
            with self._waiting(client):
                beginning = client.recv(1, plain_socket.MSG_PEEK)
        except OSError:  # whoever reads next hears of it again
            pass
        return beginning == endings.TLS_HELLO

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
