"""
Sorted lists of names, without a scan of the store for every request.

A folder of the store is listed when a request needs its names, which are sorted and cached. Until its version changes,
later requests only read that from the driver; it changes whenever a name is added or removed, also by another worker,
host or server. Concurrent requests wait for the first that lists a version. For folders without a version, every
request lists the folder.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Final

from docker_registry.drivers.base import NO_FOLDER, Stat, StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.resources.time_slices import TimeSlices

#: Memory for all cached folders with their names; the least recently used folder is evicted first. A single folder may
#: exceed the limit.
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024

#: Memory of a name besides its characters: the object header and its slot in the list.
_NAME_BYTES: Final = 60

#: Memory of a folder besides its names and its path.
_FOLDER_BYTES: Final = 600


@dataclass(frozen=True, slots=True)
class _Listing:
    version: str
    names: Sequence[str]
    size_bytes: int


class ListingCache:
    """
    Caches the names in folders of one store, in ASCII order.

    Attributes:
        pace: wraps an iterable of names so that a long loop over it yields to other requests.
    """

    def __init__(
        self, driver: StorageDriver, slices: TimeSlices | None = None, max_cached_bytes: int = MAX_CACHED_BYTES
    ) -> None:
        """
        Args:
            slices: divides the work on long lists into time slices.
            max_cached_bytes: memory for cached names.
        """
        slices = slices or TimeSlices()
        self.pace = slices.pace
        self._sort = slices.sort
        self._driver = driver
        self._max_cached_bytes = max_cached_bytes
        self._readings: dict[tuple[str, str], Event] = {}  # by folder and version; set when they end
        self._cached: OrderedDict[str, _Listing] = OrderedDict()
        self._cached_bytes = 0

    def names(
        self, folder: str, read: Callable[[str], str | None], *, deep: Callable[[Stat], bool] | None = None
    ) -> Sequence[str]:
        """
        Return the sorted names of the direct children of a folder; empty when the folder does not exist.

        Args:
            read: converts a child's file name to a name, or returns None for a child that is not listed.
            deep: list the files at any depth for which this is true instead, and pass *read* their paths relative to
                the folder. Only for stores with :attr:`~docker_registry.drivers.base.Capabilities.pages`, whose folders
                have no versions.
        """
        version = self._driver.folder_version(folder)
        if version == NO_FOLDER:
            return []
        names = self._find(folder, version)
        if names is not None:
            return names
        if version is None:
            self._evict(folder)
            return self._read(folder, read, deep)
        finished = Event()
        other = self._readings.setdefault((folder, version), finished)
        if other is not finished:
            other.wait()
            names = self._find(folder, version)
            # If the other request failed, do not wait for a third: the store may take minutes to fail.
            return self._read_version(folder, version, read, deep) if names is None else names
        try:
            return self._read_version(folder, version, read, deep)
        finally:
            del self._readings[folder, version]
            finished.set()

    def _find(self, folder: str, version: str | None) -> Sequence[str] | None:
        """Return the cached names of a version of a folder; None if they are not cached."""
        cached = self._cached.get(folder)
        if cached is None or cached.version != version:
            return None
        self._cached.move_to_end(folder)
        return cached.names

    def _read_version(
        self, folder: str, version: str, read: Callable[[str], str | None], deep: Callable[[Stat], bool] | None
    ) -> Sequence[str]:
        """List a version of a folder, and cache its names."""
        names = self._read(folder, read, deep)
        size_bytes = _FOLDER_BYTES + len(folder) + sum(len(name) + _NAME_BYTES for name in self.pace(names))
        self._add(folder, _Listing(version, names, size_bytes))
        return names

    def _read(
        self, folder: str, read: Callable[[str], str | None], deep: Callable[[Stat], bool] | None
    ) -> Sequence[str]:
        found = self._walk(folder, deep) if deep is not None else self._list(folder)
        return self._sort(name for name in map(read, found) if name is not None)

    def _list(self, folder: str) -> Iterator[str]:
        start = len(folder) + 1
        try:
            for path in self._driver.list_directory(folder):
                yield path[start:]
        except PathNotFound:
            return

    def _walk(self, folder: str, is_listed: Callable[[Stat], bool]) -> Iterator[str]:
        start = len(folder) + 1
        for stat in self._driver.walk(folder):
            if is_listed(stat):
                yield stat.path[start:]

    def _add(self, folder: str, listing: _Listing) -> None:
        self._evict(folder)
        self._cached[folder] = listing
        self._cached_bytes += listing.size_bytes
        while self._cached_bytes > self._max_cached_bytes and len(self._cached) > 1:
            self._evict(next(iter(self._cached)))

    def _evict(self, folder: str) -> None:
        listing = self._cached.pop(folder, None)
        if listing is not None:
            self._cached_bytes -= listing.size_bytes


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of a sorted list.

    Attributes:
        more: whether further names follow.
    """

    names: tuple[str, ...]
    more: bool = False


def cut(
    names: Sequence[str],
    count: int,
    last: str,
    exists: Callable[[str], bool],
    pace: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Page:
    """
    Cut a page out of a sorted list (end-8b).

    Args:
        count: largest number of names on the page.
        last: return only names after this one, which need not be in the list; empty to start at the beginning.
        exists: checks that a name still exists; called only until the page is full. Interrupted or very recent
            removals leave names in the list.
        pace: wraps the names so that a loop over many stale ones yields to other requests.
    """
    if count == 0:
        return Page(())
    start = bisect_right(names, last) if last else 0
    there = tuple(islice(filter(exists, pace(islice(names, start, None))), count + 1))
    return Page(there[:count], len(there) > count)


def with_prefixes(names: Sequence[str], prefixes: Iterable[str]) -> Sequence[str]:
    """Return the names of a sorted list that begin with one of some prefixes, without looking at the others."""
    found: list[str] = []
    end = 0
    for prefix in sorted(prefixes):
        if not prefix:
            return names
        start = bisect_left(names, prefix, lo=end)
        end = bisect_left(names, prefix[:-1] + chr(ord(prefix[-1]) + 1), lo=start)
        found += names[start:end]
    return found
