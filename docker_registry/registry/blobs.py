"""Blobs: content stored once under its digest, and readable in every repository that has a link to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from docker_registry.concurrency import run_concurrently
from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.drivers.paths import check_path
from docker_registry.errors import (
    BlobUnknown,
    PathInvalid,
    PathNotFound,
    PreconditionFailed,
    UpstreamUnavailable,
)
from docker_registry.registry import layout, store_removal
from docker_registry.registry.access import Access, hide
from docker_registry.registry.actor import ANONYMOUS_PUSH, Actor
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.reclamation import RemovedBlobs
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.sources import NOTHING_FETCHED, Blob, BlobSource, Found
from docker_registry.registry.stored_file import ServedFile, StoredFile, is_intact

logger = logging.getLogger(__name__)

#: Blobs that :meth:`Blobs.missing` looks for at a time.
_AT_A_TIME: Final = 32


class Blobs:
    """
    Stores and finds the blobs of the registry.

    Attributes:
        removed: blobs that will be removed, which are restored when they are requested.
    """

    def __init__(
        self,
        driver: StorageDriver,
        repositories: Repositories,
        access: Access,
        sources: Sequence[BlobSource] = (),
    ) -> None:
        """
        Args:
            access: decides from which repositories a client may mount blobs.
            sources: have blobs of repositories without a link to them.
        """
        self._driver = driver
        self._repositories = repositories
        self._access = access
        self._sources = sources
        self.removed = RemovedBlobs(driver)

    def stat(self, name: RepositoryName, digest: Digest) -> Blob:
        """
        Find a blob of a repository.

        Raises:
            BlobUnknown: neither the repository nor a source has it, or its bytes are missing.
        """
        if not self._driver.has_file(layout.layer_link(name, digest)):
            return self._first(name, digest, (source.stat(name, digest) for source in self._sources))
        return self.stat_anywhere(digest)

    def get_readable(self, name: RepositoryName, digest: Digest) -> Blob:
        """
        Find a blob of a repository, to be read with :meth:`file`; a source may begin to receive it.

        Raises:
            BlobUnknown: as for :meth:`stat`.
        """
        if not self._driver.has_file(layout.layer_link(name, digest)):
            return self._first(name, digest, (source.get(name, digest) for source in self._sources))
        return self.stat_anywhere(digest)

    def fetch(self, name: RepositoryName, digest: Digest) -> Blob:
        """
        Find a blob of a repository, and wait until its bytes are in the store.

        Raises:
            BlobUnknown: as for :meth:`stat`.
            UpstreamError: a source cannot be asked, or has other content than that of the digest.
            UpstreamUnavailable: the registry is read-only, and the bytes are not in the store; they are not received.
        """
        blob = self.get_readable(name, digest)
        if blob.is_passed_on:
            raise UpstreamUnavailable(NOTHING_FETCHED)
        if blob.file is not None:  # it is being received; its last byte comes when it is verified and stored
            for _ in blob.file.read(max(0, blob.size - 1)):
                pass
        return blob

    def _first(self, name: RepositoryName, digest: Digest, results: Iterable[Found[Blob] | None]) -> Blob:
        found = next(filter(None, results), None)
        if found is None:
            raise BlobUnknown(name=str(name), digest=str(digest))
        return replace(found.value, origin=found.origin)

    def missing(
        self, name: RepositoryName, digests: Sequence[Digest], pace: Callable[[Iterable[int]], Iterable[int]] = iter
    ) -> list[Digest]:
        """
        Return those of several blobs that :meth:`stat` does not find, in order.

        Args:
            pace: divides a long computation into time slices.
        """
        return self.missing_and_files(name, digests, (), pace)[0]

    def missing_and_files(
        self,
        name: RepositoryName,
        digests: Sequence[Digest],
        files: Sequence[str],
        pace: Callable[[Iterable[int]], Iterable[int]] = iter,
        *,
        announced: Sequence[str] = (),
    ) -> tuple[list[Digest], list[bool]]:
        """
        Look for several blobs and files, with one request to a cache if they are not many.

        Args:
            files: storage paths.
            pace: as for :meth:`missing`.
            announced: storage paths that are about to be written.

        Returns:
            The result of :meth:`missing`, and whether each file exists.
        """
        missing: list[Digest] = []
        found: list[bool] = []
        starts = range(0, len(digests) or bool(files), _AT_A_TIME)
        for start in pace(starts) if len(starts) > 1 else starts:
            some = digests[start : start + _AT_A_TIME]
            paths = [path for digest in some for path in (layout.layer_link(name, digest), layout.blob_data(digest))]
            sizes = self._driver.announce_writes(announced, [*paths, *files[len(found) :]])
            announced = ()
            found += [size is not None for size in sizes[len(paths) :]]
            for digest, link, content in zip(some, sizes[: len(paths) : 2], sizes[1 : len(paths) : 2], strict=True):
                if (link is None or content is None) and not self._has(name, digest):
                    missing.append(digest)
        return missing, found

    def _has(self, name: RepositoryName, digest: Digest) -> bool:
        try:
            self.stat(name, digest)
        except BlobUnknown:
            return False
        return True

    def stat_anywhere(self, digest: Digest, *, restores: Callable[[], bool] = lambda: True) -> Blob:
        """
        Find a blob in the store, regardless of repositories.

        Args:
            restores: returns whether bytes that are waiting for their removal are moved back.

        Raises:
            BlobUnknown: its bytes are not in the store.
        """
        path = layout.blob_data(digest)
        size = self._driver.find_size(path)
        return Blob(digest, size, path) if size is not None else self._find_elsewhere(digest, restores=restores)

    def are_stored(self, digests: Sequence[Digest], pace: Callable[[Iterable[int]], Iterable[int]]) -> bool:
        """
        Return whether :meth:`stat_anywhere` finds all of several blobs; moves bytes back only if it does.

        Args:
            pace: divides a long computation into time slices.
        """
        waiting: list[Digest] = []
        try:
            for start in pace(range(0, len(digests), _AT_A_TIME)):
                some = digests[start : start + _AT_A_TIME]
                sizes = self._driver.find_sizes([layout.blob_data(digest) for digest in some])
                for digest in (digest for digest, size in zip(some, sizes, strict=True) if size is None):
                    if self._driver.find_size(layout.removed_data(digest)) is None:
                        self._find_elsewhere(digest, restores=lambda: False)
                    else:
                        waiting.append(digest)
            for digest in waiting:
                self.stat_anywhere(digest)
        except BlobUnknown:
            return False
        return True

    def file(self, blob: Blob) -> ServedFile:
        """Return the blob's bytes as a file to serve."""
        gone = partial(BlobUnknown, digest=str(blob.digest))
        return blob.file or StoredFile(self._driver, blob.path, blob.size, gone)

    def mount(
        self,
        name: RepositoryName,
        digest: Digest,
        source: RepositoryName | None = None,
        *,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Blob:
        """
        Link a blob that is already in the store to a repository (end-11).

        Args:
            source: the repository to mount from; None for any, which is allowed only if the actor may see all
                repositories that have the blob.

        Raises:
            BlobUnknown: the blob does not exist there, its bytes are not in the store, or the actor may not see it.
            UpstreamError: a source must prove that it has the blob, and cannot be asked, or has other content.
        """
        if source is None:
            is_allowed = self._access.may_mount(actor.principal, digest)
            blob = self.stat_anywhere(digest)
        else:
            is_allowed = self._access.may_pull(actor.principal, source)
            readable = source if is_allowed else hide(source)
            blob = self.stat(readable, digest)
            if blob.origin is not None:
                # The upstream may know only the digest of bytes that were pushed elsewhere, so it must prove more.
                self.stat_anywhere(digest)
                blob = self.get_readable(readable, digest)
            if blob.file is not None:  # still being received
                raise BlobUnknown(digest=str(digest))
        if not is_allowed:
            raise BlobUnknown(digest=str(digest))
        self.link(name, digest)
        logger.debug("blob %s was mounted in %s by %s", digest, name, actor)
        return blob

    def publish(self, path: str, digest: Digest) -> Blob:
        """
        Move verified bytes to the path of their blob.

        An existing blob is replaced, because it may be damaged. A blob with hard links from API V1
        (``images/<id>/layer``) is verified instead: if it is intact, only its modification time is renewed; if it is
        damaged, its content is repaired under all its paths. In both cases *path* is not moved, and the caller
        removes it.

        Args:
            path: where the verified bytes are stored.

        Raises:
            PathNotFound: another request has moved *path* away.
        """
        target = layout.blob_data(digest)
        size = self._driver.get_size(path)
        if not self._driver.is_shared(target):
            self._driver.move(path, target)
        elif is_intact(self._driver, target, digest):
            try:
                self._driver.touch(target)
            except PathNotFound:  # removed meanwhile
                self._driver.move(path, target)
        else:
            self._driver.repair(target, self._driver.stream_read(path))
        return Blob(digest, size, target)

    def publish_in_place(self, digest: Digest, size: int, path: str) -> None:
        """
        Publish verified bytes at another path as a blob, without moving or copying them.

        Creates a hard link, or an alias file where the driver has no links.

        Args:
            size: bytes.
            path: where they are stored: a raw layer of API V1, which should not be stored twice.
        """
        target = layout.blob_data(digest)
        if path == target or self._driver.find_size(target) == size or self._driver.link(path, target):
            return
        self._driver.put_content(layout.blob_alias(digest), f"{size} {path}".encode())

    def put(
        self, content: bytes, digest: Digest, name: RepositoryName | None = None, *, detects_new: bool = False
    ) -> Blob:
        """
        Store small content as a blob.

        If the blob exists, its modification time is renewed; if it is damaged, it is repaired.

        Args:
            digest: the digest of *content*, computed by the caller.
            name: the repository to grant the blob to. On object stores its link is written at the same time: until the
                bytes are there, or if they never come, the repository does not have the blob.
            detects_new: also find out whether the blob is new on an object store, where that costs another request if
                it is not.
        """
        if name is None or name.is_hidden:
            return self._put(content, digest, detects_new=detects_new)
        capabilities = self._driver.capabilities
        if not (capabilities.pages and capabilities.move_copies):
            blob = self._put(content, digest)
            self.link(name, digest, is_new=blob.is_new)
            return blob
        written = layout.blob_data(digest), layout.layer_link(name, digest)
        if self._driver.announce_writes(written, (layout.catalog_entry(name),))[0] is None:
            self._repositories.enter(name)
        stored: Blob
        stored, _ = run_concurrently(partial(self._put, content, digest), partial(self._write_link, name, digest))
        return stored

    def _put(self, content: bytes, digest: Digest, *, detects_new: bool = False) -> Blob:
        target = layout.blob_data(digest)
        if detects_new and self._driver.capabilities.pages and self._driver.capabilities.if_match:
            with suppress(PreconditionFailed):
                self._driver.put_content(target, content, if_match=ABSENT)
                return Blob(digest, len(content), target, is_new=True)
        if self._driver.capabilities.pages:  # looking for it takes as long as writing it
            self._driver.put_content(target, content)
            return Blob(digest, len(content), target)
        stored = self._driver.find_versioned(target)  # bypasses caches, to detect damage in the store
        if stored is None:
            self._driver.put_content(target, content)
            return Blob(digest, len(content), target, is_new=True)
        if stored.content != content:
            self._driver.repair(target, [content])
            return Blob(digest, len(content), target)
        try:
            self._driver.touch(target)
        except PathNotFound:  # removed meanwhile
            self._driver.put_content(target, content)
        return Blob(digest, len(content), target)

    def get(self, digest: Digest) -> bytes:
        """
        Return the content of a small blob.

        Raises:
            BlobUnknown: its bytes are not in the store.
        """
        content = self._driver.find(layout.blob_data(digest))
        if content is None and self.removed.restore(digest):
            content = self._driver.find(layout.blob_data(digest))
        if content is None:
            raise BlobUnknown(digest=str(digest))
        return content

    def link(self, name: RepositoryName, digest: Digest, *, is_new: bool = False) -> None:
        """
        Grant a repository a blob; does nothing for a hidden repository.

        Args:
            is_new: the blob was just created, so there is no link to look up.
        """
        if name.is_hidden:
            return
        link = layout.layer_link(name, digest)
        # On object stores looking costs as much as writing.
        if is_new or self._driver.capabilities.pages or not self._driver.has_file(link):
            self._repositories.enter(name)
            self._write_link(name, digest)

    def _write_link(self, name: RepositoryName, digest: Digest) -> None:
        self._driver.put_content(layout.layer_link(name, digest), str(digest).encode())

    def delete(self, name: RepositoryName, digest: Digest) -> None:
        """
        Remove a blob from a repository (end-10).

        Other repositories keep it, and its bytes stay in the store.

        Raises:
            BlobUnknown: the repository does not have it.
        """
        if not store_removal.remove(self._driver, layout.layer_link(name, digest)):
            raise BlobUnknown(name=str(name), digest=str(digest))

    def _find_elsewhere(self, digest: Digest, *, restores: Callable[[], bool] = lambda: True) -> Blob:
        """Find a blob through its alias file, or restore it if it is waiting for its removal."""
        size, path = _parse_alias(self._driver.find(layout.blob_alias(digest)) or b"")
        if path and str(self._driver.find_size(path)) == size:
            return Blob(digest, int(size), path)
        is_back = self.removed.restore(digest, restores)
        restored = self._driver.find_size(layout.blob_data(digest)) if is_back else None
        if restored is None:
            raise BlobUnknown(digest=str(digest))
        return Blob(digest, restored, layout.blob_data(digest))


def _parse_alias(content: bytes) -> tuple[str, str]:
    """
    Return the size, in digits, and the path that an alias file gives for the bytes of a blob.

    Both are empty if the file is missing or damaged, for example if the path is neither that of a layer of API V1 nor
    that of an uncompressed copy, which earlier versions used too.
    """
    size, _, path = content.decode("utf-8", "replace").partition(" ")
    try:
        is_layer = check_path(path).startswith((f"{layout.IMAGES}/", f"{layout.UNPACKED}/"))
    except PathInvalid:
        is_layer = False
    return (size, path) if is_layer else ("", "")
