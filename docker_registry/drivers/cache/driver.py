"""
A driver that wraps another driver and caches small contents in Redis, shared by all workers and hosts.

Three facts are cached per path, each as read from the store: its content, its size and its existence. Absence is never
cached, so a new file is visible immediately, even if it was written without Redis. Mutable facts expire after a minute:
this bounds how long they can be outdated after a host has written to the store without reaching Redis. Content stored
under its own digest is cached until Redis evicts it; its size and existence, for a minute.

If the store has no folder versions, the cache provides them, for a few seconds at a time.

The dependencies of responses are recorded (:mod:`~docker_registry.drivers.cache.validator`), so that a worker can reuse
them.

Everything else is passed through to the store: versions, conditional puts, listings, times, and streams of large files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import BinaryIO, Final

from docker_registry import dependencies
from docker_registry.drivers.base import Bytes, Capabilities, Stat, StorageDriver, Versioned
from docker_registry.drivers.cache.invalidation import (
    CONTENT,
    FOLDER,
    IMMUTABLE,
    PRESENCE,
    SECONDS,
    SHORT_LIVED,
    SIZE,
    Invalidation,
)
from docker_registry.drivers.cache.leased import LeasedCache, Lookup
from docker_registry.drivers.cache.validator import CacheValidator, LatestListings
from docker_registry.drivers.measured import MeasuredDriver
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathNotFound, StorageError

#: Larger contents are not cached.
MAX_BYTES: Final = 65536

#: How long a listing may be outdated after a host has written to the store without reaching Redis.
_FOLDER_SECONDS: Final = 5


class CachedDriver(StorageDriver):
    """Adds a cache to another driver."""

    def __init__(self, driver: StorageDriver, cache: LeasedCache, *, max_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            driver: the driver of the store.
            cache: shared with other processes.
            max_bytes: maximum size of a cached content.
        """
        self.driver = driver
        self.cache = cache
        self._max_bytes = max_bytes
        store = driver.driver if isinstance(driver, MeasuredDriver) else driver
        # A driver without the method has no versions. It may have to contact the store to determine its capabilities.
        has_method = type(store).folder_version is not StorageDriver.folder_version
        self._has_folder_versions = has_method and store.capabilities.folder_versions
        self._invalidation = Invalidation(cache, store, has_folder_versions=self._has_folder_versions)
        self._listings = LatestListings()

    def begin_request(self) -> None:
        """Restore the wait time for Redis, and forget what the last request of this greenlet or thread has left."""
        self.cache.begin_request()
        self._invalidation.forget_batch()

    @cached_property
    def capabilities(self) -> Capabilities:
        """
        Those of the store, with folder versions.

        All dependencies can be recorded, also those on listings, if the cache provides the folder versions.
        """
        return replace(self.driver.capabilities, folder_versions=True, tracks_dependencies=self.tracks_dependencies)

    @property
    def tracks_dependencies(self) -> bool:
        """See :class:`StorageDriver`; known without contacting an object store."""
        return not self._has_folder_versions

    # ----------------------------------------------------------------------------------------------- reading

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        content = self.find(path)
        if content is None:
            raise PathNotFound(path=path)
        return content

    def find(self, path: str) -> bytes | None:
        """See :class:`StorageDriver`."""
        lookup = self._look_up(CONTENT, path)
        if lookup.value is not None:
            return lookup.value
        with _uncacheable_on_error():
            content = self.driver.find(path)
        if content is not None and len(content) <= self._max_bytes:
            self._store(CONTENT, path, lookup, content, _lifetime(path))
        else:
            dependencies.make_uncacheable()
        return content

    def get_size(self, path: str) -> int:
        """See :class:`StorageDriver`."""
        size = self.find_size(path)
        if size is None:
            raise PathNotFound(path=path)
        return size

    def find_size(self, path: str) -> int | None:
        """See :class:`StorageDriver`."""
        lookup = self._look_up(SIZE, path)
        if lookup.value is not None and lookup.value.isdigit():
            return int(lookup.value)
        with _uncacheable_on_error():
            size = self.driver.find_size(path)
        self._store_size(path, lookup, size)
        return size

    def find_sizes(self, paths: Sequence[str]) -> list[int | None]:
        """See :class:`StorageDriver`."""
        return self.announce_writes((), paths)

    def announce_writes(self, paths: Sequence[str], needed: Sequence[str] = ()) -> list[int | None]:
        """See :class:`StorageDriver`; invalidates all of the paths, and looks up the others, with one request."""
        if any(map(SHORT_LIVED.fullmatch, map(check_path, needed))):
            self._invalidation.announce(paths)
            return [self.find_size(path) for path in needed]
        sizes: dict[str, int | None] = {}
        known: list[tuple[Lookup, bytes]] = []
        unknown: dict[str, Lookup] = {}
        for path, lookup in zip(needed, self._invalidation.announce(paths, needed), strict=True):
            if lookup.value is not None and lookup.value.isdigit():
                known.append((lookup, lookup.value))
                sizes[path] = int(lookup.value)
            else:
                unknown[path] = lookup
        if known:
            self._record(known)
        if unknown:
            with _uncacheable_on_error():
                found = self.driver.find_sizes([*unknown])
            for (path, lookup), size in zip(unknown.items(), found, strict=True):
                self._store_size(path, lookup, size)
                sizes[path] = size
        return [sizes[path] for path in needed]

    def has_file(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        return self.find_size(path) is not None

    def has_kept(self, path: str) -> bool:
        """See :class:`StorageDriver`; the end of the batch tells it."""
        return self._invalidation.was_settled(path) or self.has_file(path)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        lookup = self._look_up(PRESENCE, path)
        if lookup.value is not None:
            return True
        with _uncacheable_on_error():
            exists = self.driver.exists(path)
        if exists:
            self._store(PRESENCE, path, lookup, b"", SECONDS)
        else:
            dependencies.make_uncacheable()
        return exists

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        if not IMMUTABLE.fullmatch(path):
            dependencies.make_uncacheable()
            return self.driver.stream_read(path, offset, length)
        if length is not None and length > self._max_bytes:
            return self.driver.stream_read(path, offset, length)  # not cached here, and the same each time it is read
        lookup = self._look_up(CONTENT, path)
        if lookup.value is not None:
            content = lookup.value[offset : None if length is None else offset + length]
            return iter([content] if content else [])
        dependencies.make_uncacheable()
        blocks = self.driver.stream_read(path, offset, length)
        if lookup.lease is None or offset or length == 0:
            return blocks
        return self._caching(path, lookup.lease, blocks)

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self.driver.get_versioned(path)

    def find_versioned(self, path: str) -> Versioned | None:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self.driver.find_versioned(path)

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self.driver.stat(path)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self._listings.recorded(path, self.driver.list_directory(path))

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        if self._has_folder_versions:
            return self.driver.folder_version(path)
        lookup = self.cache.look_up(FOLDER, check_path(path, root=True))
        version = lookup.value
        if version is None:
            # The lease itself is the version: every change of the folder breaks it.
            version = lookup.lease
            if version is None or not self.cache.fill(FOLDER, path, version, version, _FOLDER_SECONDS):
                dependencies.make_uncacheable()
                return None
        listing = self._listings.at_version(path, version)
        validator = self._validator()
        if validator is not None:
            validator.record_listing(lookup, listing)
        return version.decode("ascii", "backslashreplace")

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self.driver.walk(path)

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        file = self.driver.open_file(path)
        if file is not None:
            dependencies.make_uncacheable()
        return file

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        dependencies.make_uncacheable()
        return self.driver.content_redirect_url(path)

    # ----------------------------------------------------------------------------------------------- writing

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.writing(path) as write:
            self.driver.put_content(path, content, if_match=if_match)
            write.size = memoryview(content).nbytes

    def replace_content(self, path: str, content: Bytes, version: str) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.writing(path) as write:
            self.driver.replace_content(path, content, version)
            write.size = memoryview(content).nbytes

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        with self._invalidation.writing(path) as write:
            size = write.size = self.driver.stream_write(path, blocks)
        return size

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.changing(target), self._invalidation.removing(source):
            self.driver.move(source, target)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        with self._invalidation.changing(target):
            return self.driver.link(source, target)

    def is_shared(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        return self.driver.is_shared(path)

    def repair(self, path: str, blocks: Iterable[Bytes]) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.changing(path):
            self.driver.repair(path, blocks)

    @cached_property
    def scratch(self) -> StorageDriver:
        """See :class:`StorageDriver`."""
        driver = self.driver.scratch
        return self if driver is self.driver else CachedDriver(driver, self.cache, max_bytes=self._max_bytes)

    def batch(self) -> AbstractContextManager[None]:
        """See :class:`StorageDriver`."""
        return self._invalidation.batch(self.driver.batch)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self.driver.touch(path)
        except PathNotFound:  # removed without invalidation, so the cache may still say that the path exists
            self._invalidation.removed(path)
            raise

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.removing(path):
            self.driver.remove(path)

    def discard(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        with self._invalidation.removing(path):
            return self.driver.discard(path)

    def discard_file(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.removing(path):
            self.driver.discard_file(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        with self._invalidation.removing(path):
            self.driver.remove_if_match(path, version)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        return self.driver.remove_leftovers(older_than_seconds)

    # ------------------------------------------------------------------------------------------------- inside

    def _look_up(self, fact: str, path: str) -> Lookup:
        """Look up a fact, and record it as a dependency if it is known."""
        check_path(path)
        lookup = Lookup() if SHORT_LIVED.fullmatch(path) else self.cache.look_up(fact, path)
        if lookup.value is not None:
            self._record([(lookup, lookup.value)])
        return lookup

    def _store(self, fact: str, path: str, lookup: Lookup, value: bytes, seconds: float | None) -> None:
        """
        Cache a fact that was read from the store, and record it as a dependency.

        If it cannot be cached, it cannot be confirmed later either, so the response becomes uncacheable.

        Args:
            lookup: the result of the lookup, with the lease to fill.
            seconds: lifetime of the entry; None for no limit.
        """
        if lookup.lease is not None and self.cache.fill(fact, path, lookup.lease, value, seconds):
            self._record([(lookup, value)])
        else:
            dependencies.make_uncacheable()

    def _store_size(self, path: str, lookup: Lookup, size: int | None) -> None:
        if size is None:
            dependencies.make_uncacheable()
        else:
            self._store(SIZE, path, lookup, b"%d" % size, SECONDS)

    def _record(self, facts: Iterable[tuple[Lookup, bytes]]) -> None:
        """Record values that were looked up or filled as dependencies."""
        validator = self._validator()
        if validator is not None:
            for lookup, value in facts:
                validator.record(lookup, value)

    def _validator(self) -> CacheValidator | None:
        return dependencies.validator(CacheValidator, lambda: CacheValidator(self.cache))

    def _caching(self, path: str, lease: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks of a file, and cache its content if it is small and was read completely."""
        content: bytes | None = b""
        for block in blocks:
            if content is not None:
                content = content + block if len(content) + len(block) <= self._max_bytes else None
            yield block
        if content is None:
            return
        with suppress(StorageError):  # the reader has everything; the content is only not cached
            if len(content) == self.get_size(path):
                self.cache.fill(CONTENT, path, lease, content, _lifetime(path))


@contextmanager
def _uncacheable_on_error() -> Iterator[None]:
    """Make the response uncacheable if the store raises an error."""
    try:
        yield
    except StorageError:
        dependencies.make_uncacheable()
        raise


def _lifetime(path: str) -> float | None:
    return None if IMMUTABLE.fullmatch(path) else SECONDS
