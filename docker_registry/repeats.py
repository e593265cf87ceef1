"""
The fast path: an answer that was given before is given again while nothing that it was made of has changed.

Clients ask for the same few things over and over: a manifest by its tag, whether a blob is there. Such a request is
known by its bytes, all headers included, and its answer by what it was made of (:mod:`docker_registry.provenance`),
which a few calls of ``stat`` confirm, or one question to the Redis of a cache. So there is one implementation of every
rule, and it is not here: what the application answered is sent once more, with a new date. A request that differs in a
byte, or whose files differ, takes the whole way.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from docker_registry.provenance import Provenance

#: What requests and answers may take of a worker's memory; those that were asked for longest ago go first.
MAX_BYTES: Final = 16 * 1024 * 1024

#: After this time an answer is made anew all the same: API V1 says of images that they expire a year from now.
MAX_SECONDS: Final = 600

#: What an entry costs besides its bytes, about: objects, and the names and signatures of files.
ENTRY_BYTES: Final = 5 * 1024

_END: Final = b"\r\n\r\n"
_DATE: Final = b"\r\nDate: "
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer to be given again.

    Attributes:
        logged: what the access log said of it; None where there is none.
        until: on the monotonic clock, when it is too old.
    """

    before_date: bytes
    after_date: bytes
    provenance: Provenance
    logged: dict[str, Any] | None
    size: int
    until: float

    def now(self) -> bytes:
        """Return all bytes of the answer."""
        return b"%b%b%b" % (self.before_date, _date(int(time.time())), self.after_date)


class Repeats:
    """The answers that a worker remembers."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def find(self, request: bytes) -> Answer | None:
        """Return the answer to a request of exactly these bytes; None where it must be made."""
        answer = self._answers.get(request)
        if answer is None:
            return None
        if time.monotonic() > answer.until or not answer.provenance.is_current():
            self._forget(request)
            return None
        if request in self._answers:  # others had their turn meanwhile
            self._answers.move_to_end(request)
        return answer

    def keep(self, request: bytes, answer: bytes, provenance: Provenance, logged: dict[str, Any] | None = None) -> None:
        """
        Remember an answer, if it may be given again.

        Args:
            request: its bytes, with nothing of another one and no body.
            answer: all that was sent.
        """
        if not provenance.is_offered or not provenance.is_whole or not _is_one_head(request):
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
            logged=logged,
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
    """Tell whether these bytes are the head of one request, whole, and nothing else."""
    return received.endswith(_END) and received.count(_END) == 1


def _is_whole(request: bytes, answer: bytes) -> bool:
    """Tell whether an answer has the length that it says."""
    head, _, body = answer.partition(_END)
    length = _LENGTH.search(head)
    if request.startswith(b"HEAD ") or head.startswith(b"HTTP/1.1 304 "):
        return not body
    return length is not None and int(length[1]) == len(body)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
