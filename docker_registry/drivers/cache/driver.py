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

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import BinaryIO, Final

from docker_registry import dependencies
from docker_registry.drivers.base import Bytes, Stat, StorageDriver, Versioned, check_path, folders_above
from docker_registry.drivers.cache.leased import Found, LeasedCache
from docker_registry.drivers.cache.validator import CacheValidator, Lists
from docker_registry.errors import PathNotFound, StorageError

#: Larger contents are not cached.
MAX_BYTES: Final = 65536

_SECONDS: Final = 60

#: How long a listing may be outdated after a host has written to the store without reaching Redis.
_FOLDER_SECONDS: Final = 5

#: Paths of blobs, whose content never changes, and of short-lived files, which are not cached.
_LASTING: Final = re.compile(r"(.+/)?blobs/[^/]+/[0-9a-f]{2}/[0-9a-f]{32,}/data")
_PASSING: Final = re.compile(r"(.+/)?_(uploads|leases|probes|received|pending)/.+")

_CONTENT: Final = "content"
_SIZE: Final = "size"
_PRESENCE: Final = "presence"
_FOLDER: Final = "folder"

#: The entries that this greenlet has changed inside :meth:`CachedDriver.together`, whose changes may become visible
#: only at the end of the block; None outside of such a block.
_unseen: ContextVar[set[tuple[str, str]] | None] = ContextVar("unseen", default=None)


class CachedDriver(StorageDriver):
    """Adds a cache to another driver."""

    def __init__(self, driver: StorageDriver, cache: LeasedCache, *, max_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            driver: the driver of the store.
            max_bytes: maximum size of a cached content.
        """
        self.driver = driver
        self._cache = cache
        self._max_bytes = max_bytes
        self._has_folder_versions = type(driver).folder_version is not StorageDriver.folder_version
        self._lists = Lists()

    def begin_request(self) -> None:
        """Restore this greenlet's or thread's wait time for Redis at the start of a request."""
        self._cache.begin_request()

    @property
    def supports_if_match(self) -> bool:  # type: ignore[override] # depends on the wrapped driver
        """Whether the store supports conditional puts."""
        return self.driver.supports_if_match

    @property
    def supports_remove_if_match(self) -> bool:  # type: ignore[override]
        """Whether the store supports conditional removals."""
        return self.driver.supports_remove_if_match

    @property
    def move_copies(self) -> bool:  # type: ignore[override]
        """Whether a move in the store copies the file."""
        return self.driver.move_copies

    @property
    def walks_by_pages(self) -> bool:  # type: ignore[override]
        """Whether a walk through the store returns many files per request."""
        return self.driver.walks_by_pages

    @property
    def min_chunk_bytes(self) -> int | None:  # type: ignore[override]
        """Minimum chunk size of the store, in bytes."""
        return self.driver.min_chunk_bytes

    @property
    def notes_provenance(self) -> bool:  # type: ignore[override]
        """Whether all dependencies can be recorded. Those on listings can if the cache provides the folder versions."""
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
        found = self._look(_CONTENT, path)
        if found.value is not None:
            return found.value
        with _spoiled_by_trouble():
            content = self.driver.find(path)
        if content is not None and len(content) <= self._max_bytes:
            self._tell(_CONTENT, path, found, content, _lifetime(path))
        else:
            dependencies.spoil()
        return content

    def get_size(self, path: str) -> int:
        """See :class:`StorageDriver`."""
        size = self.find_size(path)
        if size is None:
            raise PathNotFound(path=path)
        return size

    def find_size(self, path: str) -> int | None:
        """See :class:`StorageDriver`."""
        found = self._look(_SIZE, path)
        if found.value is not None and found.value.isdigit():
            return int(found.value)
        with _spoiled_by_trouble():
            size = self.driver.find_size(path)
        if size is None:
            dependencies.spoil()
        else:
            self._tell(_SIZE, path, found, b"%d" % size, _SECONDS)
        return size

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        found = self._look(_PRESENCE, path)
        if found.value is not None:
            return True
        with _spoiled_by_trouble():
            is_there = self.driver.exists(path)
        if is_there:
            self._tell(_PRESENCE, path, found, b"", _SECONDS)
        else:
            dependencies.spoil()
        return is_there

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        if not _LASTING.fullmatch(path):
            dependencies.spoil()
            return self.driver.stream_read(path, offset, length)
        found = self._look(_CONTENT, path)
        if found.value is not None:
            content = found.value[offset : None if length is None else offset + length]
            return iter([content] if content else [])
        dependencies.spoil()
        blocks = self.driver.stream_read(path, offset, length)
        if found.lease is None or offset or length == 0:
            return blocks
        return self._kept(path, found.lease, blocks)

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.get_versioned(path)

    def find_versioned(self, path: str) -> Versioned | None:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.find_versioned(path)

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.stat(path)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self._lists.seen(path, self.driver.list_directory(path))

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        if self._has_folder_versions:
            return self.driver.folder_version(path)
        found = self._cache.look(_FOLDER, check_path(path, root=True))
        version = found.value
        if version is None:
            # The lease itself is the version: every change of the folder breaks it.
            version = found.lease
            if version is None or not self._cache.fill(_FOLDER, path, version, version, _FOLDER_SECONDS):
                dependencies.spoil()
                return None
        listed = self._lists.at(path, version)
        witness = self._witness()
        if witness is not None:
            witness.note_list(found, listed)
        return version.decode("ascii", "backslashreplace")

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.walk(path)

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.open_file(path)

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        dependencies.spoil()
        return self.driver.content_redirect_url(path)

    # ----------------------------------------------------------------------------------------------- writing

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        with self._changed(path):
            self.driver.put_content(path, content, if_match=if_match)

    def replace_content(self, path: str, content: Bytes, version: str) -> None:
        """See :class:`StorageDriver`."""
        with self._changed(path):
            self.driver.replace_content(path, content, version)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        with self._changed(path):
            return self.driver.stream_write(path, blocks)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        with self._changed(target), self._removed(source):
            self.driver.move(source, target)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        with self._changed(target):
            return self.driver.link(source, target)

    def is_shared(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        return self.driver.is_shared(path)

    def repair(self, path: str, blocks: Iterable[Bytes]) -> None:
        """See :class:`StorageDriver`."""
        with self._changed(path):
            self.driver.repair(path, blocks)

    @cached_property
    def short_lived(self) -> StorageDriver:
        """See :class:`StorageDriver`."""
        driver = self.driver.short_lived
        return self if driver is self.driver else CachedDriver(driver, self._cache, max_bytes=self._max_bytes)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See :class:`StorageDriver`."""
        if _unseen.get() is not None:
            yield
            return
        changed: set[tuple[str, str]] = set()
        token = _unseen.set(changed)
        try:
            with self.driver.together():
                yield
        finally:
            _unseen.reset(token)
            if changed:
                self._cache.break_leases(changed)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self.driver.touch(path)
        except PathNotFound:  # removed without invalidation, so the cache may still say that the path exists
            self._forget_removed(path)
            raise

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._removed(path):
            self.driver.remove(path)

    def discard(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        with self._removed(path):
            return self.driver.discard(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        with self._removed(path):
            self.driver.remove_if_match(path, version)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        return self.driver.remove_leftovers(older_than_seconds)

    # ------------------------------------------------------------------------------------------------- inside

    def _look(self, fact: str, path: str) -> Found:
        """Look up a fact, and record it as a dependency if it is known."""
        check_path(path)
        found = Found() if _PASSING.fullmatch(path) else self._cache.look(fact, path)
        if found.value is not None:
            self._note(found, found.value)
        return found

    def _tell(self, fact: str, path: str, found: Found, value: bytes, seconds: float | None) -> None:
        """
        Cache a fact that was read from the store, and record it as a dependency.

        If it cannot be cached, it cannot be confirmed later either, so the response becomes uncacheable.

        Args:
            found: the result of the lookup, with the lease to fill.
            seconds: lifetime of the entry; None for no limit.
        """
        if found.lease is not None and self._cache.fill(fact, path, found.lease, value, seconds):
            self._note(found, value)
        else:
            dependencies.spoil()

    def _note(self, found: Found, value: bytes) -> None:
        witness = self._witness()
        if witness is not None:
            witness.note(found, value)

    def _witness(self) -> CacheValidator | None:
        return dependencies.witness(CacheValidator, lambda: CacheValidator(self._cache))

    def _kept(self, path: str, lease: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks of a file, and cache its content if it is small and was read completely."""
        content: bytes | None = b""
        for block in blocks:
            if content is not None:
                content = content + block if len(content) + len(block) <= self._max_bytes else None
            yield block
        if content is not None and len(content) == self.get_size(path):
            self._cache.fill(_CONTENT, path, lease, content, _lifetime(path))

    @contextmanager
    def _changed(self, path: str) -> Iterator[None]:
        """Break the leases of a file's facts and of the folder versions above it, before and after a change."""
        entries = [*_facts(check_path(path)), *self._lists_above(path)]
        self._cache.break_leases(entries)
        try:
            yield
        finally:
            self._cache.break_leases(entries)
            unseen = _unseen.get()
            if unseen is not None:
                unseen.update(entries)

    @contextmanager
    def _removed(self, path: str) -> Iterator[None]:
        check_path(path)
        self._forget_removed(path)
        try:
            yield
        finally:
            self._forget_removed(path)

    def _forget_removed(self, path: str) -> None:
        """Invalidate a removed path, all paths below it, and the existence and versions of the folders above it."""
        above = [(_PRESENCE, folder) for folder in folders_above(path)]
        self._cache.break_leases([*_facts(path), *above, *self._lists_above(path)], folder=path)

    def _lists_above(self, path: str) -> list[tuple[str, str]]:
        return [] if self._has_folder_versions else [(_FOLDER, folder) for folder in ("", *folders_above(path))]


def _facts(path: str) -> tuple[tuple[str, str], ...]:
    return ((_CONTENT, path), (_SIZE, path), (_PRESENCE, path))


@contextmanager
def _spoiled_by_trouble() -> Iterator[None]:
    """Make the response uncacheable if the store raises an error."""
    try:
        yield
    except StorageError:
        dependencies.spoil()
        raise


def _lifetime(path: str) -> float | None:
    return None if _LASTING.fullmatch(path) else _SECONDS
