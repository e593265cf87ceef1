"""
What an answer was made of, where all of it came out of the cache (:mod:`docker_registry.provenance`).

Everything that is looked up in the cache is noted: the entry, and the generations of the folders above it, as the
Redis holds them. While all of that is the same, each look would tell the same again; one question confirms it. So an
answer that is given again is as good as one that is made anew of a warm cache, and no better: what breaks a lease, ends
the minute of an entry or takes the Redis away makes it unknown.

That nothing has come or gone in a folder is known for a few seconds only. Then the folder is listed again, and when the
names are the same, what was made of the list before counts as before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar

from docker_registry.drivers.cache.leased import Found, LeasedCache, sum_of
from docker_registry.errors import PathNotFound

#: An answer made of more costs as much to confirm as to make, or needs too much memory to be remembered.
_MAX_KEYS: Final = 100

_MAX_LISTS: Final = 1000

K = TypeVar("K")


@dataclass(slots=True)
class Listed:
    """
    A list of what lies in a folder.

    Attributes:
        version: of the folder, the newest one under which the list was read.
        names: what stands for the list; None of one that was not seen.
    """

    version: bytes
    names: bytes | None = None


class CacheWitness:
    """
    Notes what one answer was made of.

    Attributes:
        is_whole: whether all of it could be noted.
    """

    def __init__(self, cache: LeasedCache) -> None:
        self.is_whole = True
        self._cache = cache
        self._held: dict[str, bytes] = {}
        self._lists: dict[str, tuple[Found, Listed]] = {}
        self._total = b""

    def note(self, found: Found, value: bytes) -> None:
        """Add a fact that was looked up, or filled."""
        self._hold(found.key, found.entry(value))
        self._add_generations(found)

    def note_list(self, found: Found, listed: Listed) -> None:
        """Add a list of a folder."""
        if self._lists.setdefault(found.key, (found, listed))[1] is not listed:
            self.is_whole = False
        self._add_generations(found)

    def is_current(self) -> bool:
        """Ask whether all of it is as it was."""
        self._total = self._total or sum_of(self._held.values())
        rest = [found.entry(listed.version) for found, listed in self._lists.values()]
        return self._cache.confirm([*self._held, *self._lists], self._total, rest)

    def _add_generations(self, found: Found) -> None:
        for key, generation in found.generations.items():
            self._hold(sys.intern(key), generation)  # thousands of answers share the folders above

    def _hold(self, key: str, value: bytes) -> None:
        if self._held.setdefault(key, value) != value or len(self._held) > _MAX_KEYS:
            self.is_whole = False


class Lists:
    """The lists that a process has read lately, by their folders."""

    def __init__(self) -> None:
        self._versions: dict[str, bytes] = {}
        self._read: dict[str, Listed] = {}

    def at(self, path: str, version: bytes) -> Listed:
        """Return the list of a folder at the version that it has; one that nobody has seen where that is a new one."""
        listed = self._read.get(path)
        if listed is not None and listed.version == version:
            return listed
        _put(self._versions, path, version)
        return Listed(version)

    def seen(self, path: str, found: Iterator[str]) -> Iterator[str]:
        """Pass a list on that is read now, and remember it with the version that the folder had before."""
        version = self._versions.get(path)
        if version is None:
            yield from found
            return
        paths = []
        try:
            for item in found:
                paths.append(item)
                yield item
        except PathNotFound:  # the list of a folder that is not there is known too
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
