"""
Reports the exchanges of a worker to observers (:mod:`docker_registry.http.exchange`).

Exchanges that repeat another one from the response cache are only recorded at first, as a few values without any
formatting. Observers receive them in batches, before the next exchange of another kind, and so in the order in which
they ended.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import gevent

from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import (
    CONTEXT,
    MAX_IDS,
    BatchObserver,
    Exchange,
    Observer,
    Repetitions,
    RequestContext,
    RequestIds,
    ignores,
    takes_batches,
    trace_id,
)
from docker_registry.server.access_log import basic_user
from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.request_head import RequestHead
from docker_registry.server.response_cache import Hit

logger = logging.getLogger(__name__)

_FAILED: Final = "An observer of requests failed"

#: Recorded exchanges that are delivered together. It takes a fifth of a millisecond, which other requests wait for, and
#: their lines are short enough for one block of the log.
_BATCH: Final = MAX_IDS

#: Time after which recorded exchanges are delivered. A worker that is killed loses as much.
_DELAY_SECONDS: Final = 0.02

#: The values of a recorded exchange: request, client, start, head sent, end, and the time of day at the end.
_COLUMNS: Final = 6

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Observation:
    """The observers of a worker, and how exchanges are described to them."""

    def __init__(self) -> None:
        self._proxies = TrustedProxies(())
        self._observers: list[Observer | BatchObserver] = []
        self._ids = RequestIds()
        # One list of all values: a list for each exchange would be work for the garbage collector.
        self._recorded: list[Any] = []
        self._is_scheduled = False

    def connect(self, application: Any, log: Observer | None) -> Application:
        """
        Report to the access log and to the observers of an application.

        Args:
            application: may have the attributes ``observers`` and ``trusted_proxies``.

        Returns:
            The application with a context around each request; see :meth:`around`.
        """
        if proxies := getattr(application, "trusted_proxies", None):
            self.trust(proxies)
        for observer in (log, *getattr(application, "observers", ())):
            if observer is not None:
                self.add(observer)
        return self.around(application)

    def close(self) -> None:
        """Close the observers, so that they write what they still hold."""
        for observer in self._observers:
            if hasattr(observer, "close"):
                try:
                    observer.close()
                except Exception:  # the others must be closed, too
                    logger.exception("An observer of requests could not be closed")

    def reporting(self, hook: Callable[..., object]) -> Callable[..., None]:
        """Return a ``post_request`` hook of gunicorn that reports the request before it calls another one."""

        def report(worker: Any, req: Any, environ: Any, resp: Any) -> None:
            self.report(environ, resp)
            hook(worker, req, environ, resp)

        return report

    def add(self, observer: Observer | BatchObserver) -> None:
        """Add an observer."""
        self._observers.append(observer)

    def trust(self, proxies: TrustedProxies) -> None:
        """Take the addresses of clients from the headers of these proxies."""
        self._proxies = proxies

    def around(self, application: Application) -> Application:
        """Return an application that puts a :class:`RequestContext` into the environment of each request."""

        def observed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            context = self._ids.begin(environ, time.perf_counter())
            context.client = self._proxies.client_in(environ)
            return application(environ, start_response)

        return observed

    def report(self, environ: dict[str, Any], response: Any) -> None:
        """
        Report a request that the application answered.

        Args:
            response: gunicorn's response; None or without a status if the application failed, in which case gunicorn
                calls the worker's ``handle_error``.
        """
        context = environ.get(CONTEXT)
        if response is None or response.status is None or not isinstance(context, RequestContext):
            return
        now = time.perf_counter()
        sock = response.sock
        body = environ.get("wsgi.input")
        is_ours = isinstance(sock, ClientSocket)
        exchange = Exchange(
            method=environ.get("REQUEST_METHOD", ""),
            route=context.route,
            repository=context.repository,
            reference=context.reference,
            digest=context.digest,
            status=int(response.status[:3]),
            bytes_in=getattr(body, "content_bytes", 0),
            bytes_out=response.sent + getattr(sock, "file_bytes", 0),
            seconds=now - context.began,
            first_byte_seconds=(sock.answered_at if is_ours and sock.answered_at > context.began else now)
            - context.began,
            principal=context.principal,
            request_id=context.request_id,
            trace_id=context.trace_id,
            is_cached=False,
            client=context.client,
            user_agent=environ.get("HTTP_USER_AGENT", ""),
            upstream=context.upstream,
            target=environ.get("RAW_URI", ""),
            protocol=environ.get("SERVER_PROTOCOL", ""),
            referrer=environ.get("HTTP_REFERER", ""),
            user=basic_user(environ.get("HTTP_AUTHORIZATION", "")),
            traceparent=environ.get("HTTP_TRACEPARENT", ""),
            notes={},
        )
        if is_ours:
            sock.exchange = exchange
        self._send(exchange)

    def report_cached(self, hit: Hit, client: ClientSocket, began: float, *, is_complete: bool = True) -> None:
        """
        Report a request that was answered from the response cache.

        Args:
            began: when the request was received, in seconds of :func:`time.perf_counter`.
            is_complete: whether the whole response was sent.
        """
        known = hit.request
        if known is not None and known.prepared and is_complete:
            recorded = self._recorded
            recorded += (known, client.address, began, client.answered_at, time.perf_counter(), time.time())
            if len(recorded) >= _BATCH * _COLUMNS:
                self.deliver()
            elif not self._is_scheduled:
                self._is_scheduled = True
                gevent.spawn_later(_DELAY_SECONDS, self._deliver_later)
        elif hit.response.exchange is not None and not (known is not None and known.prepared == () and is_complete):
            self._report_unrecorded(hit.response.exchange, hit, client, began, is_complete=is_complete)

    def deliver(self) -> None:
        """Deliver the recorded exchanges to the observers."""
        if not self._recorded:
            return
        recorded, self._recorded = self._recorded, []
        requests, clients, began, answered, ended, ended_at = (recorded[n::_COLUMNS] for n in range(_COLUMNS))
        repeated = Repetitions(
            clients=[
                self._proxies.client_of(client, request.forwarded) if request.forwarded else client
                for request, client in zip(requests, clients, strict=True)
            ],
            ended_at=ended_at,
            seconds=[*map(operator.sub, ended, began)],
            first_byte_seconds=[*map(operator.sub, answered, began)],
            ids=self._ids,
        )
        columns = zip(*[each.prepared for each in requests], strict=True)
        for observer, prepared in zip(filter(takes_batches, self._observers), columns, strict=True):
            try:
                observer.observe_repeated(prepared, repeated)
            except Exception:  # an observer must not affect the response
                logger.exception(_FAILED)

    def _report_unrecorded(
        self, cached: Exchange, hit: Hit, client: ClientSocket, began: float, *, is_complete: bool
    ) -> None:
        """Report a cached response at once, or the first one of a request that is prepared for its repetitions."""
        known, exchange = hit.request, self._cached(cached, hit, client, began)
        if known is not None and is_complete and not known.is_prepared:
            known.forwarded = _forwarded(hit.head)
            known.prepared = self._prepare(exchange)
            known.is_prepared = True
        if known is None or not is_complete or known.prepared is None:
            self._send(exchange)
        else:
            self.report_cached(hit, client, began)

    def _deliver_later(self) -> None:
        self._is_scheduled = False
        self.deliver()

    def _cached(self, cached: Exchange, hit: Hit, client: ClientSocket, began: float) -> Exchange:
        head = hit.head
        traceparent = head.header(b"traceparent")
        return cached._replace(
            bytes_in=0,
            bytes_out=cached.bytes_out if hit.fd is None and hit.blocks is None else client.file_bytes,
            seconds=time.perf_counter() - began,
            first_byte_seconds=client.answered_at - began,
            request_id=self._ids.adopt(head.header(b"x-request-id")),
            trace_id=trace_id(traceparent),
            is_cached=True,
            client=self._proxies.client_of(client.address, _forwarded(head)),
            user_agent=head.header(b"user-agent"),
            referrer=head.header(b"referer"),
            traceparent=traceparent,
        )

    def _prepare(self, exchange: Exchange) -> tuple[Any, ...] | None:
        """
        Return what each batch observer prepares for the repetitions of an exchange.

        Returns:
            Empty if no observer needs them; None if one has to receive each of them at once.
        """
        prepared = []
        for observer in self._observers:
            try:
                if takes_batches(observer):
                    prepared.append(observer.prepare(exchange))
                elif not ignores(observer, exchange):
                    return None
            except Exception:  # an observer must not affect the response
                logger.exception(_FAILED)
                return None
        return tuple(prepared)

    def report_refused(self, request: Any, client: str, status: int) -> None:
        """
        Report a request that did not reach the application, or that failed in it.

        Args:
            request: gunicorn's request; None if it could not be parsed.
        """
        version = getattr(request, "version", None)
        self._send(
            Exchange(
                method=getattr(request, "method", None) or "",
                route="",
                repository="",
                reference="",
                digest="",
                status=status,
                bytes_in=0,
                bytes_out=0,
                seconds=0.0,
                first_byte_seconds=0.0,
                principal="",
                request_id=self._ids.new(),
                trace_id="",
                is_cached=False,
                client=client,
                user_agent="",
                upstream="",
                target=getattr(request, "uri", None) or "",
                protocol=f"HTTP/{version[0]}.{version[1]}" if version else "",
                referrer="",
                user="",
            )
        )

    def _send(self, exchange: Exchange) -> None:
        self.deliver()
        for observer in self._observers:
            try:
                observer(exchange)
            except Exception:  # an observer must not affect the response
                logger.exception(_FAILED)


def _forwarded(head: RequestHead) -> str:
    return head.header(b"x-forwarded-for") or head.header(b"forwarded")
