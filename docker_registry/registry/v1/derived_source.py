"""Images that were not pushed by API V1 but derive from content of API V2, as API V1 asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from docker_registry.registry.names import Digest, ImageId, RepositoryName
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1.layer_links import LayerLink

#: Returns whether an image may come from a repository.
Permitted = Callable[[RepositoryName], bool]


@dataclass(frozen=True, slots=True)
class DerivedImage:
    """
    A V1 image with a verified layer.

    Attributes:
        payload: the image's JSON.
        blob: digest of the stored layer.
        link: the layer as it is sent to clients of V1: the stored bytes, or their uncompressed tar.
    """

    payload: bytes
    blob: Digest
    link: LayerLink


class DerivedImageSource(Protocol):
    """Derives V1 images from content of API V2."""

    def is_known(self, image_id: ImageId) -> bool:
        """Return whether an id is known to derive from a V2 image."""
        ...

    def find(self, image_id: ImageId, permitted: Permitted | None = None) -> DerivedImage | None:
        """
        Return an image with a verified layer; None when there is none.

        Args:
            permitted: restricts the repositories that it may come from; None for all.
        """
        ...

    def ancestry(self, image_id: ImageId, permitted: Permitted | None = None) -> tuple[str, ...] | None:
        """Return the ids of an image and all its ancestors, newest first; None when it does not derive from V2."""
        ...

    def manifest(
        self, image_id: ImageId, preferred: RepositoryName, permitted: Permitted | None = None
    ) -> tuple[RepositoryName, Digest] | None:
        """Return a repository and its manifest whose newest V1 image this is; None when there is none."""
        ...

    def top(self, name: RepositoryName, manifest: Digest) -> ImageId:
        """
        Return the newest V1 image of a manifest or index of a repository.

        Raises:
            ImageUnknown: the manifest has no V1 form, which the message explains.
        """
        ...

    def stored_file(self, image_id: ImageId, image: DerivedImage) -> StoredFile | None:
        """Return the stored layer of an image, compressed or not; None when it was removed."""
        ...

    def sent_file(self, image: DerivedImage, stored: StoredFile) -> StoredFile:
        """Return the layer of an image as it is sent to clients of V1, uncompressed if they could not read it."""
        ...
