"""Manifests: small documents that name blobs, kept bit for bit and found by tag or digest."""

from __future__ import annotations

from dataclasses import dataclass

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    PathNotFound,
    TooLarge,
)
from docker_registry.registry import layout, payloads
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.names import Descriptor, Digest, Reference, RepositoryName, Tag
from docker_registry.registry.payloads import Payload
from docker_registry.registry.tags import Tags


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    A stored manifest.

    Attributes:
        payload: the bytes as they were pushed.
    """

    payload: bytes
    descriptor: Descriptor


class Manifests:
    """All manifests of the registry."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        tags: Tags,
        *,
        max_manifest_bytes: int = 4 * 1024 * 1024,
        check_index_children: bool = False,
    ) -> None:
        """
        Args:
            check_index_children: refuse an index whose children the repository lacks. Off by default, since
                BuildKit's cache is an index whose children are layers.
        """
        self._driver = driver
        self._blobs = blobs
        self._tags = tags
        self._check_index_children = check_index_children
        self.max_manifest_bytes = max_manifest_bytes

    def get(self, name: RepositoryName, reference: Reference) -> Manifest:
        """
        Return a manifest as it was pushed (end-3).

        Raises:
            ManifestUnknown: no such tag, or the repository does not have what it points at.
        """
        digest = self._tags.get(name, reference) if isinstance(reference, Tag) else reference
        if not self._driver.exists(layout.revision_link(name, digest)):
            raise ManifestUnknown(name=str(name), reference=str(reference))
        try:
            payload = self._blobs.get(digest)
        except BlobUnknown:
            raise ManifestUnknown(name=str(name), reference=str(reference)) from None
        return Manifest(payload, Descriptor(self._media_type(name, digest, payload), digest, len(payload)))

    def put(self, name: RepositoryName, reference: Reference, payload: bytes, content_type: str | None) -> Descriptor:
        """
        Keep a manifest, and let the tag point at it when *reference* is one (end-7).

        Args:
            content_type: what the client says it is, without parameters.

        Raises:
            TooLarge: more than ``max_manifest_bytes``.
            ManifestInvalid: not a manifest that can be kept.
            ManifestBlobUnknown: it names a blob that the repository does not have.
            DigestInvalid: *reference* is the digest of something else.
        """
        if len(payload) > self.max_manifest_bytes:
            raise TooLarge("The manifest is too large.", max_bytes=self.max_manifest_bytes)
        digest = Digest.of(payload) if isinstance(reference, Tag) else Digest.of(payload, reference.algorithm)
        if reference != digest and not isinstance(reference, Tag):
            raise DigestInvalid(digest=str(reference), received=str(digest))
        document = payloads.read(payload, content_type)
        self._check_references(name, document)
        self._blobs.put(payload, digest)
        self._link(name, digest, document)
        if isinstance(reference, Tag):
            self._tags.put(name, reference, digest)
        return Descriptor(document.media_type, digest, len(payload))

    def delete(self, name: RepositoryName, reference: Reference) -> None:
        """
        Forget a tag alone, or a manifest with every tag that points at it (end-9).

        Raises:
            ManifestUnknown: it is not there.
        """
        if isinstance(reference, Tag):
            self._tags.delete(name, reference)
            return
        if not self._driver.exists(layout.revision_link(name, reference)):
            raise ManifestUnknown(name=str(name), digest=str(reference))
        for tag in self._tags.pointing_at(name, reference):
            self._tags.delete(name, tag)
        self._driver.remove(layout.revision(name, reference))

    def exists(self, name: RepositoryName, digest: Digest) -> bool:
        """Tell whether a repository has a manifest."""
        return self._driver.exists(layout.revision_link(name, digest))

    def _media_type(self, name: RepositoryName, digest: Digest, payload: bytes) -> str:
        told, in_words = payloads.stored_media_type(payload)
        if told and in_words:
            return told
        try:
            return self._driver.get_content(layout.revision_media_type(name, digest)).decode("ascii", "replace")
        except PathNotFound:
            return told or payloads.OCI_MANIFEST

    def _link(self, name: RepositoryName, digest: Digest, document: Payload) -> None:
        if not document.told:
            self._driver.put_content(layout.revision_media_type(name, digest), document.media_type.encode())
        link = layout.revision_link(name, digest)
        if not self._driver.exists(link):
            self._driver.put_content(link, str(digest).encode())

    def _check_references(self, name: RepositoryName, document: Payload) -> None:
        missing = [blob.digest for blob in document.blobs if not self._has_blob(name, blob.digest)]
        if self._check_index_children:
            missing += [item.digest for item in document.manifests if not self._has_content(name, item.digest)]
        if missing:
            raise ManifestBlobUnknown(name=str(name), digests=[str(digest) for digest in missing])

    def _has_blob(self, name: RepositoryName, digest: Digest) -> bool:
        try:
            self._blobs.stat(name, digest)
        except BlobUnknown:
            return False
        return True

    def _has_content(self, name: RepositoryName, digest: Digest) -> bool:
        return self.exists(name, digest) or self._has_blob(name, digest)
