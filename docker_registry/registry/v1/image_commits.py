"""
The commit records of V1 images.

``images/<id>/_blob`` (:mod:`docker_registry.registry.v1.layer_links`) holds the digests of the verified layer and JSON
of an image. Writing it by compare-and-swap is the commit point of a push. All remaining steps of a push follow from
this record, so any later request can complete them (:meth:`ImageCommits.complete`), and a push that died after the
commit does not block other requests.
"""

from __future__ import annotations

import json
from functools import partial

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import ImageUnknown, PreconditionFailed
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile, is_intact
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.pending_pushes import PendingPushes


class ImageCommits:
    """Reads and writes the commit records of images, and completes committed pushes."""

    def __init__(self, driver: StorageDriver, pending_pushes: PendingPushes) -> None:
        self._driver = driver
        self._pending_pushes = pending_pushes

    def get_json(self, image_id: ImageId) -> bytes:
        """
        Return an image's committed JSON, even while the image is being pushed again.

        Raises:
            ImageUnknown: the image has no JSON.
        """
        stored = self.find_json(image_id)
        if stored is None:
            raise ImageUnknown(id=str(image_id))
        return stored

    def find_json(self, image_id: ImageId) -> bytes | None:
        """Return an image's committed JSON; None if it has none."""
        return self._driver.find(image_layout.image_json(image_id))

    def stored(self, image_id: ImageId) -> Versioned:
        """Return the content and version of ``_blob``; the version is :data:`ABSENT` when there is none."""
        return self._driver.find_versioned(image_layout.blob_link(image_id)) or Versioned(b"", ABSENT)

    def find(self, image_id: ImageId, payload: bytes) -> LayerLink | None:
        """
        Return the committed layer of an image; None when there is none, or it was committed with another JSON.

        Args:
            payload: the image's JSON.
        """
        link = _read(self.stored(image_id))
        return link if link is not None and link.image_json == Digest.of(payload) else None

    def recorded(self, image_id: ImageId) -> LayerLink | None:
        """Return the committed layer of an image, even if its bytes are missing; None when there is none."""
        return _read(self.stored(image_id))

    def committed(self, image_id: ImageId) -> LayerLink | None:
        """Return the committed layer of an image if its bytes exist, even if the push was not completed; else None."""
        link = _read(self.stored(image_id))
        return link if link is not None and self.find_file(image_id, link) is not None else None

    def find_file(self, image_id: ImageId, link: LayerLink) -> StoredFile | None:
        """Return the stored file of a layer: the blob, or the file in the image's folder; None when both are gone."""
        for path in (layout.blob_data(link.digest), image_layout.layer(image_id)):
            if self._driver.find_size(path) == link.size:
                return StoredFile(self._driver, path, link.size, partial(ImageUnknown, id=str(image_id)))
        return None

    def protect(self, image_id: ImageId, layer: Digest) -> None:
        """Record that the layer of a private image is private, before its bytes become a blob."""
        if self._driver.exists(image_layout.private_image(image_id)):
            self._driver.put_content(layout.private_layer(layer), b"")

    def commit(self, image_id: ImageId, link: LayerLink, stored: Versioned) -> bool:
        """
        Commit the layer and JSON of an image.

        Args:
            stored: the state of ``_blob`` on which the caller's verification was based.

        Returns:
            False when another request has changed ``_blob`` meanwhile.
        """
        self.protect(image_id, link.digest)
        condition = stored.version if self._driver.capabilities.if_match else None
        try:
            self._driver.put_content(image_layout.blob_link(image_id), link.dump(), if_match=condition)
        except PreconditionFailed:
            return False
        return True

    def has_json(self, image_id: ImageId, digest: Digest) -> bool:
        """Return whether an image has pending or committed JSON with a digest, which :meth:`complete` needs."""
        if self._pending_pushes.has(image_id, digest):
            return True
        committed = self.find_json(image_id)
        return committed is not None and Digest.of(committed) == digest

    def complete(self, image_id: ImageId, link: LayerLink) -> bool:
        """
        Do the remaining steps of a committed push; idempotent, and safe to run concurrently.

        Returns:
            False when the image's JSON is lost, so the image is not complete.
        """
        if not self._settle_json(image_id, link.image_json):
            return False
        blob, beside = layout.blob_data(link.digest), image_layout.layer(image_id)
        if self._driver.find_size(blob) == link.size and not self._driver.link(blob, beside):
            store_removal.remove(self._driver, beside)  # left by an earlier push, and redundant to the blob
        self._driver.put_content(image_layout.checksum(image_id), json.dumps(link.checksums).encode())
        self._pending_pushes.end(image_id)
        return True

    def put_verified(self, image_id: ImageId, link: LayerLink) -> None:
        """
        Repair the blob of a layer whose raw file in the image's folder was just verified.

        Otherwise a damaged blob of the right size would replace the intact file.
        """
        blob, beside = layout.blob_data(link.digest), image_layout.layer(image_id)
        if self._driver.find_size(blob) == link.size and not is_intact(self._driver, blob, link.digest):
            self._driver.repair(blob, self._driver.stream_read(beside))

    # ------------------------------------------------------------------------------------------------- steps

    def _settle_json(self, image_id: ImageId, digest: Digest) -> bool:
        """Publish the pending JSON with *digest*, after its ancestry; return False when it is lost."""
        committed = self.find_json(image_id)
        if committed is not None and Digest.of(committed) == digest:
            return True
        pending = self._pending_pushes.find(image_id, digest)
        if pending is None:
            return False
        self._driver.put_content(image_layout.ancestry(image_id), json.dumps(pending.ancestry).encode())
        self._driver.put_content(image_layout.image_json(image_id), pending.payload)
        return True


def _read(stored: Versioned) -> LayerLink | None:
    try:
        return LayerLink.parse(stored.content) if stored.content else None
    except ValueError:  # damaged, or written by another program
        return None
