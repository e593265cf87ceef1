"""The media types of manifests: stated by the payload, inferred from it, or stored beside it."""

from __future__ import annotations

from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.registry import layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_budget import LARGE_BYTES, JsonBudget
from docker_registry.registry.manifest_payload import OCI_MANIFEST, Payload, stored_media_type
from docker_registry.registry.names import Digest, RepositoryName

#: Memory for cached media types of large manifests whose media type another server did not record.
_MAX_BYTES: Final = 1024 * 1024


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
        self._known: BoundedCache[Digest, str] = BoundedCache(_MAX_BYTES)

    def of(self, name: RepositoryName, digest: Digest, payload: bytes) -> str:
        """Return the media type of a stored manifest."""
        if len(payload) > LARGE_BYTES:
            return self._of_large(name, digest, payload)
        inferred, is_stated = stored_media_type(payload)
        if inferred and is_stated:
            return inferred
        return self.get(name, digest, inferred or OCI_MANIFEST)

    def _of_large(self, name: RepositoryName, digest: Digest, payload: bytes) -> str:
        """Return the media type recorded at the push; parse the payload only if none was recorded."""
        written = self.find(name, digest)
        if written is not None:
            return written
        with self._locks.hold(digest):
            media_type = self._known.get(digest)
            if media_type is None:
                with self._json_budget.reserve(payload):
                    inferred, _ = stored_media_type(payload, self._json_budget.pace)
                media_type = inferred or OCI_MANIFEST
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
        path = layout.revision_media_type(name, digest)
        if not document.is_inferable or (not document.has_media_type and self._driver.has_file(path)):
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
