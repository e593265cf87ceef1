"""
Ordered lists of names, without a scan for every request.

A folder of the store is listed once and its names are kept in order; the next request only asks the driver for the
folder's version, which changes whenever a name comes or goes, whoever brought it: another worker, another host,
another server. Where a driver has no such version, each request lists the folder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from docker_registry.drivers.base import NO_FOLDER, StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.time_slices import TimeSlices

#: Memory for names, of all folders together; the folder that was used longest ago goes first. One alone may take more.
MAX_KEPT_BYTES: Final = 32 * 1024 * 1024

#: What a name takes besides its characters: an object, and its place in a list.
_NAME_BYTES: Final = 60


@dataclass(frozen=True, slots=True)
class _Listing:
    version: str
    names: Sequence[str]
    size_bytes: int


class Listings:
    """The names in folders of one store, in ASCII order."""

    def __init__(
        self, driver: StorageDriver, slices: TimeSlices | None = None, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        """
        Args:
            slices: the schedule for reading long lists.
            max_kept_bytes: memory for names.
        """
        slices = slices or TimeSlices()
        self.pace = slices.pace
        self._sort = slices.sort
        self._driver = driver
        self._max_kept_bytes = max_kept_bytes
        self._kept: OrderedDict[str, _Listing] = OrderedDict()
        self._kept_bytes = 0

    def names(self, folder: str, read: Callable[[str], str | None], *, deep: bool = False) -> Sequence[str]:
        """
        Return the names of all that lies directly in a folder; none when there is no such folder.

        Args:
            read: makes a name of what a file or folder is called, None of what is no name.
            deep: read every file at any depth instead, called by its path in the folder; only for stores whose
                :attr:`~StorageDriver.walks_by_pages`, and whose folders have no versions of their own.
        """
        version = self._driver.folder_version(folder)
        if version == NO_FOLDER:
            return []
        kept = self._kept.get(folder)
        if kept is not None and kept.version == version:
            self._kept.move_to_end(folder)
            return kept.names
        found = self._walk(folder) if deep else self._list(folder)
        names = self._sort(name for name in map(read, found) if name is not None)
        self._forget(folder)
        if version is not None:
            self._keep(folder, _Listing(version, names, sum(map(len, names)) + _NAME_BYTES * len(names)))
        return names

    def _list(self, folder: str) -> Iterator[str]:
        start = len(folder) + 1
        try:
            for path in self._driver.list_directory(folder):
                yield path[start:]
        except PathNotFound:
            return

    def _walk(self, folder: str) -> Iterator[str]:
        start = len(folder) + 1
        for stat in self._driver.walk(folder):
            yield stat.path[start:]

    def _keep(self, folder: str, listing: _Listing) -> None:
        self._kept[folder] = listing
        self._kept_bytes += listing.size_bytes
        while self._kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))

    def _forget(self, folder: str) -> None:
        listing = self._kept.pop(folder, None)
        if listing is not None:
            self._kept_bytes -= listing.size_bytes


@dataclass(frozen=True, slots=True)
class Page:
    """
    A part of an ordered list.

    Attributes:
        more: whether something follows.
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
    Cut a page out of an ordered list (end-8b).

    Args:
        count: names at most.
        last: only what comes after it; it need not be in the list itself.
        exists: tells whether a name is really there, asked for those of the page alone: what was removed halfway, or
            a moment ago, leaves its name behind.
        pace: takes names and yields them, with pauses; there may be many that are gone.
    """
    if count == 0:
        return Page(())
    start = bisect_right(names, last) if last else 0
    there = tuple(islice(filter(exists, pace(islice(names, start, None))), count + 1))
    return Page(there[:count], len(there) > count)
