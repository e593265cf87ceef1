"""
The response cache of a worker: serves a cached response while its dependencies are unchanged.

Clients repeat a few requests over and over: a manifest by tag, the existence of a blob. The key of a cached response is
the bytes of its request, all headers included. Its dependencies (:mod:`docker_registry.dependencies`) are checked with
a few calls of ``stat``, or one query to Redis. The cache implements no rule of the registry: it sends the bytes that
the application sent, with a new Date header. A request that differs in a byte, or whose dependencies have changed, goes
to the application.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from docker_registry.dependencies import Dependencies
from docker_registry.exchange import Exchange

#: Memory limit for cached requests and responses per worker; the least recently used are evicted first.
MAX_BYTES: Final = 16 * 1024 * 1024

#: Maximum age of an entry: API V1 responses carry an Expires header that is relative to the current time.
MAX_SECONDS: Final = 600

#: Approximate overhead per entry: objects, and the paths and signatures of files.
ENTRY_BYTES: Final = 5 * 1024

_END: Final = b"\r\n\r\n"
_DATE: Final = b"\r\nDate: "
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A cached response.

    Attributes:
        before_date: bytes before the value of the Date header.
        after_date: bytes after it.
        exchange: the exchange from which it was cached; None if that was not reported.
        size: bytes that the entry counts against the memory limit.
        until: expiry, on the monotonic clock.
    """

    before_date: bytes
    after_date: bytes
    provenance: Dependencies
    exchange: Exchange | None
    size: int
    until: float

    def now(self) -> bytes:
        """Return the bytes of the response, with the current date."""
        return b"%b%b%b" % (self.before_date, _date(int(time.time())), self.after_date)


class ResponseCache:
    """The cached responses of a worker, by request."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def find(self, request: bytes) -> Answer | None:
        """Return the cached response to a request of exactly these bytes; None if there is no current one."""
        answer = self._answers.get(request)
        if answer is None:
            return None
        if time.monotonic() > answer.until or not answer.provenance.is_current():
            self._forget(request)
            return None
        if request in self._answers:  # is_current() may yield, and the entry may be evicted in between
            self._answers.move_to_end(request)
        return answer

    def keep(self, request: bytes, answer: bytes, provenance: Dependencies, exchange: Exchange | None = None) -> None:
        """
        Store a response if it is cacheable.

        Args:
            request: bytes received; stored only if they are the head of exactly one request, without a body.
            answer: all bytes of the response.
        """
        if not provenance.is_cacheable or not provenance.is_whole or not _is_one_head(request):
            return
        start = answer.find(_DATE, 0, answer.find(_END)) + len(_DATE)
        if start < len(_DATE) or not _is_whole(request, answer):
            return
        size = len(request) + len(answer) + ENTRY_BYTES
        self._forget(request)
        self._answers[request] = Answer(
            before_date=answer[:start],
            after_date=answer[answer.index(b"\r\n", start) :],
            provenance=provenance,
            exchange=exchange,
            size=size,
            until=time.monotonic() + MAX_SECONDS,
        )
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._answers)))

    def _forget(self, request: bytes) -> None:
        answer = self._answers.pop(request, None)
        if answer is not None:
            self._bytes -= answer.size


def _is_one_head(received: bytes) -> bool:
    """Return whether these bytes are exactly one complete request head."""
    return received.endswith(_END) and received.count(_END) == 1


def _is_whole(request: bytes, answer: bytes) -> bool:
    """Return whether a response has the length that it announces."""
    head, _, body = answer.partition(_END)
    length = _LENGTH.search(head)
    if request.startswith(b"HEAD ") or head.startswith(b"HTTP/1.1 304 "):
        return not body
    return length is not None and int(length[1]) == len(body)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
