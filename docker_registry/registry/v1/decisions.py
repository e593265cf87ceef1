"""
What images of API V1 are, once that is decided.

``images/<id>/_blob`` says it (:mod:`docker_registry.registry.v1.layer_links`): it names the layer and the JSON, both
verified. It is written once, by compare-and-swap, and with it a push is decided; all else that a push leaves follows
from it, so whoever comes by may do that (:meth:`ImageDecisions.complete`), and a push that died at that point does not
block anybody.
"""

from __future__ import annotations

import json

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import ImageUnknown, PathNotFound, PreconditionFailed
from docker_registry.registry import layout
from docker_registry.registry.integrity import is_intact
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.unfinished import UnfinishedPushes


class ImageDecisions:
    """What is known of the JSON and the layers of all images, whether or not their pushes have ended."""

    def __init__(self, driver: StorageDriver, unfinished: UnfinishedPushes) -> None:
        self._driver = driver
        self._unfinished = unfinished

    def get_json(self, image_id: ImageId) -> bytes:
        """
        Return an image's JSON even while it is pushed anew.

        Raises:
            ImageUnknown: there is none.
        """
        try:
            return self._driver.get_content(image_layout.image_json(image_id))
        except PathNotFound:
            raise ImageUnknown(id=str(image_id)) from None

    def stored(self, image_id: ImageId) -> Versioned:
        """Return ``_blob`` as it lies in the store; its version is :data:`ABSENT` where there is none."""
        try:
            return self._driver.get_versioned(image_layout.blob_link(image_id))
        except PathNotFound:
            return Versioned(b"", ABSENT)

    def find(self, image_id: ImageId, payload: bytes) -> LayerLink | None:
        """
        Return what is known of an image's layer; None when nothing is, or only for another JSON.

        Args:
            payload: the image's JSON.
        """
        link = _read(self.stored(image_id))
        return link if link is not None and link.image_json == Digest.of(payload) else None

    def known(self, image_id: ImageId) -> LayerLink | None:
        """Return the layer of an image, whether or not its bytes are still there; None when none was decided."""
        return _read(self.stored(image_id))

    def decided(self, image_id: ImageId) -> LayerLink | None:
        """Return the layer with which an image is whole, whether or not all that follows was done; else None."""
        link = _read(self.stored(image_id))
        return link if link is not None and self.place(image_id, link) is not None else None

    def place(self, image_id: ImageId, link: LayerLink) -> StoredFile | None:
        """Find where a layer's bytes lie; None when they are gone."""
        for path in (layout.blob_data(link.digest), image_layout.layer(image_id)):
            if self._size(path) == link.size:
                return StoredFile(self._driver, path, link.size, ImageUnknown(id=str(image_id)))
        return None

    def protect(self, image_id: ImageId, layer: Digest) -> None:
        """Record that the layer of a private image is private, before its bytes become a blob."""
        if self._driver.exists(image_layout.private_image(image_id)):
            self._driver.put_content(image_layout.private_layer(layer), b"")

    def decide(self, image_id: ImageId, link: LayerLink, stored: Versioned) -> bool:
        """
        Say what an image is.

        Args:
            stored: ``_blob`` as it was when this was found to be right.

        Returns:
            Whether that counts; False when another was faster.
        """
        self.protect(image_id, link.digest)
        condition = stored.version if self._driver.supports_if_match else None
        try:
            self._driver.put_content(image_layout.blob_link(image_id), link.dump(), if_match=condition)
        except PreconditionFailed:
            return False
        return True

    def complete(self, image_id: ImageId, link: LayerLink) -> bool:
        """
        Do all that follows once it is decided what an image is; harmless when several do it, or again.

        Returns:
            Whether the image is there; False when its JSON is lost.
        """
        if not self._settle_json(image_id, link.image_json):
            return False
        blob, beside = layout.blob_data(link.digest), image_layout.layer(image_id)
        if self._size(blob) == link.size and not self._driver.link(blob, beside):
            self._remove(beside)  # of a push before, and of no use beside the blob
        self._driver.put_content(image_layout.checksum(image_id), json.dumps(link.checksums).encode())
        self._unfinished.end(image_id)
        return True

    def keep_verified(self, image_id: ImageId, link: LayerLink) -> None:
        """
        Repair the blob of a layer whose raw file beside the image has just been verified.

        Without this, a damaged blob of the right length would take the place of the good file.
        """
        blob, beside = layout.blob_data(link.digest), image_layout.layer(image_id)
        if self._size(blob) == link.size and not is_intact(self._driver, blob, link.digest):
            self._driver.repair(blob, self._driver.stream_read(beside))

    # ------------------------------------------------------------------------------------------------- steps

    def _settle_json(self, image_id: ImageId, digest: Digest) -> bool:
        """Put an image's JSON and its ancestry where they belong, the JSON last."""
        try:
            if Digest.of(self.get_json(image_id)) == digest:
                return True
        except ImageUnknown:
            pass
        pending = self._unfinished.find(image_id, digest)
        if pending is None:
            return False
        self._driver.put_content(image_layout.ancestry(image_id), json.dumps(pending.ancestry).encode())
        self._driver.put_content(image_layout.image_json(image_id), pending.payload)
        return True

    def _size(self, path: str) -> int | None:
        try:
            return self._driver.get_size(path)
        except PathNotFound:
            return None

    def _remove(self, path: str) -> None:
        try:
            self._driver.remove(path)
        except PathNotFound:
            pass


def _read(stored: Versioned) -> LayerLink | None:
    try:
        return LayerLink.parse(stored.content) if stored.content else None
    except ValueError:  # not ours
        return None
