"""
The tags of API V1 as API V2 sees them.

A repository has one set of tags, whoever wrote them. What V2 wrote, where it is there, is the tag, and hides what V1
wrote; so V1 writes its own and then removes V2's, V2 writes only its own, and a removal begins with V1's. At whatever
moment that is cut short, a tag is what it was or what it was to become, and one read tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from docker_registry.errors import (
    ImageInvalid,
    ImageUnfinished,
    ImageUnknown,
    LayerFormatUnsupported,
    ManifestUnknown,
    TooLarge,
)
from docker_registry.registry.bridge import paired_names
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.names import Digest, ImageId, RepositoryName, Tag
from docker_registry.registry.v1.tag_files import ImageTagFiles


class OldTags:
    """What V1 wrote, by the names of V2."""

    def __init__(self, files: ImageTagFiles, manifests: DerivedManifests) -> None:
        self._files = files
        self._manifests = manifests

    def get(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """
        Return the manifest of the image that a tag names, made now if need be; None when there is no such tag.

        Raises:
            ManifestUnknown: the image has no form that clients of V2 know; the sentence says why.
        """
        image_id = self._image(name, tag)
        if image_id is None:
            return None
        try:
            return self._manifests.get(name, image_id)
        except (ImageUnknown, ImageUnfinished, ImageInvalid, LayerFormatUnsupported, TooLarge) as error:
            raise ManifestUnknown(
                f"The image of this tag cannot be shown by API V2. {error.sentence}", id=str(image_id)
            ) from None

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the manifest that was made of the image that a tag names; None when none was made."""
        image_id = self._image(name, tag)
        return self._manifests.find(image_id) if image_id is not None else None

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Tell whether there is such a tag."""
        return self._image(name, tag) is not None

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags, in ASCII order."""
        old_name = paired_names.image_repository(name)
        return self._files.names(old_name) if old_name is not None else ()

    def naming(self, name: RepositoryName, digest: Digest, tags: Iterable[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the tags whose image a manifest was made of.

        Args:
            tags: those that are asked about; None for all.
        """
        for tag in map(Tag, self.names(name)) if tags is None else tags:
            image_id = self._image(name, tag)
            if image_id is not None and self._manifests.find(image_id) == digest:
                yield tag

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag; False when there was none.

        Args:
            holds: remove it only while this is true; see :func:`.conditional_removal.take_while`.
        """
        old_name = paired_names.image_repository(name)
        return old_name is not None and self._files.remove(old_name, tag, holds)

    def _image(self, name: RepositoryName, tag: Tag) -> ImageId | None:
        old_name = paired_names.image_repository(name)
        return self._files.find(old_name, tag) if old_name is not None else None
