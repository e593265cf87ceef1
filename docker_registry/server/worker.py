"""
The gunicorn worker: gevent's worker, extended for a registry.

* The kernel sends files from the page cache to the socket without blocking other greenlets.
* The head of a response is sent together with the beginning of its body.
* A repeated request is answered from the response cache, without gunicorn and the application, if its dependencies are
  unchanged (:mod:`docker_registry.server.response_cache`).
* The heads of usual requests are parsed, and responses are written, in few steps
  (:mod:`docker_registry.server.request_loop`).
* Request bodies are received directly into the reader's buffer (:mod:`docker_registry.server.request_body`).
* A TLS ClientHello on the plain port, which Docker up to 17.05 tries first, gets an immediate plain-text response.
* A transfer whose client is silent for too long is aborted. If the response is sent before the request body is
  complete, a lingering close lets the client receive it.
* When many connections arrive at once, their first requests take turns (:mod:`docker_registry.server.turns`).
* Idle and slow connections are closed to admit new ones (:mod:`docker_registry.server.connections`). At SIGTERM idle
  connections are closed at once; the worker waits only for transfers, as long as they make progress.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import signal
import socket as plain_socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Final

import gevent
import gevent.socket
from gevent import monkey
from gunicorn.http.body import Body
from gunicorn.workers.ggevent import GeventWorker

from docker_registry.concurrency import watching_client
from docker_registry.http.health import Health
from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.resources.time_slices import TimeSlices
from docker_registry.server import lingering_close, name_lookups, open_files, tls
from docker_registry.server.access_log import AccessLog
from docker_registry.server.client_socket import ClientSocket, PlainSocket
from docker_registry.server.connections import Activity, Connections
from docker_registry.server.environment import number
from docker_registry.server.monkey_patch import patch_worker
from docker_registry.server.observation import Observation
from docker_registry.server.request_body import open_request_body
from docker_registry.server.request_head import CommonParts, HeadParser, can_parse
from docker_registry.server.request_loop import RequestLoop
from docker_registry.server.response_cache import ResponseCache, is_permitted
from docker_registry.server.tls import TlsSocket
from docker_registry.server.turns import Acceptor, ListenerAddress, Turns

#: Memory limit for response bytes that slow clients have not received yet, for all clients together.
_UNSENT_BYTES: Final = 32 * 1024 * 1024

#: The pause after a millisecond of decoding very short chunks, which no usual client sends: a fifth of the processor.
_CHUNK_PAUSE_SECONDS: Final = 0.004

#: A worker that is being replaced closes connections after this idle time. Until then it answers a further request with
#: ``Connection: close``, so that no client sends a request on a connection that is being closed.
_REPLACED_IDLE_SECONDS: Final = 5.0

#: A worker of a server that stops closes idle connections after this time, which is long enough for the request of a
#: connection that was just accepted to arrive.
_STOPPED_IDLE_SECONDS: Final = 0.5


#: How often a worker that stops looks for connections to end, and after how many such intervals any other one does.
_INTERVAL_SECONDS: Final = 0.2
_INTERVALS: Final = 5


class RegistryWorker(GeventWorker):  # type: ignore[misc]
    """
    The registry's worker class; usable with any gunicorn as ``-k docker_registry.server.worker.RegistryWorker``.

    Attributes:
        is_serving: one byte of memory shared with the master; nonzero once the worker accepts connections.
    """

    #: Signals that the master blocks when it forks a worker, until the worker has installed its handlers.
    deferred_signals: ClassVar = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

    #: Seconds without a single byte received or sent after which a transfer is aborted.
    silence_seconds: float = 300

    #: Whether connections are kept open after a response.
    keeps_alive = True

    #: After SIGTERM, a transfer that averages less than 1 KiB/s over this many seconds is aborted.
    stalled_seconds: float = 30

    alive: bool
    max_requests: int
    nr: int
    wsgi: Any
    worker_connections: int
    sockets: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # in the master: the worker's process is not forked yet
        self.is_serving = mmap.mmap(-1, 1)
        open_files.allow_many()
        self.worker_connections = min(self.cfg.worker_connections, open_files.connections_that_fit())
        self._clients: dict[Any, ClientSocket] = {}
        self._connections = Connections(
            self.worker_connections,
            number(os.environ, "REGISTRY_MAX_CONNECTIONS_PER_ADDRESS", 0),
            self.stalled_seconds,
        )
        self._unsent = MemoryBudget(_UNSENT_BYTES)
        self._chunk_slices = TimeSlices(pause_seconds=_CHUNK_PAUSE_SECONDS)
        self._turns = Turns()
        self._cache = ResponseCache() if is_permitted(self.cfg, self.log) else None
        self._observation = Observation()
        self._health: Health | None = None
        self._finish: Callable[[], object] | None = None
        self._common: CommonParts | None = None  # of requests; None if gunicorn must parse all of them

    def patch(self) -> None:
        """Apply the missing gevent patches: all, or under ``docker-registry`` those left to the worker."""
        if not monkey.is_module_patched("socket"):
            super().patch()
            return
        patch_worker()
        self.sockets = [
            gevent.socket.socket(one.FAMILY, plain_socket.SOCK_STREAM, fileno=one.sock.detach()) for one in self.sockets
        ]

    def init_process(self) -> None:
        """Install the signal handlers, initialize the worker and serve."""
        # gunicorn installs them later, in its own init_process.
        for ending in self.deferred_signals:
            signal.signal(ending, self.handle_exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.deferred_signals)
        if self.worker_connections < self.cfg.worker_connections:
            self.log.warning("The limit of open files allows only %d connections.", self.worker_connections)
        super().init_process()

    def run(self) -> None:
        """Serve until a signal stops the worker, then finish the requests in progress."""
        # gunicorn reads settings for each request. Plain attributes make each read a single lookup.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        if not self.cfg.keepalive:
            self.keeps_alive = False
            self.cfg.__dict__["keepalive"] = self.silence_seconds  # with 0, gunicorn would never call timeout_ctx
        tls.configure(self.cfg, getattr(self.wsgi, "tls", None))
        if can_parse(self.cfg):
            self._common = CommonParts(self.cfg, self._chunk_slices.pause)
        name_lookups.use_own_threads()
        self._observe()
        gc.freeze()  # objects that exist now live as long as the worker; exclude them from garbage collection
        gevent.spawn(self._end_connections)
        self.server_class = self._acceptor
        try:
            super().run()
            if self._finish is not None:
                self._finish()
        finally:
            self._observation.deliver()
            self._observation.close()
            if isinstance(self.log, AccessLog):
                self.log.finish()  # last, because the observers log messages, too

    def notify(self) -> None:
        """Report to the master that the worker is alive; called each second once it accepts connections."""
        self.is_serving[0] = 1
        super().notify()

    def _acceptor(self, listener: Any, *, spawn: Any, **options: Any) -> Acceptor:
        """Create the server of a listening socket; gunicorn calls this as its ``server_class``."""
        tls = {name: value for name, value in options.items() if name == "ssl_context"}
        # A stopping worker closes its listeners while accepted connections may still send their first request.
        handle = partial(self.handle, ListenerAddress(listener))
        return Acceptor(
            listener,
            handle,
            workers=self.cfg.workers,
            is_last=lambda: not self.is_replaced,
            spawn=spawn,
            **tls,
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """
        Stop the worker.

        If SIGTERM stops the whole server, the worker accepts connections until the drain delay has passed; a second
        signal cuts the delay short.
        """
        stopping = getattr(self.app, "stopping", b"\0")
        if self._health is None or not stopping[0] or sig != signal.SIGTERM or self._health.is_draining:
            super().handle_exit(sig, frame)
            return
        self._health.is_draining = True
        gevent.spawn_later(self._health.drain_delay_seconds, super().handle_exit, sig, frame)

    def _observe(self) -> None:
        """Connect the worker to the access log and to the application's observers, metrics and health state."""
        application = self.wsgi
        self._health = getattr(application, "health", None)
        self._finish = getattr(application, "finish", None)
        log = None
        if isinstance(self.log, AccessLog):
            log = self.log.observer(getattr(application, "log_format", "text"))
            self.log.divert()
        self.wsgi = self._observation.connect(application, log)
        self._loop = RequestLoop(self, self._cache, self._observation, self._clients, self._turns, self._health)
        inflight = self._loop.inflight
        if brief_calls := getattr(application, "brief_calls", None):
            brief_calls.has_lone_client = inflight.has_lone_client
        if collector := getattr(application, "metrics_collector", None):
            collector.add_budget("unsent_responses", self._unsent)
            collector.watch_connections(lambda: (len(self._connections), self.worker_connections))
            collector.watch_requests(lambda: inflight.count)
            collector.watch_exchanges(self._observation.deliver)
        self.cfg.__dict__["post_request"] = self._observation.reporting(self.cfg.post_request)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        greenlet = gevent.getcurrent()
        if not isinstance(client, ClientSocket):
            client = PlainSocket(client.family, client.type, client.proto, fileno=client.detach())
        client.address = str(addr[0]) if isinstance(addr, tuple) else ""
        client.greenlet, client.unsent = greenlet, self._unsent
        server = listener.getsockname()
        if self._common is not None and isinstance(addr, tuple) and isinstance(server, tuple):
            client.parser = HeadParser(self._common, client, addr, server)
        client.begin(Activity.WAITING)
        self._clients[greenlet] = client
        self._connections.add(client)
        try:
            with watching_client(client.has_left):
                self._serve(listener, client, addr)
        finally:
            self._connections.remove(client)
            del self._clients[greenlet]
            client.parser = client.request = None  # they refer to the socket

    def _serve(self, listener: Any, client: ClientSocket, addr: Any) -> None:
        if self._connections.is_one_too_many(client):
            lingering_close.refuse_connection(client)
        elif isinstance(client, TlsSocket):
            if client.shake_hands(self.log):
                super().handle(listener, client, addr)
        elif not (first := client.first_byte()):
            client.close()
        elif first == lingering_close.TLS_HELLO:
            lingering_close.refuse_tls(client)
        else:
            super().handle(listener, client, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request that gunicorn has parsed."""
        is_direct = isinstance(req.body, Body) and isinstance(sock, ClientSocket)
        body = open_request_body(req, sock, self._chunk_slices.pause) if is_direct else None
        if body is None:
            super().handle_request(listener_name, req, sock, addr)
            return
        req.body = body
        sock.unreader = req.unreader
        self._loop.answer(req, body, sock, listener_name, addr)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer an unparsable request, or one for which the application failed, and close the connection."""
        if isinstance(client, ClientSocket):
            req = req or client.request
            client.begin_copy()
        super().handle_error(req, client, addr, exc)
        if isinstance(client, ClientSocket) and (answer := client.end_copy()[0]):
            status = answer[len("HTTP/1.1 ") :][:3]
            self._observation.report_refused(req or getattr(exc, "req", None), client.address, int(status))
        if self.alive and isinstance(client, ClientSocket):
            client.begin(Activity.LINGERING)
            lingering_close.linger(client)

    @property
    def is_replaced(self) -> bool:
        """Whether this worker stops but the server goes on, after a reload or the worker's maximum of requests."""
        stopping = getattr(self.app, "stopping", None)
        return not self.alive and stopping is not None and not stopping[0]

    def timeout_ctx(self) -> AbstractContextManager[Any]:
        """
        Return the context in which gunicorn receives the next request; it limits the length of its head.

        Requests that gunicorn need not parse are answered first.
        """
        client = self._clients[gevent.getcurrent()]
        if self._cache is not None or client.parser is not None:
            self._loop.run(client)
        return nullcontext() if client.has_head else client.limited_head()

    def handle_http2(self, listener: Any, client: Any, addr: Any, *args: Any, **kwargs: Any) -> None:
        """Serve a connection by gunicorn's HTTP/2 code, which has its own timeouts."""
        client.begin(Activity.WORKING)
        super().handle_http2(listener, client, addr, *args, **kwargs)

    def _end_connections(self) -> None:
        """
        End connections that wait for a request for gunicorn's keep-alive time, or less if the worker stops.

        This looks at all of them once a second, so no request needs a timer.
        """
        for turn in itertools.count(1):  # until the process exits: gunicorn still accepts for a second after SIGTERM
            gevent.sleep(_INTERVAL_SECONDS)
            if not self.alive:
                self._connections.end_waiting(_REPLACED_IDLE_SECONDS if self.is_replaced else _STOPPED_IDLE_SECONDS)
                self._connections.end_stalled()
            elif turn % _INTERVALS == 0:
                self._connections.end_waiting(self.cfg.keepalive)
