"""
The response cache of a worker: serves a cached response while its dependencies are unchanged.

Clients repeat a few requests over and over: a manifest by tag, the existence of a blob, the layers of a base image. The
dependencies of a cached response (:mod:`docker_registry.dependencies`) are checked with a few calls of ``stat``, or one
query to Redis. The cache implements no rule of the registry: it sends the bytes that the application sent, with a new
Date header. Any other request goes to the application, and so does one whose dependencies have changed.

The key of a cached response is the head of its request without the headers that cannot change it. A proxy adds a new
X-Request-Id to each request, and clients differ in their User-Agent; with such headers in the key, hardly any request
would be a repetition. A header that is not listed here stays in the key, so that an unknown one can never lead to the
response to another request.

The body is part of the bytes, or a slice of a file, which the kernel sends. A file is opened again for each response,
and is sent only if it is the same inode with the same size and times: the inode was inside the store when the
application opened it, so it does not matter which links lead to it now.

A body that the application reads from a remote store is read again for each response. The dependencies make sure that
the store still has it; its content never changes, because its path contains its digest.

A cached GET of a manifest takes a tenth of the time of one through the application.
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, NamedTuple

from gunicorn.glogging import Logger

from docker_registry.concurrency import close_now
from docker_registry.dependencies import Dependencies, signature_of
from docker_registry.http.clients import OLD_CLIENTS
from docker_registry.http.exchange import Exchange
from docker_registry.server.access_log import AccessLog
from docker_registry.server.sending_socket import FileSlice, StoredBody

#: Memory limit for cached requests and responses per worker; the least recently used are evicted first.
MAX_BYTES: Final = 16 * 1024 * 1024

#: Maximum age of an entry: API V1 responses carry an Expires header that is relative to the current time.
MAX_SECONDS: Final = 600

#: Approximate overhead per entry: objects, and the paths and signatures of files.
ENTRY_BYTES: Final = 5 * 1024

#: Approximate overhead per recognized request: the prepared parts of log entries.
REQUEST_BYTES: Final = 2 * 1024

#: Different requests per response that are recognized by their bytes, without parsing them.
_MAX_REQUESTS: Final = 8

#: Headers with another value in each request: ids and traces.
UNIQUE: Final = frozenset(
    {
        b"b3", b"baggage", b"cdn-loop", b"cf-ray", b"traceparent", b"tracestate", b"uber-trace-id", b"x-amz-cf-id",
        b"x-amzn-trace-id", b"x-b3-flags", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-spanid", b"x-b3-traceid",
        b"x-cloud-trace-context", b"x-correlation-id", b"x-envoy-attempt-count", b"x-envoy-external-address",
        b"x-envoy-expected-rq-timeout-ms", b"x-request-id", b"x-request-start",
    }
)  # fmt: skip

#: Headers about the client, or about encodings and caches that no cached response depends on.
IRRELEVANT: Final = frozenset(
    {
        b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control", b"cf-connecting-ip",
        b"cf-ipcountry", b"cf-visitor", b"dnt", b"forwarded", b"pragma", b"priority", b"referer", b"true-client-ip",
        b"upgrade-insecure-requests", b"user-agent", b"via", b"x-client-ip", b"x-forwarded-for", b"x-real-ip",
    }
)  # fmt: skip

_OMITTED: Final = UNIQUE | IRRELEVANT

#: The end of a head.
END: Final = b"\r\n\r\n"

_DATE: Final = b"\r\nDate: "
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)", re.IGNORECASE)


#: The bytes of a request or of its head, and the identity of the client's connection if it has one.
_Key = bytes | tuple[bytes, bytes]


class RequestHead(NamedTuple):
    """
    The head of a request that may be answered from the response cache.

    Attributes:
        key: equal for requests that have the same response.
        is_repeatable: whether it has no header of :data:`UNIQUE`, so that the client may send the same bytes again.
        omitted: the headers that are not part of the key, names in lower case.
    """

    key: bytes
    is_repeatable: bool
    omitted: dict[bytes, str]

    def header(self, name: bytes) -> str:
        """Return the value of an omitted header; empty if there is none."""
        return self.omitted.get(name, "")


def parse_head(received: bytes) -> RequestHead | None:
    """
    Return the head of a request; None if the request cannot be answered from the cache.

    That is if the bytes are not exactly one complete head of GET or HEAD, or if a line could be read differently by
    another parser: it contains a bare CR or LF or a NUL, or an omitted header is repeated.
    """
    if not received.startswith((b"GET ", b"HEAD ")) or not received.endswith(END):
        return None
    lines = received[: -len(END)].split(b"\r\n")
    ends = len(lines) + 1
    if received.count(b"\n") != ends or received.count(b"\r") != ends or b"" in lines or b"\0" in received:
        return None
    included, omitted = [], {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name not in _OMITTED:
            included.append(line)
        elif name in omitted:
            return None
        else:
            omitted[name] = value.strip(b" \t").decode("latin-1")
    included.append(b"old" if OLD_CLIENTS.match(omitted.get(b"user-agent", "")) else b"")
    return RequestHead(b"\r\n".join(included), UNIQUE.isdisjoint(omitted), omitted)


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """
    A cached response.

    Attributes:
        before_date: bytes before the value of the Date header.
        after_date: bytes after it; without the body if that is in a file or in a remote store.
        dependencies: what must be unchanged.
        exchange: the exchange from which it was cached; None if that was not reported.
        path: path of the file with the body; empty if the body is part of the bytes.
        file: the part of the file that is the body.
        stored: the body in a remote store.
    """

    before_date: bytes
    after_date: bytes
    dependencies: Dependencies
    exchange: Exchange | None
    path: str = ""
    file: FileSlice | None = None
    stored: StoredBody | None = None

    def now(self) -> bytes:
        """Return the bytes of the response, with the current date."""
        return b"%b%b%b" % (self.before_date, _date(int(time.time())), self.after_date)

    def open(self) -> int:
        """
        Open the file with the body, and return its descriptor.

        Raises:
            OSError: it cannot be opened, or has changed.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if self.file is None or signature_of(os.fstat(fd)) != self.file.signature:
            close_now(fd)
            raise FileNotFoundError(self.path)
        return fd


class Hit(NamedTuple):
    """
    A request that can be answered from the cache.

    Attributes:
        fd: descriptor of the file with the body, which the caller must close; None if the body is part of the bytes.
        request: what is kept for further requests with the same bytes; None if the bytes were not remembered.
        blocks: the body, if it is read from a remote store; see :meth:`ResponseCache.open_stored`.
    """

    response: CachedResponse
    head: RequestHead
    fd: int | None
    request: KnownRequest | None
    blocks: Iterator[bytes] | None = None


@dataclass(slots=True)
class KnownRequest:
    """
    A request that is recognized by its bytes, and what the caller of the cache prepares for its repetitions.

    Attributes:
        prepared: what the observers that receive repetitions in batches have prepared; empty if no observer needs
            repetitions; None if one has to receive each of them at once.
        is_prepared: whether *prepared* is known.
        forwarded: the header that names the client behind a proxy.
    """

    prepared: tuple[Any, ...] | None = None
    is_prepared: bool = False
    forwarded: str = ""


@dataclass(slots=True)
class _Entry:
    """
    Attributes:
        size: bytes that the entry counts against the memory limit.
        until: expiry, on the monotonic clock.
        requests: the bytes of requests that have this response.
    """

    key: _Key
    response: CachedResponse
    size: int
    until: float
    requests: list[_Key] = field(default_factory=list)


class ResponseCache:
    """The cached responses of a worker, by request."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._by_request: dict[_Key, tuple[_Entry, RequestHead, KnownRequest]] = {}

    def find(self, request: bytes, identity: bytes = b"") -> Hit | None:
        """
        Return the cached response to a request; None if there is no current one.

        Args:
            request: all bytes that were received.
            identity: of the client's connection, on which the response may depend, such as its TLS certificate.
        """
        found = self._by_request.get(_key(request, identity))
        if found is None:
            head = parse_head(request)
            entry = None if head is None else self._entries.get(_key(head.key, identity))
            if head is None or entry is None:
                return None
            known = self._remember(_key(request, identity), entry, head)
        else:
            entry, head, known = found
        response = entry.response
        if time.monotonic() > entry.until or not response.dependencies.is_current():
            self._forget(entry)
            return None
        fd = None
        if response.file is not None:
            try:
                fd = response.open()
            except OSError:
                self._forget(entry)
                return None
        if self._entries.get(entry.key) is entry:  # is_current() may yield, and the entry may be evicted in between
            self._entries.move_to_end(entry.key)
        if found is None:
            self._evict()
        return Hit(response, head, fd, known)

    def open_stored(self, hit: Hit) -> Hit | None:
        """
        Open the body of a response that is read from a remote store; may block.

        Returns:
            The hit with its blocks, or unchanged if its body is not in a store; None if the body cannot be read, so
            that the application must answer.
        """
        stored = hit.response.stored
        if stored is None:
            return hit
        try:
            return hit._replace(blocks=stored.read())
        except Exception:  # noqa: BLE001 - the application meets the same error, and reports it
            return None

    def add(
        self,
        request: bytes,
        sent: bytes,
        dependencies: Dependencies,
        exchange: Exchange | None = None,
        body: FileSlice | StoredBody | None = None,
        identity: bytes = b"",
    ) -> None:
        """
        Store a response if it is cacheable.

        Args:
            request: bytes received; the response is stored only if they are the head of exactly one request.
            sent: all bytes of the response, or only its head if *body* is given.
            body: where the body that was sent can be read again.
            identity: as for :meth:`find`.
        """
        if not dependencies.is_cacheable or not dependencies.is_complete or (head := parse_head(request)) is None:
            return
        file = body if isinstance(body, FileSlice) else None
        stored = body if isinstance(body, StoredBody) else None
        path = "" if file is None else dependencies.release(file.signature)
        start = sent.find(_DATE, 0, sent.find(END)) + len(_DATE)
        if path is None or start < len(_DATE) or not _is_complete(request, sent, body):
            return
        until = min(time.monotonic() + MAX_SECONDS, dependencies.until)
        after_date = sent[sent.index(b"\r\n", start) :]
        response = CachedResponse(sent[:start], after_date, dependencies, exchange, path, file, stored)
        key = _key(head.key, identity)
        self._forget(self._entries.get(key))
        size = len(head.key) + len(sent) + ENTRY_BYTES
        entry = self._entries[key] = _Entry(key, response, size, until)
        self._bytes += size
        self._remember(_key(request, identity), entry, head)
        self._evict()

    def _evict(self) -> None:
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._entries.values())))

    def _remember(self, request: _Key, entry: _Entry, head: RequestHead) -> KnownRequest | None:
        """Recognize a request by its bytes from now on; return None if it cannot be."""
        if not head.is_repeatable or len(entry.requests) >= _MAX_REQUESTS:
            return None
        entry.requests.append(request)
        size = REQUEST_BYTES + (len(request) if isinstance(request, bytes) else sum(map(len, request)))
        entry.size += size
        self._bytes += size
        known = KnownRequest()
        self._by_request[request] = entry, head, known
        return known

    def _forget(self, entry: _Entry | None) -> None:
        if entry is not None and self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            self._bytes -= entry.size
            for request in entry.requests:
                del self._by_request[request]


def _key(content: bytes, identity: bytes) -> _Key:
    # A pair, because the sum of both could be the bytes of another request.
    return (content, identity) if identity else content


def _is_complete(request: bytes, sent: bytes, body: FileSlice | StoredBody | None) -> bool:
    """Return whether a response has the length that it announces."""
    head, _, rest = sent.partition(END)
    length = _LENGTH.search(head)
    if request.startswith(b"HEAD ") or head.startswith(b"HTTP/1.1 304 "):
        return not rest and body is None
    if body is not None:
        return not rest and length is not None and int(length[1]) == body.length
    return length is not None and int(length[1]) == len(rest)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def is_permitted(cfg: Any, log: Any) -> bool:
    """
    Return whether this configuration permits a response cache.

    Requests that are answered from the cache bypass gunicorn, so the cache is off if any of these has to see every
    request: an operator's hook, a different logger class, an access log with headers, or the PROXY protocol.
    """
    logs_nothing = not log.access_log_enabled and type(log).access is Logger.access
    is_logged_by_us = isinstance(log, AccessLog) or logs_nothing
    hooks = (cfg.settings[name] for name in ("pre_request", "post_request"))
    return (
        is_logged_by_us
        and "{" not in cfg.access_log_format
        and cfg.proxy_protocol in (False, "off")
        and all(hook.get() is hook.default for hook in hooks)
    )
