"""
What API V1 asks other parts for: images and repositories that the store does not have, and images that derive from API
V2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.sources import Found
from docker_registry.registry.stored_file import ServedFile, StoredFile
from docker_registry.registry.v1.layer_links import LayerLink

#: Returns whether an image may come from a repository.
Permitted = Callable[[RepositoryName], bool]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """
    An image of a source, without its layer.

    Attributes:
        payload: the image's JSON.
        ancestry: the ids of the image and all its ancestors, newest first.
        size: bytes of the layer; None if they are not known yet.
        checksums: checksums of the layer, as the source states them.
    """

    payload: bytes
    ancestry: tuple[str, ...]
    size: int | None = None
    checksums: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """
    A question for an image.

    Attributes:
        repository: the repository in which the client looks for the image; None if the client did not say.
        permitted: restricts the repositories that the image may come from; None for all.
    """

    image_id: ImageId
    repository: ImageRepositoryName | None = None
    permitted: Permitted | None = None


class V1Source(Protocol):
    """A source of images and repositories, such as a mirrored registry."""

    def image(self, query: ImageQuery) -> Found[SourceImage] | None:
        """Return an image without its layer; None when the source does not have it."""
        ...

    def fetch(self, query: ImageQuery) -> bool:
        """Store an image with its verified layer; return False when the source does not have it."""
        ...

    def arriving_size(self, query: ImageQuery) -> int | None:
        """
        Begin to receive the layer of an image, and return its size, bytes.

        Returns:
            None if the size is not known before the layer has been received; then :meth:`fetch` receives it.
        """
        ...

    def layer(self, query: ImageQuery) -> Found[ServedFile] | None:
        """
        Return the layer of an image as it is sent to clients; None when the source does not have it.

        It may be served while it is received, but never completely before it is verified and stored.
        """
        ...

    def tags(self, name: ImageRepositoryName, permitted: Permitted | None) -> Found[Mapping[str, str]] | None:
        """
        Return the tags of a repository with the ids of their images; None when there is no such repository.

        Args:
            permitted: restricts the repositories of API V2 that they may come from; None for all.
        """
        ...

    def tag(self, name: ImageRepositoryName, tag: Tag, permitted: Permitted | None) -> Found[ImageId] | None:
        """Return the image that a tag points at; None when there is no such tag; *permitted* as for :meth:`tags`."""
        ...

    def images(self, name: ImageRepositoryName, permitted: Permitted | None) -> Found[bytes] | None:
        """
        Return the list of all images of a repository, as JSON; None when there is no such repository.

        Args:
            permitted: as for :meth:`tags`.
        """
        ...


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

    def is_permitted(self, image_id: ImageId, permitted: Permitted) -> bool:
        """Return whether a repository that *permitted* accepts has an image."""
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
