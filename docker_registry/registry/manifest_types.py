"""
The media types of manifests whose payload has no ``mediaType``.

Such a payload may be pushed as a Docker manifest and as an OCI manifest, and its digest is the same. What counts is the
Content-Type of the last push. It is kept beside the revision where it differs from what the payload's fields tell; an
empty file counts as none::

    docker/registry/v2/repositories/<name>/_manifests/revisions/<algorithm>/<hex>/mediatype
"""

from __future__ import annotations

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.registry import layout
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.payloads import Payload


class ManifestTypes:
    """The media types of all manifests whose payload has none; asked for others, it asks no store."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def get(self, name: RepositoryName, digest: Digest, told: str) -> str:
        """
        Return the type of the last push of a manifest.

        Args:
            told: what the fields of the payload tell.
        """
        return self.find(name, digest) or told

    def find(self, name: RepositoryName, digest: Digest) -> str | None:
        """Return the type that is kept beside a manifest; None where there is none."""
        try:
            stored = self._driver.get_content(layout.revision_media_type(name, digest))
        except PathNotFound:
            return None
        return stored.decode("ascii", "replace") or None

    def put(self, name: RepositoryName, digest: Digest, document: Payload) -> None:
        """Keep the type of a push, before the manifest's link is put."""
        path = layout.revision_media_type(name, digest)
        if not document.told or (not document.has_media_type and self._driver.exists(path)):
            self._driver.put_content(path, document.media_type.encode())

    def keep(self, name: RepositoryName, digest: Digest, document: Payload) -> None:
        """Put the type of a push again, after the link was put, if a deletion or another push has changed it since."""
        if not document.has_media_type and document.media_type != self.get(name, digest, document.told_type):
            self.put(name, digest, document)

    def forget(self, name: RepositoryName, digest: Digest) -> None:
        """
        Forget the type of a manifest whose link was removed, but not that of a push which comes meanwhile.

        A store without conditional puts keeps the type; the next push of the manifest replaces it.
        """
        path = layout.revision_media_type(name, digest)
        try:
            stored = self._driver.get_versioned(path)
            if not stored.content or not self._driver.supports_if_match:
                return
            self._driver.put_content(path, b"", if_match=stored.version)
            if not self._driver.exists(layout.revision_link(name, digest)):
                return
            emptied = self._driver.get_versioned(path)  # it was pushed again, as the same type
            if not emptied.content:
                self._driver.put_content(path, stored.content, if_match=emptied.version)
        except (PathNotFound, PreconditionFailed):
            return
