"""
The lists of tags that upstreams have.

By the specification (end-8b) a list is in ASCII order, and the next page begins after the last tag of a page. Such a
list is passed through page by page. Some upstreams list tags in another order, or continue a list only by a cursor of
their own, as Amazon ECR does (https://github.com/CodesWhat/drydock/pull/927). Of these the whole list is read, and kept
in memory for the ttl.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qs, urlencode

from docker_registry.concurrency import KeyedLocks, deadline
from docker_registry.errors import UpstreamError
from docker_registry.registry import json_scanner
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_scanner import Kind
from docker_registry.registry.listing_cache import Page, cut
from docker_registry.registry.mirror.remotes import Remote
from docker_registry.registry.mirror.responses import MAX_MANIFEST_BYTES, MAX_MANIFEST_SECONDS, network_errors
from docker_registry.registry.mirror.stale import STALE_SECONDS
from docker_registry.registry.names import is_tag
from docker_registry.resources.memory_budget import JsonBudget, MemoryBudget

logger = logging.getLogger(__name__)

#: Tags on a page that every upstream allows (end-8b); some refuse longer pages, as quay.io did
#: (https://github.com/google/go-containerregistry/issues/1963).
ALLOWED_TAGS: Final = 100

#: Status codes of upstreams that refuse a page of so many tags.
_REFUSALS: Final = frozenset({400, 405, 413})

#: Tags on a page of a whole list, the most that Amazon ECR allows, and pages that are read of it.
_WHOLE_PAGE_TAGS: Final = 1000
MAX_PAGES: Final = 100

#: Memory for whole lists, and for each tag besides its characters.
_REMEMBERED_BYTES: Final = 16 * 1024 * 1024
_TAG_BYTES: Final = 60

#: Memory for which lists could not be read.
_FAILURES_BYTES: Final = 1024 * 1024

#: Memory for whole lists that are being read, and for each byte that the upstream sends.
_READING_BYTES: Final = 32 * 1024 * 1024
_MEMORY_FACTOR: Final = 6


@dataclass(frozen=True, slots=True)
class _Received:
    """
    A page of an upstream.

    Attributes:
        names: its tags, in the order in which they came.
        following: path and query of the next page, below the repository; empty on the last page.
        size_bytes: bytes that the upstream has sent.
    """

    names: Sequence[str]
    following: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _List:
    """
    What is known of a list.

    Attributes:
        names: all tags in ASCII order; None if the upstream can be asked for any page.
        until: for how long that is known, on the monotonic clock.
        size_bytes: memory of the names.
    """

    names: Sequence[str] | None
    until: float
    size_bytes: int = 0


class TagLists:
    """Reads lists of tags of all upstreams."""

    def __init__(self, json_budget: JsonBudget, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            json_budget: limits the memory and time for long lists.
            now: the clock, seconds.
        """
        self._json_budget = json_budget
        self._now = now
        self._locks = KeyedLocks()
        # Not of the JSON budget: an upstream that sends slowly must not keep other documents waiting.
        self._reading = MemoryBudget(_READING_BYTES)
        self._lists: BoundedCache[tuple[str, str], _List] = BoundedCache(_REMEMBERED_BYTES, lambda one: one.size_bytes)
        self._retry_at: BoundedCache[tuple[str, str], float] = BoundedCache(_FAILURES_BYTES)
        self._page_sizes: dict[str, int] = {}  # by the names of upstreams that have refused longer pages

    def page(self, remote: Remote, count: int, last: str) -> Page | None:
        """
        Return a page of the tags of a repository; None if the upstream does not have the list.

        Args:
            count: largest number of tags, at least 1; the page may be shorter although others follow.
            last: the page begins after this tag.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends no list of tags.
            Overloaded: the list is long, and other lists or documents use the memory of the worker.
        """
        known = self._known(remote)
        if known is None:
            first = self._ask(remote, max(count, ALLOWED_TAGS), "")  # a short page may be in order by chance
            if first is None:
                return None
            if not first.following:
                return self._cut(first, count, last)
            known = self._learn(remote, first, "")
            if known.names is None and not last:
                return self._cut(first, count, last)
        if known.names is None:
            received = self._ask(remote, count, last)
            if received is None:
                return None
            known = self._learn(remote, received, last)
            if known.names is None:
                return self._cut(received, count, last)
        return cut(known.names, count, last, is_tag)

    # ------------------------------------------------------------------------------------------------- steps

    def _known(self, remote: Remote) -> _List | None:
        known = self._lists.get((remote.upstream.name, remote.path))
        return known if known is not None and self._now() < known.until else None

    def _learn(self, remote: Remote, page: _Received, last: str) -> _List:
        """Return whether the upstream can be asked for any page, as a page after *last* shows; else the whole list."""
        key = remote.upstream.name, remote.path
        is_ordered = self._is_by_specification(page, last)
        with self._locks.hold(key):
            known = self._known(remote)
            if known is None or (known.names is None and not is_ordered):  # no other request has read it meanwhile
                known = self._remember(remote, None if is_ordered else self._read_all(remote))
                self._lists.put(key, known)
            return known

    def _remember(self, remote: Remote, names: Sequence[str] | None) -> _List:
        size_bytes = sum(len(name) + _TAG_BYTES for name in self._json_budget.pace(names or ()))
        return _List(names, self._now() + remote.upstream.ttl_seconds, size_bytes)

    def _is_by_specification(self, page: _Received, last: str) -> bool:
        """Return whether the tags of a page after *last* are in ASCII order, and the next page follows the last one."""
        next_last = parse_qs(page.following.partition("?")[2]).get("last")
        if page.following and next_last != list(page.names[-1:]):
            return False
        return all(one < next_one for one, next_one in self._json_budget.pace(pairwise([last, *page.names])))

    def _read_all(self, remote: Remote) -> Sequence[str]:
        """
        Return all tags of a list, in ASCII order.

        Raises:
            UpstreamError: a page cannot be read, or they do not arrive in time, or did not a moment ago: requests that
                have waited for this one do not each try in turn.
        """
        key = remote.upstream.name, remote.path
        if self._now() < (self._retry_at.get(key) or 0):
            raise UpstreamError("The list of tags of the upstream registry could not be read.", upstream=key[0])
        try:
            return self._read_pages(remote)
        except UpstreamError:
            self._retry_at.put(key, self._now() + STALE_SECONDS)
            raise

    def _read_pages(self, remote: Remote) -> Sequence[str]:
        names, read, size = set[str](), set[str](), 0
        upstream = remote.upstream.name
        with self._reading.reserve(0) as reserved, network_errors(upstream), deadline(MAX_MANIFEST_SECONDS):
            page = self._ask(remote, _WHOLE_PAGE_TAGS, "")
            while page is not None:
                size += page.size_bytes
                reserved.grow(_MEMORY_FACTOR * page.size_bytes)
                names.update(page.names)
                if not page.following:
                    return self._json_budget.sort(names)
                if page.following in read or len(read) == MAX_PAGES - 1 or size > MAX_MANIFEST_BYTES:
                    logger.warning("the list of tags of %s at %s is cut", remote.path, upstream)
                    return self._json_budget.sort(names)
                read.add(page.following)
                page = self._get(remote, page.following)
        raise UpstreamError("The upstream registry does not have a page of its list of tags.", upstream=upstream)

    def _ask(self, remote: Remote, count: int, last: str) -> _Received | None:
        """Ask for a page; for a shorter one if the upstream refuses to send so many tags."""
        upstream = remote.upstream.name
        try:
            return self._get(remote, _path(min(count, self._page_sizes.get(upstream, count)), last))
        except UpstreamError as error:
            if count <= ALLOWED_TAGS or upstream in self._page_sizes or error.detail.get("status") not in _REFUSALS:
                raise
        received = self._get(remote, _path(ALLOWED_TAGS, last))
        self._page_sizes[upstream] = ALLOWED_TAGS
        return received

    def _get(self, remote: Remote, path: str) -> _Received | None:
        page = remote.client.get_page(remote.path, path, "application/json")
        return None if page is None else _Received(self._read(page.payload), page.following, len(page.payload))

    def _read(self, payload: bytes) -> list[str]:
        """
        Return the tags in a list, each once.

        Raises:
            UpstreamError: the payload is no list of tags.
        """
        with self._json_budget.reserve(payload):
            try:
                parts = self._json_budget.pace(json_scanner.scan(payload.decode()))
                names = dict.fromkeys(item for part in parts if part.key == "tags" for item in _texts(part))
            except (ValueError, RecursionError):
                raise UpstreamError("The upstream registry sent no list of tags.") from None
            return list(filter(is_tag, self._json_budget.pace(names)))

    def _cut(self, received: _Received, count: int, last: str) -> Page:
        page = cut(self._json_budget.sort(received.names), count, last, is_tag)
        return Page(page.names, bool(page.names) and (page.more or bool(received.following)))


def _path(count: int, last: str) -> str:
    return f"tags/list?{urlencode({'n': count, **({'last': last} if last else {})})}"


def _texts(part: json_scanner.Part) -> Iterator[str]:
    """Yield the text in a part of a list; raises ValueError if the part is of something else."""
    if part.kind is Kind.OBJECT or (part.kind is Kind.VALUE and part.value is not None):
        raise ValueError
    if part.kind is Kind.ITEM and isinstance(part.value, str):
        yield part.value
