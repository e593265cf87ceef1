"""
Access to the tags of API V1 for API V2.

Both APIs share one set of tags per repository. A tag file of V2 takes precedence over the file of V1. Therefore V1
writes its own file and then removes that of V2; V2 only writes its own; and a deletion removes the file of V1 first. If
any of these is interrupted, the tag still has either its old or its new value, and a single read determines it.
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
from docker_registry.registry.bridge import name_mapping
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.names import Digest, ImageId, RepositoryName, Tag
from docker_registry.registry.v1.tag_files import ImageTagFiles


class V1TagSource:
    """Looks up and removes V1 tags, addressed by names of V2 repositories."""

    def __init__(self, files: ImageTagFiles, manifests: DerivedManifests) -> None:
        self._files = files
        self._manifests = manifests

    def get(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """
        Return the manifest of the image that a tag points at, deriving it if necessary; None when there is no such tag.

        Raises:
            ManifestUnknown: the image cannot be converted for V2; the message explains why.
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
        """Return the manifest of a tag's image if it was derived already; otherwise None."""
        image_id = self._image(name, tag)
        return self._manifests.find(image_id) if image_id is not None else None

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether V1 has a tag."""
        return self._image(name, tag) is not None

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags, in ASCII order."""
        old_name = name_mapping.image_repository(name)
        return self._files.names(old_name) if old_name is not None else ()

    def naming(self, name: RepositoryName, digest: Digest, tags: Iterable[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the tags whose image a manifest was derived from.

        Args:
            tags: the tags to check; None for all.
        """
        for tag in map(Tag, self.names(name)) if tags is None else tags:
            image_id = self._image(name, tag)
            if image_id is not None and self._manifests.find(image_id) == digest:
                yield tag

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag; return False when none was removed.

        Args:
            holds: remove the tag only while this returns True; see :func:`.conditional_removal.take_while`.
        """
        old_name = name_mapping.image_repository(name)
        return old_name is not None and self._files.remove(old_name, tag, holds)

    def _image(self, name: RepositoryName, tag: Tag) -> ImageId | None:
        old_name = name_mapping.image_repository(name)
        return self._files.find(old_name, tag) if old_name is not None else None
