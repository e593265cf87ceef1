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
* Idle and slow connections make room for new ones (:mod:`docker_registry.connections`). At SIGTERM idle ones are closed
  at once, so that only transfers are waited for, as long as they make progress.
* All of that is the same for plain and TLS connections.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
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

from docker_registry import client_presence, endings, open_files, provenance
from docker_registry.access_log import AccessLog
from docker_registry.alone import answering
from docker_registry.connections import Activity, Connections
from docker_registry.direct_body import direct_body
from docker_registry.environment import number
from docker_registry.memory_budget import MemoryBudget
from docker_registry.patching import patch_worker
from docker_registry.repeats import Answer, Repeats
from docker_registry.sockets import ClientSocket, TlsContext, TlsSocket, TransferSocket
from docker_registry.time_slices import TimeSlices

#: Methods whose answers may be given again.
_SAFE: Final = {"GET", "HEAD"}

#: What all slow clients together have not taken yet of their responses.
_UNSENT_BYTES: Final = 32 * 1024 * 1024

#: So many requests of one connection are answered again before others get their turn.
_TURN_REQUESTS: Final = 32


class RegistryWorker(GeventWorker):  # type: ignore[misc]
    """Serves the registry; ``-k docker_registry.worker.RegistryWorker`` with any gunicorn."""

    #: Seconds without a single byte from or to the client after which a transfer counts as cut off.
    silence_seconds: float = 300

    #: Seconds after SIGTERM in which a transfer has to move 1 KiB/s, so that the end of the worker waits for it.
    stalled_seconds: float = 30

    alive: bool
    worker_connections: int
    sockets: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        open_files.allow_many()
        self.worker_connections = min(self.cfg.worker_connections, open_files.connections_that_fit())
        self._clients: dict[Any, ClientSocket] = {}
        self._connections = Connections(
            self.worker_connections,
            number(os.environ, "REGISTRY_MAX_CONNECTIONS_PER_ADDRESS", 0),
            self.stalled_seconds,
        )
        self._unsent = MemoryBudget(_UNSENT_BYTES)
        self._slices = TimeSlices()
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
        for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(ending, self.handle_exit)
        if self.worker_connections < self.cfg.worker_connections:
            self.log.warning("Only %d connections fit into the limit of open files.", self.worker_connections)
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way."""
        # gunicorn asks some twenty settings for each request, and each time searches for them in three places.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        gc.freeze()  # what is there now stays, and no search for garbage needs to pass through it
        if self.cfg.is_ssl:
            self._defer_handshakes()
        gevent.spawn(self._end_connections_at_the_end)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        greenlet = gevent.getcurrent()
        if not isinstance(client, ClientSocket):
            client = TransferSocket(client.family, client.type, client.proto, fileno=client.detach())
        client.address = str(addr[0]) if isinstance(addr, tuple) else ""
        client.greenlet, client.unsent = greenlet, self._unsent
        client.begin(Activity.WAITING)
        self._clients[greenlet] = client
        self._connections.add(client)
        try:
            if self._connections.is_one_too_many(client):
                endings.refuse_connection(client)
            elif isinstance(client, TlsSocket):
                if self._shake_hands(client):
                    super().handle(listener, client, addr)
            elif not (first := self._first_byte(client)):
                client.close()
            elif first == endings.TLS_HELLO:
                endings.refuse_tls(client)
            else:
                super().handle(listener, client, addr)
        finally:
            self._connections.remove(client)
            del self._clients[greenlet]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer one request; False when the connection shall not be used for another."""
        answering.begin(sock.fileno())
        try:
            with client_presence.watched(lambda: _has_left(sock)):
                return self._handle_request(listener_name, req, sock, addr)
        finally:
            answering.end()

    def _handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        is_direct = isinstance(req.body, Body) and isinstance(sock, ClientSocket)
        body = direct_body(req, sock, self._slices.pause) if is_direct else None
        if body is None:
            return bool(super().handle_request(listener_name, req, sock, addr))
        req.body = body
        sock.unreader = req.unreader
        should_close, is_last = req.should_close, endings.asks_to_close(req.headers)
        # Asked when the head of the answer is sent: the client must hear whether it can go on with this connection.
        req.should_close = lambda: is_last or should_close() or sock.is_ended or body.left_bytes > endings.DRAIN_BYTES
        sock.settimeout(self.silence_seconds)
        sock.begin(Activity.WORKING, body)
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
        if body.is_cut_off:
            raise StopIteration
        if not body.complete:
            sock.begin(Activity.LINGERING)
            goes_on = endings.drain(body, sock) and goes_on
        sock.settimeout(None)
        sock.begin(Activity.WAITING)
        if not goes_on or not self.alive:
            raise StopIteration
        if req.unreader.buf.getbuffer().nbytes:
            self._slices.pause()  # a client that does not wait for responses does not keep others waiting for theirs
        else:
            gevent.sleep(0)  # the next request may be here already; those of other connections come first
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not even a request."""
        super().handle_error(req, client, addr, exc)
        if self.alive and isinstance(client, ClientSocket):
            client.begin(Activity.LINGERING)
            endings.let_read_the_answer(client)

    def _answer(self, listener_name: Any, req: Any, sock: ClientSocket, addr: Any) -> None:
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

    def _answer_again(self, client: ClientSocket) -> None:
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

    def _send_again(self, client: ClientSocket, answer: Answer) -> None:
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
    def _waiting(self, client: ClientSocket | None) -> Iterator[None]:
        """Wait for a client, whose connection is idle meanwhile."""
        if client is not None:
            client.begin(Activity.WAITING)
        with super().timeout_ctx():
            yield

    def _defer_handshakes(self) -> None:
        """Let TLS handshakes be done by :meth:`handle`, where they are limited as everything else."""
        make_context = self.cfg.ssl_context
        self.cfg.__dict__["ssl_context"] = lambda config, default: TlsContext(make_context(config, default))

    def _shake_hands(self, client: TlsSocket) -> bool:
        """Do the TLS handshake; False when it failed or took too long."""
        is_done = False
        try:
            with self._waiting(client):
                client.do_handshake()
                is_done = True
        except OSError as error:
            self.log.debug("TLS handshake with %s failed: %s", client.address, error)
        if not is_done:
            client.close()
        elif client.selected_alpn_protocol() == "h2":
            client.begin(Activity.WORKING)  # gunicorn's HTTP/2 has its own timeouts
        return is_done

    def _first_byte(self, client: ClientSocket) -> bytes:
        """Wait for the first byte of a connection and return it, to be received again; nothing when there is none."""
        first = b""
        try:
            with self._waiting(client):
                first = client.recv(1, plain_socket.MSG_PEEK)
        except OSError:  # closed by its client
            pass
        return first

    def _end_connections_at_the_end(self) -> None:
        while True:  # until the process ends: for a second after SIGTERM gunicorn still accepts connections
            gevent.sleep(0.2)
            if not self.alive:
                self._connections.end_waiting()
                self._connections.end_stalled()


def _has_left(sock: Any) -> bool:
    """Tell, without waiting, whether a client has closed its connection; what it sent before that stays to be read."""
    try:
        # gevent's own recv would wait until there is something.
        return not sock._sock.recv(1, plain_socket.MSG_PEEK | plain_socket.MSG_DONTWAIT)  # noqa: SLF001
    except BlockingIOError:
        return False
    except OSError:
        return True
