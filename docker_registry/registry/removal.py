"""
Deletion of blobs and manifests, subject to immutable tags.

The bytes of deleted content remain in the store, so the access policy is notified before a deletion and can keep
content of hidden repositories hidden.
"""

from __future__ import annotations

import logging

from docker_registry.errors import ContentImmutable
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS_DELETE, Actor
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.immutability import ImmutableContent
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Digest, Reference, RepositoryName

logger = logging.getLogger(__name__)


class Removal:
    """Deletes blobs, manifests and tags on behalf of clients."""

    def __init__(self, blobs: Blobs, manifests: Manifests, immutable: ImmutableContent, access: Access) -> None:
        self._blobs = blobs
        self._manifests = manifests
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

        Raises:
            ManifestUnknown: the repository does not have the tag or manifest.
            TagImmutable: the tag, or a tag that points at the manifest, is immutable.
            ContentImmutable: the manifest is part of an index with an immutable tag.
        """
        if isinstance(reference, Digest):
            self._immutable.check_deletable(name, reference)
            self._access.policy.before_deletion(name, reference)
        self._manifests.delete(name, reference, actor=actor)
