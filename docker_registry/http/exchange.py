"""
One request and its response, as reported to observers: the access log, metrics, the audit log.

The worker reports each exchange once, when the response has been sent, also if it came from the response cache. What
only the application knows (route, repository, …) it writes into the :class:`RequestContext` of the request, which the
worker puts into the WSGI environment. A cached response keeps the values of the exchange from which it was cached;
times, sizes, client and request id are always those of the current request.

An observer is called on the event loop for every request, so it must neither block nor take more than a few
microseconds; an exception from it is logged and does not affect the response.

A response from the cache takes less than 40 microseconds, so observing it must not take more than 4. Repetitions of a
request differ only in a few values. These are collected, and a :class:`BatchObserver` receives those of many exchanges
at once; everything else it prepares once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol, TypeGuard

#: Key of the :class:`RequestContext` in the WSGI environment.
CONTEXT: Final = "docker_registry.request"

#: W3C Trace Context, section 3.2: version, trace id, parent id, flags. The version ff and ids of zeros are invalid, and
#: only later versions than 00 may have more fields.
TRACEPARENT: Final = re.compile(
    r"(?!ff)(?!00-.{52}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)

#: Replaces a secret in a text.
MASK: Final = "********"

#: A regular expression for names of parameters and attributes with secrets.
SENSITIVE_NAMES: Final = (
    r"[\w-]*(?:authorization|cookie|password|passwd|pwd|secret|token|signature|credential|sig|api[_-]?key|access[_-]?key"
    r"|accesskeyid)"
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
        target: path and query of the request, as sent, but without values of parameters that look like secrets.
        protocol: such as ``HTTP/1.1``.
        referrer: the header Referer.
        user: user name in an unverified Basic Authorization header.
        scheme: of the Authorization header, unchecked, such as ``Bearer``; empty without that header.
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
    scheme: str = ""


#: Receives every exchange of a worker. It may have a method ``ignores(exchange)`` that returns whether it needs to know
#: an exchange and its repetitions.
Observer = Callable[[Exchange], None]


class BatchObserver(Protocol):
    """An observer that receives the repetitions of exchanges in batches."""

    def __call__(self, exchange: Exchange) -> None:
        """Observe an exchange."""

    def prepare(self, exchange: Exchange) -> Any:
        """
        Return what is the same for all repetitions of an exchange, for :meth:`observe_repeated`.

        Args:
            exchange: a response from the cache.
        """

    def observe_repeated(self, prepared: Sequence[Any], repeated: Repetitions) -> None:
        """
        Observe several exchanges, in the order in which they ended.

        Args:
            prepared: what :meth:`prepare` returned for each of them.
            repeated: their other values.
        """


def takes_batches(observer: Observer | BatchObserver) -> TypeGuard[BatchObserver]:
    """Return whether an observer is a :class:`BatchObserver`."""
    return hasattr(observer, "observe_repeated")


def ignores(observer: Observer | BatchObserver, exchange: Exchange) -> bool:
    """Return whether an observer need not know the repetitions of an exchange."""
    ignored: Callable[[Exchange], bool] | None = getattr(observer, "ignores", None)
    return ignored is not None and ignored(exchange)


@dataclass
class Repetitions:
    """
    What differs between exchanges that repeat others, as one list for each value.

    Attributes:
        clients: addresses.
        ended_at: when the response was sent, in seconds since the epoch.
        seconds, first_byte_seconds: see :class:`Exchange`.
        new_ids: returns this many new request ids.
    """

    clients: Sequence[str]
    ended_at: Sequence[float]
    seconds: Sequence[float]
    first_byte_seconds: Sequence[float]
    new_ids: Callable[[int], Sequence[str]]

    @cached_property
    def request_ids(self) -> Sequence[str]:
        """A new id for each."""
        return self.new_ids(len(self.clients))


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
