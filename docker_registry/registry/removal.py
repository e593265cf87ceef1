"""
Removal of blobs and manifests: by clients, subject to immutable tags, and by the registry itself.

The bytes of content that clients delete remain in the store, so the access policy is notified before a deletion and can
keep content of hidden repositories hidden. The bytes of content that the registry forgets are removed by
:class:`Reclamation` if nothing else refers to them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, ContentImmutable
from docker_registry.registry import layout
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS_DELETE, Actor
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.immutability import ImmutableContent
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Digest, Reference, RepositoryName
from docker_registry.registry.references import References
from docker_registry.registry.removed_blobs import RemovedBlob, RemovedBlobs

logger = logging.getLogger(__name__)

#: Time after the last reference to a blob was removed until its bytes are moved away. Requests that have found the blob
#: have opened it by then.
MOVE_SECONDS: Final = 60.0

#: Time after which references are counted once more, and the bytes are removed. A push that has found the blob has
#: written its reference by then.
REMOVE_SECONDS: Final = 600.0


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

    def forget(self, name: RepositoryName, digest: Digest, *, actor: Actor) -> None:
        """Remove a blob or manifest that a source can supply again from a repository, without regard to tags."""
        self._access.policy.before_deletion(name, digest)
        with suppress(BlobUnknown):
            self._blobs.delete(name, digest)
        self._manifests.forget(name, digest, actor=actor)
        logger.debug("%s was removed from %s by %s", digest, name, actor)


class Reclamation:
    """
    Removes the bytes of blobs to which nothing refers any more, safely beside requests on all hosts.

    A blob is recorded before its last reference is removed. Some time later its bytes are moved away, where a request
    still finds them and moves them back. References are counted after that: a push either wrote its reference before,
    and the bytes are moved back, or it has found no bytes, and brings its own.

    Attributes:
        first_steps: called before references are counted, by parts that may have to restore some.
        companions: called with the digest of a blob before its bytes are moved away, and again before they are
            removed, by parts that have stored something that follows from them.
    """

    def __init__(
        self, driver: StorageDriver, removed: RemovedBlobs, references: References, now: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._removed = removed
        self._references = references
        self._now = now
        self.first_steps: list[Callable[[], object]] = []
        self.companions: list[Callable[[Digest], object]] = []

    def run(self, is_stopped: Callable[[], bool] = lambda: False) -> int:
        """
        Take the next step for each recorded blob whose time has come.

        Only one process at a time should do this, to save work; several do no harm, because each leaves the blobs
        alone for which another one has taken a step since it began.

        Args:
            is_stopped: asked before each change; ends the work when it returns true.

        Returns:
            The number of bytes removed.
        """
        for step in () if is_stopped() else self.first_steps:
            step()
        due = {blob.digest: blob for blob in self._removed.all() if self._is_due(blob)}
        used = self._references.among(due) if due else set[Digest]()
        removed_bytes = 0
        for digest, blob in due.items():
            if is_stopped():
                break
            if self._removed.has_changed(blob):  # counting takes long, and what was counted may be outdated
                continue
            if blob.waiting_bytes is None:
                self._move_away(digest, is_used=digest in used)
            elif self._settle(digest, is_used=digest in used):
                removed_bytes += blob.waiting_bytes
        return removed_bytes

    def _is_due(self, blob: RemovedBlob) -> bool:
        age = self._now() - blob.since
        if age < -REMOVE_SECONDS:  # recorded by a host whose clock is wrong
            self._removed.add(blob.digest)
        return age >= (MOVE_SECONDS if blob.waiting_bytes is None else REMOVE_SECONDS)

    def _move_away(self, digest: Digest, *, is_used: bool) -> None:
        if not is_used:
            self._remove_companions(digest)
        if is_used or not self._removed.move_away(digest):
            self._removed.forget(digest)

    def _settle(self, digest: Digest, *, is_used: bool) -> bool:
        """Remove the waiting bytes of a blob, or move them back; return whether they were removed."""
        is_there = self._driver.find_size(layout.blob_data(digest)) is not None
        if not is_used:
            self._remove_companions(digest)
        if is_used and not is_there:
            self._removed.restore(digest)
            logger.info("blob %s was pushed while it was being removed, and stays", digest)
        if is_there and not is_used:  # the push that wrote it has not written its reference yet, or has failed
            self._removed.discard_bytes(digest)
        else:
            self._removed.forget(digest)
        return not is_used

    def _remove_companions(self, digest: Digest) -> None:
        for remove in self.companions:
            remove(digest)
