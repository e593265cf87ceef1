"""
Invalidates the cache entries of a path, of the paths below it and of the folders above it, when the path changes.

Leases are broken before and after each change, so a value that another process read before the change cannot be cached
after it. In a batch, "after" is its end; a process that dies in a batch leaves old content in the cache for a minute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import Final, NamedTuple

from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.cache.leased import KEPT_FOLDERS, LeasedCache, Lookup
from docker_registry.drivers.paths import check_path, folders_above

#: How long a fact may be outdated after a host has written to the store without reaching Redis.
SECONDS: Final = 60

#: Paths of blobs, whose content never changes, and of short-lived files, which are not cached.
IMMUTABLE: Final = re.compile(r"(.+/)?blobs/[^/]+/[0-9a-f]{2}/[0-9a-f]{32,}/data")
SHORT_LIVED: Final = re.compile(r"(.+/)?_(uploads|leases|probes|received|pending)/.+")

#: Maximum number of files of a batch that are settled with one request, during which Redis serves no other host.
_SETTLED_AT_ONCE: Final = 500

CONTENT: Final = "content"
SIZE: Final = "size"
PRESENCE: Final = "presence"
FOLDER: Final = "folder"


@dataclass(slots=True)
class _Batch:
    """
    The changes that a greenlet makes inside :meth:`Invalidation.batch`.

    Attributes:
        broken: entries to break at the end of the block, as changes may become visible only there.
        written: lease and size of the written files whose sizes are cached at the end of the block, by path.
    """

    cache: LeasedCache
    broken: set[tuple[str, str]] = field(default_factory=set)
    written: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)


class _Announced(NamedTuple):
    """
    Files that were announced and not written yet.

    Attributes:
        lease: of the sizes of all files.
        further: the other entries that the write of each file changes, by path.
    """

    cache: LeasedCache
    lease: bytes
    further: dict[str, list[tuple[str, str]]]


#: The batch of this greenlet; None outside of such a block.
_current_batch: ContextVar[_Batch | None] = ContextVar("current_batch", default=None)

#: The files that this greenlet has announced last.
_announced: ContextVar[_Announced | None] = ContextVar("announced", default=None)

#: The cache and the paths of the files that this greenlet's last batch wrote and that were there at its end.
_last_settled: ContextVar[tuple[LeasedCache | None, frozenset[str]]] = ContextVar(
    "last_settled", default=(None, frozenset())
)


class Write:
    """
    A write of a file, whose size is cached at its end: a context manager around the write.

    Attributes:
        size: of the written file in bytes; None until the store has it.
    """

    __slots__ = ("_batch", "_cache", "_further", "_lease", "_path", "size")

    def __init__(
        self,
        cache: LeasedCache,
        path: str,
        lease: bytes | None,
        further: Sequence[tuple[str, str]],
        batch: _Batch | None,
    ) -> None:
        """
        Args:
            lease: of the size.
            further: the other entries that the write changes.
            batch: caches the size at its end instead.
        """
        self._cache = cache
        self._path = path
        self._lease = lease
        self._further = further
        self._batch = batch
        self.size: int | None = None

    def __enter__(self) -> Write:  # noqa: PYI034 - Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        if self._lease is None or self.size is None:
            self._cache.break_leases([(SIZE, self._path), *self._further])
            return
        settled = self._lease, b"%d" % self.size
        if self._batch is None:
            self._cache.settle(SIZE, {self._path: settled}, self._further, SECONDS)
        else:
            self._batch.written[self._path] = settled
            self._batch.broken.update(self._further)


class Invalidation:
    """Invalidates the entries of a cache."""

    def __init__(self, cache: LeasedCache, store: StorageDriver, *, has_folder_versions: bool) -> None:
        """
        Args:
            has_folder_versions: the store has folder versions, so the cache holds none.
        """
        self._cache = cache
        self._store = store
        self._has_folder_versions = has_folder_versions

    @cached_property
    def _is_visible_at_once(self) -> bool:
        """Whether a write in a batch is visible when it returns, as in all object stores."""
        return self._store.capabilities.pages

    @contextmanager
    def batch(self, of_store: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """
        Invalidate the entries that this greenlet changes in the block once more at its end.

        Args:
            of_store: begins a batch of the store, whose changes may become visible only at its end. It is not called if
                the block is within another one.
        """
        if self._batch() is not None:
            yield
            return
        batch = _Batch(self._cache)
        token = _current_batch.set(batch)
        try:
            with of_store():
                yield
        except BaseException:  # the store may have published nothing
            batch.broken.update((SIZE, path) for path in batch.written)
            batch.written.clear()
            raise
        finally:
            _current_batch.reset(token)
            written = iter(batch.written.items())
            settled: frozenset[str] = frozenset()
            while some := dict(islice(written, _SETTLED_AT_ONCE)):
                settled |= self._cache.settle(SIZE, some, batch.broken, SECONDS)
                batch.broken.clear()
            _last_settled.set((self._cache, settled))
            if batch.broken:
                self._cache.break_leases(batch.broken)

    def was_settled(self, path: str) -> bool:
        """
        Return whether this greenlet has written a file in its last batch, and it was there at the end; once only.

        Then no other change of the file had begun or ended since the batch began to write it.
        """
        cache, settled = _last_settled.get()
        self.forget_batch()
        return cache is self._cache and path in settled and self._batch() is None

    def forget_batch(self) -> None:
        """Forget the last batch of this greenlet, which serves all requests of a connection, and what it announced."""
        _last_settled.set((None, frozenset()))
        _announced.set(None)

    def announce(self, paths: Sequence[str], needed: Sequence[str] = ()) -> list[Lookup]:
        """Invalidate files that will be written, and look up the sizes of others, with one request to Redis."""
        written = paths if self._is_visible_at_once else ()
        cached = [path for path in written if not SHORT_LIVED.fullmatch(check_path(path))]
        further = {path: self._changed_with_size(path) for path in cached}
        lease, lookups = self._cache.renew(SIZE, cached, {*chain.from_iterable(further.values())}, needed)
        if cached and lease is not None:
            _announced.set(_Announced(self._cache, lease, further))
        return lookups

    def writing(self, path: str) -> AbstractContextManager[Write]:
        """
        Invalidate a file before and after it is written; where a write is visible at once, cache its size afterwards.

        So the registry need not ask the store for a file that it has just written, such as the link of a blob when its
        manifest is pushed. In a batch, "afterwards" is its end, for all files together: until then nothing was
        acknowledged.
        """
        if not self._is_visible_at_once or SHORT_LIVED.fullmatch(check_path(path)):
            return self._writing_uncached(path)
        announced = _announced.get()
        further = announced.further.pop(path, None) if announced and announced.cache is self._cache else None
        if announced is not None and further is not None:
            return Write(self._cache, path, announced.lease, further, self._batch())
        further = self._changed_with_size(path)
        lease = self._cache.renew(SIZE, (path,), further)[0]
        return Write(self._cache, path, lease, further, self._batch())

    @contextmanager
    def _writing_uncached(self, path: str) -> Iterator[Write]:
        with self.changing(path):
            yield Write(self._cache, path, None, (), None)

    def _changed_with_size(self, path: str) -> list[tuple[str, str]]:
        """Return the entries that a write of a file changes, besides that of its size."""
        return [(CONTENT, path), (PRESENCE, path), *self._folder_versions_above(path)]

    @contextmanager
    def changing(self, path: str) -> Iterator[None]:
        """Break the leases of a file's facts and of the folder versions above it, before and after a change."""
        entries = [*_facts(check_path(path)), *self._folder_versions_above(path)]
        if not SHORT_LIVED.fullmatch(path):  # nothing of it is cached that could be outdated if the process dies now
            self._cache.break_leases(entries)
        try:
            yield
        finally:
            self._cache.break_leases(entries)
            batch = self._batch()
            if batch is not None:
                batch.broken.update(entries)

    def _batch(self) -> _Batch | None:
        """Return the current batch of this greenlet in this store."""
        batch = _current_batch.get()
        return batch if batch is not None and batch.cache is self._cache else None

    @contextmanager
    def removing(self, path: str) -> Iterator[None]:
        if not SHORT_LIVED.fullmatch(check_path(path)):
            self.removed(path)
        try:
            yield
        finally:
            self.removed(path)

    def removed(self, path: str) -> None:
        """Invalidate a removed path, all paths below it, and the existence and versions of the folders above it."""
        above = [(PRESENCE, folder) for folder in folders_above(path)]
        self._cache.break_leases([*_facts(path), *above, *self._folder_versions_above(path)], folder=path)

    def _folder_versions_above(self, path: str) -> list[tuple[str, str]]:
        return [] if self._has_folder_versions else [*_folder_versions(path.rpartition("/")[0])]


@lru_cache(maxsize=KEPT_FOLDERS)  # a request changes several files of a folder, each twice
def _folder_versions(folder: str) -> tuple[tuple[str, str], ...]:
    """Return the entries of the versions of a folder and of those that contain it."""
    return tuple([(FOLDER, each) for each in ("", *folders_above(folder and f"{folder}/"))])


def _facts(path: str) -> tuple[tuple[str, str], ...]:
    return ((CONTENT, path), (SIZE, path), (PRESENCE, path))
