"""Blobs: content under its digest, stored once, readable by the repositories that link to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.access import Access, hide
from docker_registry.registry.integrity import is_intact
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.stored_file import StoredFile


@dataclass(frozen=True, slots=True)
class Blob:
    """
    A stored blob.

    Attributes:
        size: bytes.
        path: where they lie.
        is_new: whether it was not there until just now; known of what was put.
    """

    digest: Digest
    size: int
    path: str
    is_new: bool = field(default=False, compare=False)


class Blobs:
    """All blobs of the registry."""

    def __init__(self, driver: StorageDriver, repositories: Repositories, access: Access) -> None:
        """
        Args:
            access: tells from which repositories a blob may be mounted.
        """
        self._driver = driver
        self._repositories = repositories
        self._access = access

    def stat(self, name: RepositoryName, digest: Digest) -> Blob:
        """
        Find a blob that a repository may read.

        Raises:
            BlobUnknown: the repository has no link to it, or its bytes are gone.
        """
        if not self._driver.exists(layout.layer_link(name, digest)):
            raise BlobUnknown(name=str(name), digest=str(digest))
        return self.stat_anywhere(digest)

    def stat_anywhere(self, digest: Digest) -> Blob:
        """
        Find a blob whatever repository it belongs to.

        Raises:
            BlobUnknown: its bytes are not in the store.
        """
        path = layout.blob_data(digest)
        size = self._size(path)
        return Blob(digest, size, path) if size is not None else self._borrowed(digest)

    def file(self, blob: Blob) -> StoredFile:
        """Return the bytes as a file that a client may be sent."""
        return StoredFile(self._driver, blob.path, blob.size, BlobUnknown(digest=str(blob.digest)))

    def mount(self, name: RepositoryName, digest: Digest, source: RepositoryName | None = None) -> Blob:
        """
        Link a blob that the store already has to a repository (end-11).

        Args:
            source: a repository that must have the blob; None for any, as long as the client may see all that have it.

        Raises:
            BlobUnknown: the blob does not exist there, or the client may not see it.
        """
        if source is None:
            is_allowed = self._access.may_mount(digest)
            blob = self.stat_anywhere(digest)
        else:
            is_allowed = self._access.may_pull(source)
            blob = self.stat(source if is_allowed else hide(source), digest)
        if not is_allowed:
            raise BlobUnknown(digest=str(digest))
        self.link(name, digest)
        return blob

    def publish(self, path: str, digest: Digest) -> Blob:
        """
        Move verified bytes to where the blob of their digest belongs.

        They replace whatever is stored there, since that may be damaged. A blob to which API V1 has hard links
        (``images/<id>/layer``) is read first: intact, it stays and only its time of modification is renewed; damaged,
        it is repaired under all its paths. Where it stays, *path* is left to the caller.

        Raises:
            PathNotFound: another request has moved *path* away.
        """
        target = layout.blob_data(digest)
        size = self._driver.get_size(path)
        if not self._driver.is_shared(target):
            self._driver.move(path, target)
        elif is_intact(self._driver, target, digest):
            self._driver.touch(target)
        else:
            self._driver.repair(target, self._driver.stream_read(path))
        return Blob(digest, size, target)

    def lend(self, digest: Digest, size: int, path: str) -> None:
        """
        Make verified bytes that lie elsewhere a blob, and leave them where they are.

        Args:
            path: where they lie: a raw layer of API V1, of which there should be no second copy.
        """
        target = layout.blob_data(digest)
        if path == target or self._size(target) == size or self._driver.link(path, target):
            return
        self._driver.put_content(layout.blob_alias(digest), f"{size} {path}".encode())

    def put(self, content: bytes, digest: Digest) -> Blob:
        """
        Store a small content in hand, whose digest the caller has computed.

        What is stored already only has its time of modification renewed, unless it is damaged: then it is repaired.
        """
        target = layout.blob_data(digest)
        try:
            stored = self._driver.get_versioned(target).content  # of the store itself, never of a cache before it
        except PathNotFound:
            self._driver.put_content(target, content)
            return Blob(digest, len(content), target, is_new=True)
        if stored == content:
            self._driver.touch(target)
        else:
            self._driver.repair(target, [content])
        return Blob(digest, len(content), target)

    def get(self, digest: Digest) -> bytes:
        """
        Return a small blob whole.

        Raises:
            BlobUnknown: its bytes are not in the store.
        """
        try:
            return self._driver.get_content(layout.blob_data(digest))
        except PathNotFound:
            raise BlobUnknown(digest=str(digest)) from None

    def link(self, name: RepositoryName, digest: Digest) -> None:
        """Let a repository read a blob; a hidden one stays as it is."""
        if name.is_hidden:
            return
        link = layout.layer_link(name, digest)
        if not self._driver.exists(link):
            self._repositories.enter(name)
            self._driver.put_content(link, str(digest).encode())

    def delete(self, name: RepositoryName, digest: Digest) -> None:
        """
        Take a blob from a repository (end-10); others keep it, and its bytes stay until they are collected.

        Raises:
            BlobUnknown: the repository does not have it.
        """
        try:
            self._driver.remove(layout.layer_link(name, digest))
        except PathNotFound:
            raise BlobUnknown(name=str(name), digest=str(digest)) from None

    def _borrowed(self, digest: Digest) -> Blob:
        """Find a blob whose bytes lie elsewhere."""
        try:
            size, _, path = self._driver.get_content(layout.blob_alias(digest)).decode().partition(" ")
        except PathNotFound:
            raise BlobUnknown(digest=str(digest)) from None
        if str(self._size(path)) != size:
            raise BlobUnknown(digest=str(digest))
        return Blob(digest, int(size), path)

    def _size(self, path: str) -> int | None:
        try:
            return self._driver.get_size(path)
        except PathNotFound:
            return None
