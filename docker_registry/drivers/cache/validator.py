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

from docker_registry.drivers.cache.leased import Found, LeasedCache, sum_of
from docker_registry.errors import PathNotFound

#: A response with more keys costs as much to confirm as to compute, or too much memory to keep.
_MAX_KEYS: Final = 100

_MAX_LISTS: Final = 1000

K = TypeVar("K")


@dataclass(slots=True)
class Listed:
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
        is_whole: whether all dependencies were recorded; otherwise the response is uncacheable.
    """

    def __init__(self, cache: LeasedCache) -> None:
        self.is_whole = True
        self._cache = cache
        self._held: dict[str, bytes] = {}
        self._lists: dict[str, tuple[Found, Listed]] = {}
        self._total = b""

    def note(self, found: Found, value: bytes) -> None:
        """Record a fact that was looked up or filled."""
        self._hold(found.key, found.entry(value))
        self._add_generations(found)

    def note_list(self, found: Found, listed: Listed) -> None:
        """Record a listing of a folder."""
        if self._lists.setdefault(found.key, (found, listed))[1] is not listed:
            self.is_whole = False
        self._add_generations(found)

    def is_current(self) -> bool:
        """Return whether all dependencies are unchanged; this takes one request to Redis."""
        self._total = self._total or sum_of(self._held.values())
        rest = [found.entry(listed.version) for found, listed in self._lists.values()]
        return self._cache.confirm([*self._held, *self._lists], self._total, rest)

    def _add_generations(self, found: Found) -> None:
        for key, generation in found.generations.items():
            self._hold(sys.intern(key), generation)  # thousands of responses share these keys

    def _hold(self, key: str, value: bytes) -> None:
        if self._held.setdefault(key, value) != value or len(self._held) > _MAX_KEYS:
            self.is_whole = False


class Lists:
    """The latest listings of this process, by folder; the oldest of more than 1000 are evicted."""

    def __init__(self) -> None:
        self._versions: dict[str, bytes] = {}
        self._read: dict[str, Listed] = {}

    def at(self, path: str, version: bytes) -> Listed:
        """Return the listing of a folder at its current version; one without names if that version is new."""
        listed = self._read.get(path)
        if listed is not None and listed.version == version:
            return listed
        _put(self._versions, path, version)
        return Listed(version)

    def seen(self, path: str, found: Iterator[str]) -> Iterator[str]:
        """Yield the paths of a listing as it is read, and store it with the version that the folder had before."""
        version = self._versions.get(path)
        if version is None:
            yield from found
            return
        paths = []
        try:
            for item in found:
                paths.append(item)
                yield item
        except PathNotFound:  # store a missing folder as an empty listing
            self._add(path, version, [])
            raise
        self._add(path, version, paths)

    def _add(self, path: str, version: bytes, paths: list[str]) -> None:
        names = sha256("\0".join(sorted(paths)).encode()).digest()
        listed = self._read.get(path)
        if listed is not None and listed.names == names:
            listed.version = version
        else:
            _put(self._read, path, Listed(version, names))


def _put(kept: dict[str, K], path: str, value: K) -> None:
    kept.pop(path, None)
    while len(kept) >= _MAX_LISTS:
        del kept[next(iter(kept))]
    kept[path] = value
