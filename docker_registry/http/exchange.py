"""
One request and its response, as reported to observers: the access log, metrics, the audit log.

The worker reports each exchange once, when the response has been sent, also if it came from the response cache. What
only the application knows (route, repository, …) it writes into the :class:`RequestContext` of the request, which the
worker puts into the WSGI environment. A cached response keeps the values of the exchange from which it was cached;
times, sizes, client and request id are always those of the current request.

An observer is called on the event loop for every request, so it must neither block nor take more than a few
microseconds; an exception from it is logged and does not affect the response.

A response from the cache takes about 40 microseconds, so observing it must not take more than 4. Requests with the
same bytes differ only in a few values, and an observer may prepare everything else once (:class:`PreparedObserver`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

#: Key of the :class:`RequestContext` in the WSGI environment.
CONTEXT: Final = "docker_registry.request"

#: A request id of a client or proxy is adopted if it looks like this; otherwise the request gets an id of its own.
_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z._:/+=-]{1,128}")

#: W3C Trace Context, section 3.2: version, trace id, parent id, flags. The version ff and ids of zeros are invalid, and
#: only later versions than 00 may have more fields.
TRACEPARENT: Final = re.compile(
    r"(?!ff)(?!00-.{52}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


class Exchange(NamedTuple):
    """
    A request that was answered.

    A named tuple, because creating a frozen dataclass of this many fields takes several times as long. Texts are empty
    if unknown. Those that come from the client (method, target, repository, reference, digest, user agent, referrer)
    are unchecked: bound and escape them before use.

    Attributes:
        method: HTTP method.
        route: endpoint of the application that answered, such as ``v2_manifests.get_manifest``.
        repository: repository in the URL.
        reference: tag, digest, image id or upload session in the URL.
        digest: digest of the content in the response or in the URL.
        status: status code.
        bytes_in: bytes of the request body that were read.
        bytes_out: bytes of the response body that were sent.
        seconds: time from the head of the request until the response was sent.
        first_byte_seconds: time until the head of the response was sent.
        principal: user or robot on whose behalf the request was made.
        request_id: id of this request, from ``X-Request-Id`` or generated.
        trace_id: trace id of ``traceparent``.
        is_cached: whether the response came from the response cache.
        client: address of the client.
        user_agent: the header.
        upstream: registry from which the content was fetched.
        target: path and query of the request, as sent; the query may contain secrets.
        protocol: such as ``HTTP/1.1``.
        referrer: the header Referer.
        user: user name in an unverified Basic Authorization header.
        traceparent: the header, unchecked.
        notes: what observers keep for other exchanges with the same cached response; empty at first.
    """

    method: str
    route: str
    repository: str
    reference: str
    digest: str
    status: int
    bytes_in: int
    bytes_out: int
    seconds: float
    first_byte_seconds: float
    principal: str
    request_id: str
    trace_id: str
    is_cached: bool
    client: str
    user_agent: str
    upstream: str
    target: str
    protocol: str
    referrer: str
    user: str
    traceparent: str = ""
    notes: dict[str, str] | None = None


#: Receives every exchange of a worker.
Observer = Callable[[Exchange], None]

#: Receives a repeated exchange: its request id, client, seconds and first_byte_seconds; the rest is known already.
Repetition = Callable[[str, str, float, float], None]


class PreparedObserver(Protocol):
    """An observer that computes once what is the same for all repetitions of an exchange."""

    def __call__(self, exchange: Exchange) -> None:
        """Observe an exchange."""

    def prepare(self, exchange: Exchange) -> Repetition | None:
        """
        Return what observes the repetitions of an exchange; None if they need not be observed.

        Args:
            exchange: a response from the cache; its repetitions differ in the arguments of :data:`Repetition` only.
        """


def repetition(observer: Observer | PreparedObserver, exchange: Exchange) -> Repetition | None:
    """Return what passes the repetitions of an exchange to an observer; None if it need not know them."""
    prepare: Callable[[Exchange], Repetition | None] | None = getattr(observer, "prepare", None)
    if prepare is not None:
        return prepare(exchange)

    def observe(request_id: str, client: str, seconds: float, first_byte_seconds: float) -> None:
        observer(
            exchange._replace(
                request_id=request_id, client=client, seconds=seconds, first_byte_seconds=first_byte_seconds
            )
        )

    return observe


@dataclass(slots=True)
class RequestContext:
    """
    What the application records about the current request; see :class:`Exchange` for the attributes.

    Args:
        began: when the head of the request had been received, in seconds of :func:`time.perf_counter`.
    """

    request_id: str
    trace_id: str
    began: float = 0.0
    route: str = ""
    repository: str = ""
    reference: str = ""
    digest: str = ""
    principal: str = ""
    upstream: str = ""
    client: str = ""


@dataclass(slots=True)
class RequestIds:
    """Generates request ids: unique among all workers, cheap, and not secret."""

    _prefix: str = field(default_factory=lambda: os.urandom(8).hex())
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new(self) -> str:
        """Return a new id."""
        return f"{self._prefix}{next(self._numbers):08x}"

    def adopt(self, request_id: str) -> str:
        """Return the id that a client or proxy has sent if it is valid, else a new one."""
        return request_id if request_id and _REQUEST_ID.fullmatch(request_id) else self.new()

    def begin(self, environ: MutableMapping[str, Any], began: float = 0.0) -> RequestContext:
        """Put a new context into the WSGI environment of a request, and return it."""
        context = environ[CONTEXT] = RequestContext(
            self.adopt(environ.get("HTTP_X_REQUEST_ID", "")),
            trace_id(environ.get("HTTP_TRACEPARENT", "")),
            began,
        )
        return context


def trace_id(traceparent: str) -> str:
    """Return the trace id of a traceparent header; empty if it is malformed or missing."""
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else ""


def context_of(environ: MutableMapping[str, Any]) -> RequestContext:
    """Return the context of a request; under a server that does not create one, a new one without an id."""
    context = environ.get(CONTEXT)
    if not isinstance(context, RequestContext):
        context = environ[CONTEXT] = RequestContext("", "")
    return context
