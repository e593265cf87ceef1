"""
Reports the exchanges of a worker to observers (:mod:`docker_registry.http.exchange`).

Exchanges that repeat another one from the response cache (:mod:`docker_registry.server.cached_exchanges`) are only
recorded at first, as a few values without any formatting. Observers receive them in batches, before the next exchange
of another kind, and so in the order in which they ended.
"""

from __future__ import annotations

import itertools
import logging
import operator
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import gevent

from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import (
    CONTEXT,
    MASK,
    SENSITIVE_NAMES,
    TRACEPARENT,
    BatchObserver,
    Exchange,
    Observer,
    Repetitions,
    RequestContext,
    takes_batches,
)
from docker_registry.server.access_log import basic_user
from docker_registry.server.client_socket import ClientSocket

logger = logging.getLogger(__name__)

#: A request id of a client or proxy is adopted if it looks like this; otherwise the request gets an id of its own.
_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z._:/+=-]{1,128}")

#: Recorded exchanges that are delivered together. It takes a fifth of a millisecond, which other requests wait for, and
#: their lines are short enough for one block of the log.
MAX_RECORDED: Final = 128

#: What makes the ids of these exchanges different.
_SUFFIXES: Final = tuple(f"{number:02x}" for number in range(MAX_RECORDED))

#: Time after which recorded exchanges are delivered. A worker that is killed loses as much.
_DELAY_SECONDS: Final = 0.02

#: The number of values of a recorded exchange.
RECORDED_VALUES: Final = 5

_QUERY_SECRETS: Final = re.compile(rf"((?:^|&){SENSITIVE_NAMES}=)[^&]*", re.IGNORECASE)
_MASKED: Final = rf"\g<1>{MASK}"

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(slots=True)
class RequestIds:
    """Generates request ids: unique among all workers, cheap, and not secret."""

    _prefix: str = field(default_factory=lambda: os.urandom(8).hex())
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new(self) -> str:
        """Return a new id."""
        return f"{self._prefix}{next(self._numbers):08x}"

    def some(self, count: int) -> list[str]:
        """
        Return several new ids, in a quarter of the time.

        Args:
            count: at most :data:`MAX_RECORDED`.
        """
        first = self.new()
        return [first + suffix for suffix in _SUFFIXES[:count]]

    def adopt(self, request_id: str) -> str:
        """Return the id that a client or proxy has sent if it is valid, else a new one."""
        return request_id if request_id and _REQUEST_ID.fullmatch(request_id) else self.new()


class Observation:
    """
    The observers of a worker, and how exchanges are described to them.

    Attributes:
        observers: receive the exchanges.
        proxies: the addresses of clients are taken from the headers of these proxies.
        ids: generates the ids of requests.
        recorded: of each recorded exchange the request, client, start, time when the head was sent, and end.
        is_scheduled: whether they will be delivered soon; see :meth:`deliver_soon`.
    """

    def __init__(self) -> None:
        self.observers: list[Observer | BatchObserver] = []
        self.proxies = TrustedProxies(())
        self.ids = RequestIds()
        # One list of all values: a list for each exchange would be work for the garbage collector.
        self.recorded: list[Any] = []
        self.is_scheduled = False

    def connect(self, application: Any, log: Observer | None) -> Application:
        """
        Report to the access log and to the observers of an application.

        Args:
            application: may have the attributes ``observers`` and ``trusted_proxies``.

        Returns:
            The application with a context around each request; see :meth:`around`.
        """
        self.proxies = getattr(application, "trusted_proxies", None) or self.proxies
        self.observers += filter(None, (log, *getattr(application, "observers", ())))
        return self.around(application)

    def close(self) -> None:
        """Close the observers, so that they write what they still hold."""
        for observer in self.observers:
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

    def around(self, application: Application) -> Application:
        """Return an application that puts a :class:`RequestContext` into the environment of each request."""

        def observed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            request_id, traceparent = environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT")
            is_forwarded = "HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ
            environ[CONTEXT] = RequestContext(
                self.ids.adopt(request_id) if request_id else self.ids.new(),
                trace_id(traceparent) if traceparent else "",
                time.perf_counter(),
                client=self.proxies.client_in(environ) if is_forwarded else environ["REMOTE_ADDR"] or "",
            )
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
        is_ours = isinstance(sock, ClientSocket)
        target, authorization = environ["RAW_URI"], environ.get("HTTP_AUTHORIZATION")
        exchange = Exchange(
            method=environ["REQUEST_METHOD"],
            route=context.route,
            repository=context.repository,
            reference=context.reference,
            digest=context.digest,
            status=int(response.status[:3]),
            bytes_in=getattr(environ["wsgi.input"], "content_bytes", 0),
            bytes_out=response.sent + (sock.file_bytes if is_ours else 0),
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
            target=_redacted(target) if "?" in target else target,
            protocol=environ["SERVER_PROTOCOL"],
            referrer=environ.get("HTTP_REFERER", ""),
            user=basic_user(authorization) if authorization else "",
            traceparent=environ.get("HTTP_TRACEPARENT", ""),
            notes={},
            scheme=authorization.partition(" ")[0] if authorization else "",
        )
        if is_ours:
            sock.exchange = exchange
        self.send(exchange)

    def report_refused(self, request: Any, client: str, status: int) -> None:
        """
        Report a request that did not reach the application, or that failed in it.

        Args:
            request: gunicorn's request; None if it could not be parsed.
        """
        version = getattr(request, "version", None)
        self.send(
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
                request_id=self.ids.new(),
                trace_id="",
                is_cached=False,
                client=client,
                user_agent="",
                upstream="",
                target=_redacted(getattr(request, "uri", None) or ""),
                protocol=f"HTTP/{version[0]}.{version[1]}" if version else "",
                referrer="",
                user="",
            )
        )

    def send(self, exchange: Exchange) -> None:
        """Report an exchange, after those that are recorded."""
        if self.recorded:
            self.deliver()
        for observer in self.observers:
            try:
                observer(exchange)
            except Exception:  # an observer must not affect the response
                logger.exception("An observer of requests failed")

    def deliver(self) -> None:
        """Deliver the recorded exchanges to the observers."""
        if not self.recorded:
            return
        recorded, self.recorded = self.recorded, []
        requests, clients, began, answered, ended = (recorded[n::RECORDED_VALUES] for n in range(RECORDED_VALUES))
        epoch = time.time() - time.perf_counter()
        repeated = Repetitions(
            clients=[
                self.proxies.client_of(client, request.forwarded) if request.forwarded else client
                for request, client in zip(requests, clients, strict=True)
            ],
            ended_at=[*map(operator.add, ended, itertools.repeat(epoch))],
            seconds=[*map(operator.sub, ended, began)],
            first_byte_seconds=[*map(operator.sub, answered, began)],
            new_ids=self.ids.some,
        )
        columns = zip(*[each.prepared for each in requests], strict=True)
        for observer, prepared in zip(filter(takes_batches, self.observers), columns, strict=True):
            try:
                observer.observe_repeated(prepared, repeated)
            except Exception:  # an observer must not affect the response
                logger.exception("An observer of requests failed")

    def deliver_soon(self) -> None:
        """Deliver what is recorded in a moment."""
        self.is_scheduled = True
        gevent.spawn_later(_DELAY_SECONDS, self._deliver_later)

    def _deliver_later(self) -> None:
        self.is_scheduled = False
        self.deliver()


def trace_id(traceparent: str) -> str:
    """Return the trace id of a traceparent header; empty if it is malformed or missing."""
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else ""


def _redacted(target: str) -> str:
    """Return path and query, with values of parameters that look like secrets masked."""
    path, mark, query = target.partition("?")
    return f"{path}?{_QUERY_SECRETS.sub(_MASKED, query)}" if mark else target
