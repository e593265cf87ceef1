"""
Repositories and tags of API V1 as sources of API V2.

Both APIs share one set of tags per repository. A tag file of V2 takes precedence over the file of V1. Therefore V1
writes its own file and then removes that of V2; V2 only writes its own; and a deletion removes the file of V1 first. If
any of these is interrupted, the tag still has either its old or its new value, and a single read determines it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from docker_registry.errors import (
    ImageInvalid,
    ImageUnfinished,
    ImageUnknown,
    LayerFormatUnsupported,
    ManifestUnknown,
    TooLarge,
)
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.listing_cache import Page
from docker_registry.registry.names import Digest, ImageId, RepositoryName, Tag
from docker_registry.registry.sources import Found, Origin
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.tag_files import ImageTagFiles

#: A manifest derived from an image of API V1.
_GENERATED: Final = Origin(is_generated=True)


class V1RepositorySource:
    """Finds repositories of API V1 by their names in API V2."""

    def __init__(self, repositories: ImageRepositories) -> None:
        self._repositories = repositories

    def exists(self, name: RepositoryName) -> bool:
        """Return whether API V1 has a repository."""
        image_repository = name.image_repository()
        return image_repository is not None and self._repositories.exists(image_repository)

    def names(self) -> Iterator[RepositoryName]:
        """Yield all repositories of API V1 that have a name in API V2."""
        for image_repository in self._repositories.names():
            name = image_repository.repository()
            if name is not None:
                yield name


class V1TagSource:
    """Looks up and removes V1 tags, addressed by names of V2 repositories."""

    def __init__(self, files: ImageTagFiles, manifests: DerivedManifests) -> None:
        self._files = files
        self._manifests = manifests

    def get(self, name: RepositoryName, tag: Tag, principal: Principal = ANONYMOUS) -> Found[Digest] | None:
        """
        Return the manifest of the image that a tag points at, deriving it if necessary; None when there is no such tag.

        Args:
            principal: on whose behalf; see :meth:`DerivedManifests.get`.

        Raises:
            ManifestUnknown: the image cannot be converted for V2; the message explains why.
        """
        image_id = self._image(name, tag)
        if image_id is None:
            return None
        try:
            return Found(self._manifests.get(name, image_id, principal), _GENERATED)
        except (ImageUnknown, ImageUnfinished, ImageInvalid, LayerFormatUnsupported, TooLarge) as error:
            raise ManifestUnknown(
                f"API V2 cannot represent the image of this tag. {error.sentence}", id=str(image_id)
            ) from None

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the manifest of a tag's image if it was derived already; otherwise None."""
        image_id = self._image(name, tag)
        return self._manifests.find(image_id) if image_id is not None else None

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether V1 has a tag."""
        return self._image(name, tag) is not None

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags, in ASCII order."""
        image_repository = name.image_repository()
        return self._files.names(image_repository) if image_repository is not None else ()

    def page(self, name: RepositoryName, count: int, last: str) -> Page | None:  # noqa: ARG002
        """Return None: :meth:`names` has all tags."""
        return None

    def pointing_at(self, name: RepositoryName, digest: Digest, tags: Iterable[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the tags whose image a manifest was derived from.

        Args:
            tags: the tags to check; None for all.
        """
        for tag in self._files.pace(map(Tag, self.names(name)) if tags is None else tags):
            image_id = self._image(name, tag)
            if image_id is not None and self._manifests.find(image_id) == digest:
                yield tag

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag; return False when none was removed.

        Args:
            holds: remove the tag only while this returns True; see :func:`.store_removal.take_while`.
        """
        image_repository = name.image_repository()
        return image_repository is not None and self._files.take(image_repository, tag, holds)[0]

    def _image(self, name: RepositoryName, tag: Tag) -> ImageId | None:
        image_repository = name.image_repository()
        return self._files.find(image_repository, tag) if image_repository is not None else None
