"""
Pulls of API V1: what the store has, or else what a source has (:mod:`docker_registry.registry.v1.sources`).

The store takes precedence. A repository that exists here is served from here alone, with all its tags, so that a source
can neither add tags to it nor replace any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImagesUnknown,
    ImageTagUnknown,
    ImageUnfinished,
    ImageUnknown,
    NotFound,
    RegistryError,
)
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.sources import Found
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.images import Image, Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import ImageQuery, Permitted, V1Source
from docker_registry.registry.v1.tags import ImageTags

Value = TypeVar("Value")


class ImagePulls:
    """Answers pulls from the store and the sources."""

    def __init__(
        self,
        images: Images,
        tags: ImageTags,
        repositories: ImageRepositories,
        access: Access,
        sources: Sequence[V1Source],
        memberships: ImageMemberships,
    ) -> None:
        """
        Args:
            access: decides from which repositories an image may come.
            sources: may grow until the first request.
            memberships: records the images of mirrored repositories.
        """
        self._images = images
        self._tags = tags
        self._repositories = repositories
        self._access = access
        self._sources = sources
        self._memberships = memberships

    def image(
        self,
        image_id: ImageId,
        repository: ImageRepositoryName | None = None,
        *,
        principal: Principal = ANONYMOUS,
        with_sources: bool = True,
    ) -> Found[Image]:
        """
        Return an image.

        Args:
            repository: the repository in which the client looks for the image; None if it did not say.
            principal: on whose behalf.
            with_sources: whether the sources are asked; not for clients that look for what they need not push.

        Raises:
            ImageUnknown, ImageUnfinished: neither the store nor a source has the image.
            UpstreamError: a source cannot be asked.
        """

        def ask(source: V1Source, query: ImageQuery) -> Found[Image] | None:
            found = source.image(query)
            if found is None:
                return None
            image, origin = found.value, found.origin
            size = image.size if image.size is not None else source.arriving_size(query)
            if size is None and source.fetch(query):  # Docker up to 1.2 fails without the size
                return Found(self._images.get(image_id, principal=principal), origin)
            return Found(Image(image.payload, size, image.checksums), origin)

        def look_up() -> Image:
            return self._images.get(image_id, principal=principal)

        return self._of_image(image_id, repository, principal, look_up, ask, with_sources=with_sources)

    def ancestry(
        self,
        image_id: ImageId,
        repository: ImageRepositoryName | None = None,
        *,
        principal: Principal = ANONYMOUS,
    ) -> Found[tuple[str, ...]]:
        """
        Return the ids of an image and its ancestors, newest first.

        Raises:
            ImageUnknown, ImageUnfinished, UpstreamError: as for :meth:`image`.
        """

        def look_up() -> tuple[str, ...]:
            self._images.check(image_id, principal=principal)
            return self._images.ancestry(image_id, principal=principal)

        def ask(source: V1Source, query: ImageQuery) -> Found[tuple[str, ...]] | None:
            found = source.image(query)
            return None if found is None else Found(found.value.ancestry, found.origin)

        return self._of_image(image_id, repository, principal, look_up, ask)

    def layer(
        self,
        image_id: ImageId,
        repository: ImageRepositoryName | None = None,
        *,
        principal: Principal = ANONYMOUS,
    ) -> Found[ServedFile]:
        """
        Return the layer of an image as it is sent to clients; that of a source may be served while it is received.

        Raises:
            ImageUnknown, ImageUnfinished, UpstreamError: as for :meth:`image`.
            Overloaded: too many layers are being verified.
        """

        def look_up() -> ServedFile:
            return self._images.find_layer(image_id, principal=principal)[1]

        return self._of_image(image_id, repository, principal, look_up, lambda source, query: source.layer(query))

    def tags(self, name: ImageRepositoryName, *, principal: Principal = ANONYMOUS) -> Found[Mapping[str, str]]:
        """
        Return all tags of a repository, each with the id of its image.

        Raises:
            ImageRepositoryUnknown: the repository does not exist.
            UpstreamError: a source cannot be asked.
        """
        return self._of_repository(
            name,
            ImageRepositoryUnknown,
            lambda: self._tags.list(name),
            lambda source: source.tags(name, self._permitted(principal)),
        )

    def tag(self, name: ImageRepositoryName, tag: Tag, *, principal: Principal = ANONYMOUS) -> Found[ImageId]:
        """
        Return the id of the image that a tag points at.

        Raises:
            ImageTagUnknown: there is no such tag, or V1 cannot represent its target.
            UpstreamError: a source cannot be asked.
        """
        return self._of_repository(
            name,
            ImageTagUnknown,
            lambda: self._tags.get(name, tag),
            lambda source: source.tag(name, tag, self._permitted(principal)),
        )

    def list_images(self, name: ImageRepositoryName, *, principal: Principal = ANONYMOUS) -> Found[bytes]:
        """
        Return the list of all images of a repository, as JSON.

        Raises:
            ImagesUnknown: the list is empty.
            UpstreamError: a source cannot be asked.
        """
        return self._of_repository(
            name,
            ImagesUnknown,
            lambda: self._tags.list_images(name),
            lambda source: self._recorded(name, source.images(name, self._permitted(principal))),
        )

    # ------------------------------------------------------------------------------------------------- steps

    def _of_image(
        self,
        image_id: ImageId,
        repository: ImageRepositoryName | None,
        principal: Principal,
        look_up: Callable[[], Value],
        ask: Callable[[V1Source, ImageQuery], Found[Value] | None],
        *,
        with_sources: bool = True,
    ) -> Found[Value]:
        """Return what the store has of an image, or, if the image is not here, what a source has."""

        def results() -> Iterator[Found[Value] | None]:
            if with_sources and self._sources and not image_id.is_hidden:
                query = ImageQuery(image_id, repository, self._permitted(principal))
                yield from (ask(source, query) for source in self._sources)

        return _first(look_up, (ImageUnknown, ImageUnfinished), results())

    def _of_repository(
        self,
        name: ImageRepositoryName,
        missing: type[NotFound],
        look_up: Callable[[], Value],
        ask: Callable[[V1Source], Found[Value] | None],
    ) -> Found[Value]:
        """Return what the store has of a repository, or, if the repository does not exist here, what a source has."""

        def results() -> Iterator[Found[Value] | None]:
            if self._sources and not name.is_hidden and not self._repositories.has_content(name):
                yield from map(ask, self._sources)

        return _first(look_up, missing, results())

    def _recorded(self, name: ImageRepositoryName, images: Found[bytes] | None) -> Found[bytes] | None:
        if images is not None:
            self._memberships.record_mirrored(name, images.value)
        return images

    def _permitted(self, principal: Principal) -> Permitted | None:
        return self._access.pull_filter(principal)


def _first(
    look_up: Callable[[], Value],
    missing: type[RegistryError] | tuple[type[RegistryError], ...],
    results: Iterator[Found[Value] | None],
) -> Found[Value]:
    """Return what the store has; if that raises an error that says it has nothing, the first result of a source."""
    try:
        return Found(look_up())
    except missing:
        found = next(filter(None, results), None)
        if found is None:
            raise
        return found
