"""Manifests: documents that reference blobs, stored byte for byte and retrieved by tag or digest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, ManifestUnknown, PathNotFound, PreconditionFailed
from docker_registry.registry import layout, manifest_payload
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.manifest_payload import Payload
from docker_registry.registry.names import Descriptor, Digest, Reference, RepositoryName, Tag
from docker_registry.registry.sources import ManifestSource, Origin
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.tags import Tags
from docker_registry.resources.memory_budget import LARGE_JSON_BYTES, JsonBudget

#: Memory for cached media types of large manifests whose media type another server did not record.
_TYPES_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    A stored manifest.

    Attributes:
        payload: the bytes as they were pushed.
        origin: freshness and provenance of what a source supplied; None if manifest and tag were in the store.
    """

    payload: bytes
    descriptor: Descriptor
    origin: Origin | None = None

    @property
    def is_large(self) -> bool:
        """Whether to stream the manifest from the store, so that a slow client does not keep it in memory."""
        return len(self.payload) > LARGE_JSON_BYTES


class Manifests:
    """
    All manifests of the registry; :mod:`.manifest_pushes` and :mod:`.removal` add and remove them.

    Attributes:
        types: their media types.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        tags: Tags,
        json_budget: JsonBudget,
        sources: Sequence[ManifestSource] = (),
    ) -> None:
        """
        Args:
            json_budget: limits the memory for large manifests.
            sources: searched in this order for manifests to which the repository has no link.
        """
        self._driver = driver
        self._blobs = blobs
        self._tags = tags
        self._json_budget = json_budget
        self._sources = sources
        self.types = ManifestTypes(driver, json_budget)

    def get(self, name: RepositoryName, reference: Reference, *, principal: Principal = ANONYMOUS) -> Manifest:
        """
        Return a manifest as it was pushed (end-3).

        Args:
            principal: the principal of the request. A manifest is not generated from content it may not see.

        Raises:
            ManifestUnknown: neither the repository nor a source has the tag or the manifest.
        """
        origin = None
        if isinstance(reference, Tag):
            digest = self._tags.links.find(name, reference)
            if digest is None:
                found = self._tags.sources.get(name, reference, principal)
                digest, origin = found.value, found.origin
        else:
            digest = reference
        if not self._driver.has_file(layout.revision_link(name, digest)):
            return self._get_from_sources(name, digest, reference)
        try:
            payload = self._blobs.get(digest)
        except BlobUnknown:
            raise ManifestUnknown(name=str(name), reference=str(reference)) from None
        descriptor = Descriptor(self.types.of(name, digest, payload), digest, len(payload))
        return Manifest(payload, descriptor, origin)

    def _get_from_sources(self, name: RepositoryName, digest: Digest, reference: Reference) -> Manifest:
        for source in self._sources:
            found = source.get(name, digest)
            if found is not None:
                if self.exists(name, digest):  # the source has stored it, perhaps with its media type
                    media_type = self.types.of(name, digest, found.value)
                else:
                    inferred, _ = manifest_payload.stored_media_type(found.value, self._json_budget.pace)
                    media_type = inferred or manifest_payload.OCI_MANIFEST
                descriptor = Descriptor(media_type, digest, len(found.value))
                return Manifest(found.value, descriptor, found.origin)
        raise ManifestUnknown(name=str(name), reference=str(reference))

    def file(self, manifest: Manifest) -> StoredFile:
        """Return the stored file of a manifest, to stream it to a client."""
        descriptor = manifest.descriptor
        gone = partial(ManifestUnknown, digest=str(descriptor.digest))
        return StoredFile(self._driver, layout.blob_data(descriptor.digest), descriptor.size, gone)

    def exists(self, name: RepositoryName, digest: Digest) -> bool:
        """Return whether a repository has a manifest."""
        return self._driver.has_file(layout.revision_link(name, digest))

    def grant(self, name: RepositoryName, digest: Digest) -> bool:
        """
        Link a manifest of the store to a repository, with its configuration and layers.

        Returns:
            False if the repository has the manifest already; nothing was changed.

        Raises:
            BlobUnknown: the manifest is not in the store.
        """
        link = layout.revision_link(name, digest)
        if self._driver.has_file(link):
            return False
        document = json.loads(self._blobs.get(digest))
        for descriptor in (*document.get("layers", ()), document["config"]):
            self._blobs.link(name, Digest.parse(descriptor["digest"]))
        self._driver.put_content(link, str(digest).encode())
        return True

    def link(self, name: RepositoryName, digest: Digest, document: Payload, *, is_new: bool = False) -> bool:
        """
        Link a manifest to a repository, after its media type if necessary.

        Args:
            is_new: the manifest was just created, so there is no link to look up.

        Returns:
            Whether the link was written; False if it was found.
        """
        self.types.put(name, digest, document)
        link = layout.revision_link(name, digest)
        if is_new or self._driver.capabilities.pages or not self._driver.has_file(link):  # looking costs as much
            self._driver.put_content(link, str(digest).encode())
            return True
        return False


class ManifestTypes:
    """
    The media types of all manifests of the store.

    A payload without ``mediaType`` may be pushed as a Docker manifest and as an OCI manifest, with the same digest. The
    Content-Type of the last push is authoritative. If it differs from the type inferred from the payload's fields, it
    is stored beside the revision; an empty file counts as missing::

        docker/registry/v2/repositories/<name>/_manifests/revisions/<algorithm>/<hex>/mediatype
    """

    def __init__(self, driver: StorageDriver, json_budget: JsonBudget) -> None:
        """
        Args:
            json_budget: limits the memory for large manifests.
        """
        self._driver = driver
        self._json_budget = json_budget
        self._locks = KeyedLocks()
        self._known: BoundedCache[Digest, str] = BoundedCache(_TYPES_BYTES)

    def of(self, name: RepositoryName, digest: Digest, payload: bytes) -> str:
        """Return the media type of a stored manifest."""
        if len(payload) > LARGE_JSON_BYTES:
            return self._of_large(name, digest, payload)
        inferred, is_stated = manifest_payload.stored_media_type(payload)
        if inferred and is_stated:
            return inferred
        return self.get(name, digest, inferred or manifest_payload.OCI_MANIFEST)

    def _of_large(self, name: RepositoryName, digest: Digest, payload: bytes) -> str:
        """Return the media type recorded at the push; parse the payload only if none was recorded."""
        written = self.find(name, digest)
        if written is not None:
            return written
        with self._locks.hold(digest):
            media_type = self._known.get(digest)
            if media_type is None:
                with self._json_budget.reserve(payload):
                    inferred, _ = manifest_payload.stored_media_type(payload, self._json_budget.pace)
                media_type = inferred or manifest_payload.OCI_MANIFEST
                self._known.put(digest, media_type)
            return media_type

    def get(self, name: RepositoryName, digest: Digest, inferred: str) -> str:
        """
        Return the media type of the last push of a manifest.

        Args:
            inferred: the type inferred from the fields of the payload, returned if none is stored.
        """
        return self.find(name, digest) or inferred

    def find(self, name: RepositoryName, digest: Digest) -> str | None:
        """Return the media type stored beside a manifest; None if there is none."""
        stored = self._driver.find(layout.revision_media_type(name, digest))
        return None if stored is None else stored.decode("ascii", "replace") or None

    def put(self, name: RepositoryName, digest: Digest, document: Payload) -> None:
        """Store the media type of a push if necessary; called before the manifest's link is written."""
        if document.is_inferable and document.has_media_type:
            return
        path = layout.revision_media_type(name, digest)
        if not document.is_inferable or self._driver.has_file(path):
            self._driver.put_content(path, document.media_type.encode())

    def restore(self, name: RepositoryName, digest: Digest, document: Payload) -> None:
        """Restore the media type of a push if another request changed it; called after the link is written."""
        if not document.has_media_type and document.media_type != self.get(name, digest, document.inferred_type):
            self.put(name, digest, document)

    def forget(self, name: RepositoryName, digest: Digest) -> None:
        """
        Remove the media type of a manifest whose link was removed, but not that of a concurrent push.

        Without conditional writes in the driver, the type remains; the next push of the manifest replaces it.
        """
        path = layout.revision_media_type(name, digest)
        try:
            stored = self._driver.get_versioned(path)
            if not stored.content or not self._driver.capabilities.if_match:
                return
            self._driver.put_content(path, b"", if_match=stored.version)
            if not self._driver.has_file(layout.revision_link(name, digest)):
                return
            emptied = self._driver.get_versioned(path)  # it was pushed again with the same type
            if not emptied.content:
                self._driver.put_content(path, stored.content, if_match=emptied.version)
        except (PathNotFound, PreconditionFailed):
            return
