"""
Tags of API V1: names that point at the images of a repository, each with metadata about its last push
(:mod:`.tag_pushes`).

The tags that either API wrote form one set; :mod:`docker_registry.registry.bridge.v1_sources` describes how they are
merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImageTagUnknown,
    ImageUnknown,
    StorageUnavailable,
    TagImmutable,
)
from docker_registry.registry import events
from docker_registry.registry.actor import ANONYMOUS_DELETE, Actor
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tags import Tags
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import DerivedImageSource
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tag_json import LATEST, UNKNOWN_CLIENT, TagJson
from docker_registry.resources.time_slices import TimeSlices

#: What a tag points at: an image that API V1 has tagged, or a manifest of API V2.
Target = ImageId | Digest

#: Number of tags that are listed in one batch.
_BATCH: Final = 30

#: Maximum attempts to delete the tags of a repository to which other requests push.
_MAX_ATTEMPTS: Final = 100


class ImageTags:
    """All tags of the registry in the form of API V1."""

    def __init__(
        self,
        driver: StorageDriver,
        repositories: ImageRepositories,
        files: ImageTagFiles,
        tags: Tags,
        derived: DerivedImageSource,
        immutable: ImmutableTags,
        *,
        slices: TimeSlices | None = None,
    ) -> None:
        """
        Args:
            files: the tags that API V1 wrote.
            tags: the tags that API V2 wrote; they take precedence.
            derived: the images that derive from API V2.
            immutable: the patterns of immutable tags.
            slices: time slices for the iteration over all tags of a repository.
        """
        self._pace = (slices or TimeSlices()).pace
        self._driver = driver
        self._repositories = repositories
        self._files = files
        self._tags = tags
        self._derived = derived
        self._immutable = immutable
        self._json = TagJson(driver)

    def list(self, name: ImageRepositoryName) -> dict[str, str]:
        """
        Return all tags of a repository, each with the id of its image; tags without a V1 image are omitted.

        Raises:
            ImageRepositoryUnknown: the repository does not exist.
        """
        names = self._names(name)
        if not names:
            self._repositories.check(name)
        found: dict[str, str] = {}
        for start in range(0, len(names), _BATCH):
            # Deriving the id of a V2 image may write two files; the batch makes them durable together.
            with self._driver.batch():
                for tag in self._pace(names[start : start + _BATCH]):
                    try:
                        found[tag] = str(self.get(name, Tag(tag)))
                    except ImageTagUnknown:  # deleted concurrently, damaged, or not an image of V1
                        continue
        return found

    def get(self, name: ImageRepositoryName, tag: Tag) -> ImageId:
        """
        Return the id of the image that a tag points at.

        Raises:
            ImageTagUnknown: the tag does not exist, or V1 cannot represent its target; the message gives the reason.
        """
        image_id = self._linked(name.repository(), tag)
        image_id = image_id or self._files.find(name, tag) or self._linked(name.fallback(), tag)
        if image_id is None:
            raise ImageTagUnknown(name=str(name), tag=str(tag))
        return image_id

    def delete(self, name: ImageRepositoryName, tag: Tag, *, actor: Actor = ANONYMOUS_DELETE) -> Target | None:
        """
        Delete a tag, whichever API wrote it.

        Returns:
            The target of the tag; None if it was damaged.

        Raises:
            ImageTagUnknown: the tag does not exist.
            TagImmutable: the tag is immutable.
        """
        self.check_mutable(name, tag, None)
        had_file, image_id = self._files.take(name, tag)
        links = [self._tags.links.take(repository, tag) for repository in oci_repositories(name)]
        if not had_file and not any(had_link for had_link, _ in links):
            raise ImageTagUnknown(name=str(name), tag=str(tag))
        self._json.remove(name, tag, lambda: self._files.find(name, tag) is None)
        events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
        return next((target for _, target in links if target is not None), image_id)

    def delete_repository(self, name: ImageRepositoryName, *, actor: Actor = ANONYMOUS_DELETE) -> None:
        """
        Delete a repository and all its tags, whichever API wrote them, but not its images.

        Raises:
            ImageRepositoryUnknown: the repository does not exist.
            TagImmutable: the repository has an immutable tag.
            StorageUnavailable: concurrent pushes wrote tags too often; some may be left.
        """
        names = self._names(name)
        for tag in self._pace(names):
            self.check_mutable(name, Tag(tag), None)
        try:
            self._repositories.delete(name, actor=actor)
        except ImageRepositoryUnknown:
            if not names:
                raise
        for repository in oci_repositories(name):
            self._remove_links(repository, names)
            events.announce(events.repository_updated, self._driver, actor, name=repository)

    def check_hideable(self, name: ImageRepositoryName) -> None:
        """
        Check that a repository may be hidden: that it has no immutable tag.

        Raises:
            TagImmutable: the repository has an immutable tag.
        """
        for tag in self._pace(map(Tag, self._names(name))):
            self.check_mutable(name, tag, None)

    def list_images(self, name: ImageRepositoryName) -> bytes:
        """
        Return the list of images that were pushed to a repository or that its tags point at, as JSON.

        Tags that name no image of V1, such as signatures and other artifacts, are left out.

        Raises:
            ImagesUnknown: the list is empty.
        """
        pairs = ((each, tag) for each in oci_repositories(name) for tag in self._tags.links.names(each))
        linked = [self.find_linked(repository, Tag(tag)) for repository, tag in self._pace(pairs)]
        linked += [self._files.find(name, Tag(tag)) for tag in self._pace(self._shown_files(name))]
        return self._repositories.list_images(name, [str(each) for each in linked if each is not None])

    def get_json(self, name: ImageRepositoryName, tag: Tag) -> dict[str, Any]:
        """
        Return the metadata about the last push of a tag.

        Raises:
            ImageTagUnknown: the tag does not exist.
        """
        if self.get(name, tag) != self._files.find(name, tag):  # the metadata is of a tag that API V2 has replaced
            return dict(UNKNOWN_CLIENT)
        return self._json.get(name, tag)

    def get_repository_json(self, name: ImageRepositoryName) -> dict[str, Any]:
        """Return the metadata about the last push of the tag ``latest``, whether or not the tag exists."""
        try:
            if self.get(name, LATEST) != self._files.find(name, LATEST):
                return dict(UNKNOWN_CLIENT)
        except ImageTagUnknown:
            pass
        return self._json.get_latest(name)

    # ------------------------------------------------------------------------------------------------- steps

    def _names(self, name: ImageRepositoryName) -> Sequence[str]:
        """Return the names of the tags of both APIs in ASCII order; recently deleted tags may be included."""
        linked = [self._tags.links.names(repository) for repository in oci_repositories(name)]
        return sorted(set(self._files.names(name)).union(*linked))

    def _shown_files(self, name: ImageRepositoryName) -> Iterator[str]:
        """Yield the names of the tags that API V1 wrote and that no tag of API V2 overrides."""
        repository = name.repository()
        for tag in self._pace(self._files.names(name)):
            if repository is None or self._tags.links.find(repository, Tag(tag)) is None:
                yield tag

    def _linked(self, repository: RepositoryName | None, tag: Tag) -> ImageId | None:
        """
        Return the id of the image that a tag of API V2 points at; None if the tag does not exist.

        Raises:
            ImageTagUnknown: V1 cannot represent the target of the tag.
        """
        digest = self._tags.links.find(repository, tag) if repository is not None else None
        if repository is None or digest is None:
            return None
        try:
            return self._derived.top(repository, digest)
        except ImageUnknown as error:
            raise ImageTagUnknown(error.sentence, name=str(repository), tag=str(tag)) from None

    def find_linked(self, repository: RepositoryName, tag: Tag) -> ImageId | None:
        """Return the image that a tag of API V2 names; None when the tag is missing or names no image of V1."""
        try:
            return self._linked(repository, tag)
        except ImageTagUnknown:
            return None

    def find(self, name: ImageRepositoryName, tag: Tag) -> ImageId | None:
        """Return the id of the image that a tag points at; None if :meth:`get` would raise an error."""
        try:
            return self.get(name, tag)
        except ImageTagUnknown:
            return None

    def _remove_links(self, repository: RepositoryName, names: Sequence[str]) -> None:
        """
        Remove the V2 links of tags, including those written concurrently, except immutable ones.

        Raises:
            StorageUnavailable: tags were written too often.
        """
        for _ in range(_MAX_ATTEMPTS):
            for tag in self._pace(names):
                # An immutable tag was pushed after the deletion had been checked, so it is kept.
                if not self._immutable.covers(str(repository), tag):
                    self._tags.links.remove(repository, Tag(tag))
            names = [
                tag
                for tag in self._pace(self._tags.links.names(repository))
                if not self._immutable.covers(str(repository), tag) and self._tags.links.find(repository, Tag(tag))
            ]
            if not names:
                return
        raise StorageUnavailable("Too many pushes to one repository at once.", name=str(repository))

    def check_mutable(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId | None) -> None:
        """
        Check that a tag may be set to an image, or deleted if *image_id* is None.

        Raises:
            TagImmutable: the tag is immutable and points at another target.
        """
        if not self.is_immutable(name, tag):
            return
        try:
            current = self.get(name, tag)
        except ImageTagUnknown:
            if all(self._tags.links.find(repository, tag) is None for repository in oci_repositories(name)):
                return
            current = None  # V1 cannot represent the target
        if current is None or current != image_id:
            raise TagImmutable(name=str(name), tag=str(tag))

    def is_immutable(self, name: ImageRepositoryName, tag: Tag) -> bool:
        """Return whether a tag matches a pattern of immutable tags."""
        return self._immutable.covers(str(name.repository() or name), str(tag))


def oci_repositories(name: ImageRepositoryName) -> list[RepositoryName]:
    """Return the repositories of API V2 that a name of V1 denotes."""
    possible = (name.repository(), name.fallback())
    return [repository for repository in possible if repository is not None]
