"""Sources of API V1: parts that are asked for images and repositories that the store does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.sources import Found
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.derived_source import Permitted


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
