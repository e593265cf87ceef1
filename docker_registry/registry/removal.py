"""
Deletions by clients, with the checks that depend on more than one kind of content.

Content that immutable tags depend on may not be deleted. Content that is deleted from a private repository stays
hidden. The bytes of content that the registry forgets are removed by :class:`~.reclamation.Reclamation` if nothing else
refers to them.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, ContentImmutable, ManifestUnknown, TagImmutable
from docker_registry.registry import layout, manifest_payload, store_removal
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS_DELETE, Actor
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.immutability import ImmutableContent
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Digest, Reference, RepositoryName, Tag
from docker_registry.registry.referrers import Referrers
from docker_registry.registry.tags import Tags
from docker_registry.resources.memory_budget import LARGE_JSON_BYTES

logger = logging.getLogger(__name__)


class Removal:
    """Deletes blobs, manifests and tags on behalf of clients."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        tags: Tags,
        manifests: Manifests,
        referrers: Referrers,
        immutable: ImmutableContent,
        access: Access,
    ) -> None:
        self._driver = driver
        self._blobs = blobs
        self._tags = tags
        self._manifests = manifests
        self._referrers = referrers
        self._immutable = immutable
        self._access = access

    def delete_blob(self, name: RepositoryName, digest: Digest, *, actor: Actor = ANONYMOUS_DELETE) -> None:
        """
        Delete a blob from a repository (end-10).

        Raises:
            BlobUnknown: the repository does not have the blob.
            ContentImmutable: an immutable tag depends on the blob.
        """
        self._immutable.check_deletable(name, digest)
        self._access.policy.before_deletion(name, digest)
        self._blobs.delete(name, digest)
        try:
            self._immutable.check_deletable(name, digest)
        except ContentImmutable:  # the tag was pushed concurrently, before the blob was deleted
            self._blobs.link(name, digest)
            raise
        logger.debug("blob %s was deleted from %s by %s", digest, name, actor)

    def delete_manifest(self, name: RepositoryName, reference: Reference, *, actor: Actor = ANONYMOUS_DELETE) -> None:
        """
        Delete a single tag, or a manifest with every tag that points at it (end-9).

        The referrers of a deleted manifest remain, as do the indexes that reference it.

        Raises:
            ManifestUnknown: the repository does not have the tag or manifest.
            TagImmutable: the tag, or a tag that points at the manifest, is immutable.
            ContentImmutable: the manifest is part of an index with an immutable tag.
        """
        if isinstance(reference, Tag):
            self._tags.delete(name, reference, actor=actor)
            return
        self._immutable.check_deletable(name, reference)
        self._access.policy.before_deletion(name, reference)
        if not self._manifests.exists(name, reference):
            raise ManifestUnknown(name=str(name), digest=str(reference))
        pointing = self._tags.pointing_at(name, reference)
        for tag in pointing:
            self._tags.immutable.check_mutable(name, tag)
        for tag in pointing:
            self._tags.delete_if(name, tag, reference, actor=actor)
        if not self._remove(name, reference, actor):  # deleted concurrently
            raise ManifestUnknown(name=str(name), digest=str(reference))

    def forget(self, name: RepositoryName, digest: Digest, *, actor: Actor) -> None:
        """
        Remove a blob or manifest from a repository, without the checks of a client's deletion.

        The caller makes sure that a source can supply it again, and that no stored tag points at it.
        """
        self._access.policy.before_deletion(name, digest)
        with suppress(BlobUnknown):
            self._blobs.delete(name, digest)
        self._remove(name, digest, actor)
        logger.debug("%s was removed from %s by %s", digest, name, actor)

    def _remove(self, name: RepositoryName, digest: Digest, actor: Actor) -> bool:
        """Remove a manifest from a repository; return False if the repository does not have it."""
        # The link is authoritative: without it, the manifest, its tags and its referrer entry are all ignored.
        if not store_removal.remove(self._driver, layout.revision_link(name, digest)):
            return False
        self._sweep(name, digest, actor)
        return True

    def _sweep(self, name: RepositoryName, digest: Digest, actor: Actor) -> None:
        """
        Remove the remaining references to a deleted manifest: tags written during the deletion, and its referrer entry.

        A concurrent push of the same manifest writes the link before both, so it loses neither. All other files of the
        manifest remain: they are ignored without the link, and a concurrent push may be using them.
        """

        def is_gone() -> bool:
            return not self._manifests.exists(name, digest)

        try:
            for tag in self._tags.with_back_reference(name, digest):
                self._tags.delete_if(name, tag, digest, is_gone, actor=actor)
        except TagImmutable:  # the tag was pushed after the check: restore the link
            self._driver.put_content(layout.revision_link(name, digest), str(digest).encode())
            raise
        try:
            payload = self._blobs.get(digest)
        except BlobUnknown:
            return
        self._referrers.delete(name, digest, payload)
        if len(payload) > LARGE_JSON_BYTES or not manifest_payload.stored_media_type(payload)[1]:
            self._manifests.types.forget(name, digest)
