"""
Answers the requests of a connection, one after another, from the response cache or by the application.

It stands in for the loop of gunicorn's asynchronous workers as long as it can parse the requests itself, and does what
their ``handle_request`` does, without the calls of hooks and logs that would do nothing. A request that gunicorn has to
parse is returned to the socket, and comes back to :meth:`RequestLoop.answer` when it is parsed.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import time
from collections.abc import Callable, Sized
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol

import gevent
from gunicorn.http import wsgi
from gunicorn.workers.base_async import ALREADY_HANDLED

from docker_registry import dependencies
from docker_registry.http.health import Health
from docker_registry.resources.time_slices import TimeSlices
from docker_registry.server import lingering_close
from docker_registry.server.access_log import AccessLog
from docker_registry.server.cached_exchanges import CachedExchanges, send_cached
from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.connections import Activity
from docker_registry.server.observation import Observation
from docker_registry.server.request_body import RequestBody
from docker_registry.server.request_head import ParsedRequest, asks_to_close
from docker_registry.server.response_cache import ResponseCache
from docker_registry.server.response_writer import ResponseWriter
from docker_registry.server.turns import Turns

#: Methods whose responses may be cached.
_SAFE: Final = {"GET", "HEAD"}

#: Consecutive cached responses to the only open connection, after which other greenlets run.
_TURN_REQUESTS: Final = 32

#: For this time after requests on two connections, no client counts as alone.
_COMPANY_SECONDS: Final = 1.0


class Worker(Protocol):
    """
    What the loop uses of the worker.

    Attributes:
        wsgi: the application.
        alive: whether the worker goes on; see gunicorn, as for *cfg*, *log*, *nr* and *max_requests*.
        keeps_alive: whether connections are kept open after a response.
        silence_seconds: after which time without a byte received or sent a transfer is aborted.
    """

    alive: bool
    cfg: Any
    keeps_alive: bool
    log: Any
    max_requests: int
    nr: int
    silence_seconds: float
    wsgi: Any

    @property
    def is_replaced(self) -> bool:
        """Whether the worker stops but the server goes on."""


class InflightRequests:
    """
    The requests that a worker is answering.

    Attributes:
        count: number of requests in progress.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._connection = -1
        self._last_at = -_COMPANY_SECONDS
        self._company_until = 0.0

    def begin(self, connection: int) -> None:
        """Record that the answering of a request begins; *connection* identifies its connection."""
        self.saw(connection)
        self.count += 1

    def end(self) -> None:
        """Record that a request has been answered."""
        self.count -= 1

    def saw(self, connection: int) -> None:
        """Record a request without counting it as in progress, such as one answered from the response cache."""
        now = self._clock()
        if connection != self._connection:
            if now < self._last_at + _COMPANY_SECONDS:
                self._company_until = now + _COMPANY_SECONDS
            self._connection = connection
        self._last_at = now

    def has_lone_client(self) -> bool:
        """Return whether one connection sends all requests: one is in progress, and no other sent one recently."""
        return self.count == 1 and self._clock() >= self._company_until


class RequestLoop:
    """
    Answers the requests of a worker.

    Attributes:
        inflight: the requests in progress.
    """

    def __init__(
        self,
        worker: Worker,
        cache: ResponseCache | None,
        observation: Observation,
        clients: Sized,
        turns: Turns,
        health: Health | None,
    ) -> None:
        """
        Args:
            worker: its configuration, log and application are final.
            cache: of responses, if it is permitted.
            observation: each exchange is reported to it.
            clients: the connected clients.
            turns: of new connections.
            health: tells whether the server is stopping but still accepts connections.
        """
        self.inflight = InflightRequests()
        self._worker = worker
        self._cache = cache
        self._observation = observation
        self._cached_exchanges = CachedExchanges(observation)
        self._clients = clients
        self._turns = turns
        self._health = health
        self._slices = TimeSlices()
        cfg, log = worker.cfg, worker.log
        is_ours = isinstance(log, AccessLog)
        is_quiet = is_ours and not log.error_log.isEnabledFor(logging.DEBUG)  # the default hook logs at level debug
        self._pre_request = None if is_quiet and _is_default(cfg, "pre_request") else cfg.pre_request
        self._post_request = None if _is_default(cfg, "post_request") else cfg.post_request
        # Another logger may count the requests that it does not write, as that of gunicorn for StatsD does.
        self._writes_log = not is_ours or (log.access_log_enabled and not log.is_observer)

    def run(self, client: ClientSocket) -> None:
        """
        Answer requests until gunicorn must parse one, and return that one to the socket.

        Raises:
            StopIteration: the connection must be closed.
            OSError: the connection failed.
            Exception: the application failed; see the worker's ``handle_error``.
        """
        for turn in itertools.count(1):
            is_first = client.is_new
            takes_turns = len(self._clients) > 1 or turn % _TURN_REQUESTS == 0
            client.begin(Activity.WAITING)
            received = client.receive_head(takes_turns=takes_turns)
            if received is None:
                return
            if self._answer_from_cache(client, received):
                continue
            request: ParsedRequest | None = client.parser.parse(received) if client.parser else None
            if request is None:
                client.give_head(received)
            if is_first and (request is not None or client.has_head):
                client.begin(Activity.WORKING)
                self._turns.wait()
            if request is None:
                return
            client.head, client.request = received, request
            self.answer(request, request.body, client)
            client.request = None

    def _answer_from_cache(self, client: ClientSocket, received: bytes) -> bool:
        """Send the cached response to a request; return False if there is none."""
        if self._cache is None or not received.startswith((b"GET ", b"HEAD ")):
            return False
        is_draining = self._health is not None and self._health.is_draining
        if is_draining or client.is_ended or not self._worker.alive:  # cached responses keep the connection open
            return False
        began = time.perf_counter()
        hit = self._cache.find(received, client.identity)
        if hit is not None and hit.response.stored is not None:
            client.begin(Activity.WORKING)
            hit = self._cache.open_stored(hit)
        if hit is None:
            return False
        self.inflight.saw(id(client))
        is_complete = False
        try:
            send_cached(client, hit, self._worker.silence_seconds)
            is_complete = True
        finally:
            self._cached_exchanges.report(hit, client, began, is_complete=is_complete)
        self._count()
        return True

    def answer(
        self, request: Any, body: RequestBody, client: ClientSocket, server: Any = None, address: Any = None
    ) -> None:
        """
        Answer a request by the application.

        Args:
            server: address of the listening socket; not needed for a ParsedRequest.
            address: the same of the client.

        Raises:
            StopIteration, OSError, Exception: as :meth:`run`.
        """
        worker = self._worker
        client.settimeout(worker.silence_seconds)
        client.exchange = None
        client.begin(Activity.WORKING, body)
        self.inflight.begin(id(client))
        try:
            goes_on = self._answer(request, client, server, address)
            if body.is_cut_off:
                if client.exchange is None:  # answered without the application
                    self._observation.report_refused(request, client.address, 503)
                raise StopIteration
            if not body.complete:
                client.begin(Activity.LINGERING)
                goes_on = lingering_close.drain(body, client) and goes_on
        finally:
            self.inflight.end()
        client.settimeout(None)
        if not goes_on or not (worker.alive or worker.is_replaced):
            raise StopIteration
        if client.has_next:
            self._slices.pause()  # a client that pipelines requests must not starve other clients
        else:
            gevent.sleep(0)  # serve other connections first, even if the next request has arrived already

    def _answer(self, request: Any, client: ClientSocket, server: Any, address: Any) -> bool:
        """Send a response, and add it to the cache if possible; return False to close the connection."""
        head = client.head
        is_repeatable = head is not None and request.body.length == 0 and request.method in _SAFE
        try:
            if self._cache is None or head is None or not is_repeatable:
                return self._call(request, client, server, address)
            client.begin_copy()
            try:
                with dependencies.collected() as made_of:
                    goes_on = self._call(request, client, server, address)
            finally:
                sent, body = client.end_copy()
            if sent is not None and goes_on:  # the cached response promises to keep the connection open
                self._cache.add(head, sent, made_of, client.exchange, body, client.identity)
            return goes_on
        except StopIteration:
            return False
        except TimeoutError:  # gunicorn would treat it as an internal error and log a traceback
            raise ConnectionResetError(errno.ECONNRESET, "the client has been silent for too long") from None

    def _call(self, request: Any, client: ClientSocket, server: Any, address: Any) -> bool:
        """Call the application and send its response; return False to close the connection."""
        worker = self._worker
        environ: dict[str, Any] = {}
        response: ResponseWriter | None = None
        try:
            if self._pre_request is not None:
                self._pre_request(worker, request)
            if isinstance(request, ParsedRequest):
                environ, request.environ = request.environ, {}  # the environment refers to it by its callback
                response = ResponseWriter(request, client, worker.cfg)
                environ["wsgi.early_hints"] = response.send_early_hints
                is_last = request.should_close()
            else:
                response, environ = wsgi.create(request, client, address, server, worker.cfg, ResponseWriter)
                environ["wsgi.multithread"] = True
                is_last = request.should_close() or asks_to_close(request.headers)
            self._count()
            is_draining = self._health is not None and self._health.is_draining
            response.must_close = is_last or is_draining or not worker.alive or not worker.keeps_alive
            self._send(request, environ, response)
            return not response.should_close() and not response.is_short
        except OSError:
            raise
        except gevent.GreenletExit:  # the connection was ended
            return True
        except (Exception, SystemExit) as error:
            if response is None or not response.headers_sent:
                if isinstance(error, SystemExit):
                    return True
                raise
            worker.log.exception("Error handling request")
            with suppress(OSError):
                client.end_answer()
                client.shutdown(socket.SHUT_RDWR)
                client.close()
            return False
        finally:
            self._report(request, environ, response)
            client.end_answer()

    def _send(self, request: Any, environ: dict[str, Any], response: ResponseWriter) -> None:
        began = datetime.now() if self._writes_log else None  # noqa: DTZ005 - only for the difference
        body = self._worker.wsgi(environ, response.start_response)
        if body is ALREADY_HANDLED:
            return
        try:
            response.send(body)
        finally:
            if began is not None:
                self._worker.log.access(response, request, environ, datetime.now() - began)  # noqa: DTZ005
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _count(self) -> None:
        """Count a request; after its maximum of requests, the worker is replaced."""
        worker = self._worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.alive:
            worker.log.info("Autorestarting worker after current request.")
            worker.alive = False

    def _report(self, request: Any, environ: dict[str, Any], response: ResponseWriter | None) -> None:
        try:
            self._observation.report(environ, response)
            if self._post_request is not None:
                self._post_request(self._worker, request, environ, response)
        except Exception:  # as in gunicorn, a hook must not affect the connection
            self._worker.log.exception("Exception in post_request hook")


def _is_default(cfg: Any, hook: str) -> bool:
    setting = cfg.settings[hook]
    return setting.get() is setting.default
