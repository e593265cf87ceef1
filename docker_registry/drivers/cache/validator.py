"""
The dependencies of a response that was computed from cache entries (:mod:`docker_registry.dependencies`).

Every lookup in the cache is recorded: the entry, and the generations of the folders above it, as Redis holds them.
While these are unchanged, every lookup would return the same value; one request to Redis confirms that. So a reused
response is as fresh as one recomputed from a warm cache, and no fresher: it becomes invalid when a lease is broken, an
entry expires or Redis becomes unreachable.

A folder version is valid for a few seconds only. When it expires, the folder is listed again; if the names are the
same, responses that depend on the earlier listing remain valid.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar

from docker_registry.drivers.cache.leased import LeasedCache, Lookup, sum_of
from docker_registry.errors import PathNotFound

#: A response with more keys costs as much to confirm as to compute, or too much memory to keep.
_MAX_KEYS: Final = 100

_MAX_LISTS: Final = 1000

K = TypeVar("K")


@dataclass(slots=True)
class Listing:
    """
    A listing of a folder.

    Attributes:
        version: the newest version of the folder that had this listing.
        names: hash of the names; None if the folder was not listed.
    """

    version: bytes
    names: bytes | None = None


class CacheValidator:
    """
    Records and confirms the dependencies of one response.

    Attributes:
        is_complete: whether all dependencies were recorded; otherwise the response is uncacheable.
    """

    def __init__(self, cache: LeasedCache) -> None:
        self.is_complete = True
        self._cache = cache
        self._entries: dict[str, bytes] = {}
        self._listings: dict[str, tuple[Lookup, Listing]] = {}
        self._total = b""

    def record(self, lookup: Lookup, value: bytes) -> None:
        """Record a fact that was looked up or filled."""
        self._add_entry(lookup.key, lookup.entry(value))
        self._add_generations(lookup)

    def record_listing(self, lookup: Lookup, listing: Listing) -> None:
        """Record a listing of a folder."""
        if self._listings.setdefault(lookup.key, (lookup, listing))[1] is not listing:
            self.is_complete = False
        self._add_generations(lookup)

    def is_current(self) -> bool:
        """Return whether all dependencies are unchanged; this takes one request to Redis."""
        self._total = self._total or sum_of(self._entries.values())
        rest = [lookup.entry(listing.version) for lookup, listing in self._listings.values()]
        return self._cache.confirm([*self._entries, *self._listings], self._total, rest)

    def _add_generations(self, lookup: Lookup) -> None:
        for key in lookup.above:
            self._add_entry(sys.intern(key), lookup.generations[key])  # thousands of responses share these keys

    def _add_entry(self, key: str, value: bytes) -> None:
        if self._entries.setdefault(key, value) != value or len(self._entries) > _MAX_KEYS:
            self.is_complete = False


class LatestListings:
    """The latest listings of this process, by folder; the oldest of more than 1000 are evicted."""

    def __init__(self) -> None:
        self._versions: dict[str, bytes] = {}
        self._listings_read: dict[str, Listing] = {}

    def at_version(self, path: str, version: bytes) -> Listing:
        """Return the listing of a folder at its current version; one without names if that version is new."""
        listing = self._listings_read.get(path)
        if listing is not None and listing.version == version:
            return listing
        _put(self._versions, path, version)
        return Listing(version)

    def recorded(self, path: str, listing: Iterator[str]) -> Iterator[str]:
        """Yield the paths of a listing as it is read, and store it with the version that the folder had before."""
        version = self._versions.get(path)
        if version is None:
            yield from listing
            return
        paths = []
        try:
            for item in listing:
                paths.append(item)
                yield item
        except PathNotFound:  # store a missing folder as an empty listing
            self._add(path, version, [])
            raise
        self._add(path, version, paths)

    def _add(self, path: str, version: bytes, paths: list[str]) -> None:
        names = sha256("\0".join(sorted(paths)).encode()).digest()
        listing = self._listings_read.get(path)
        if listing is not None and listing.names == names:
            listing.version = version
        else:
            _put(self._listings_read, path, Listing(version, names))


def _put(latest: dict[str, K], path: str, value: K) -> None:
    latest.pop(path, None)
    while len(latest) >= _MAX_LISTS:
        del latest[next(iter(latest))]
    latest[path] = value
