"""
Tags of API V1: names that a repository gives to its images, each with a note of who pushed it.

They are the repository's tags, whichever API wrote them; :mod:`docker_registry.registry.bridge.old_tags` says how.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImageTagUnknown,
    ImageUnknown,
    TagImmutable,
)
from docker_registry.registry import events, layout
from docker_registry.registry.access import Access
from docker_registry.registry.bridge import paired_names
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tags import Tags
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tag_notes import LATEST, NOTHING_KNOWN, ImageTagNotes
from docker_registry.time_slices import TimeSlices

#: Tags that are looked at with one wait for the disk.
_BATCH: Final = 30

#: How often a tag is written again while other requests change it.
_MAX_TRIES: Final = 100


class ImageTags:
    """All tags, as API V1 sees them."""

    def __init__(
        self,
        driver: StorageDriver,
        repositories: ImageRepositories,
        images: Images,
        files: ImageTagFiles,
        tags: Tags,
        derived_images: DerivedImages,
        derived_manifests: DerivedManifests,
        immutable: ImmutableTags,
        access: Access,
        *,
        now: Callable[[], float] = time.time,
        slices: TimeSlices | None = None,
    ) -> None:
        """
        Args:
            files: what API V1 wrote.
            tags: what API V2 wrote, which hides it.
            immutable: tags that never change once they exist.
            access: tells from which repositories a manifest of API V2 may be taken.
            now: the clock, seconds since the Unix epoch.
            slices: the schedule for looking at all tags of a repository.
        """
        self._pace = (slices or TimeSlices()).pace
        self._driver = driver
        self._repositories = repositories
        self._images = images
        self._files = files
        self._tags = tags
        self._derived_images = derived_images
        self._derived_manifests = derived_manifests
        self._immutable = immutable
        self._access = access
        self._notes = ImageTagNotes(driver)
        self._now = now

    def list(self, name: ImageRepositoryName) -> dict[str, str]:
        """
        Return all tags of a repository and the images that they name; what is no image of V1 is left out.

        Raises:
            ImageRepositoryUnknown: there is no such repository.
        """
        names = self._names(name)
        if not names:
            self._repositories.check(name)
        found: dict[str, str] = {}
        for start in range(0, len(names), _BATCH):
            # What is found out about an image of V2 is kept, in two files: these wait for the disk together.
            with self._driver.together():
                for tag in self._pace(names[start : start + _BATCH]):
                    try:
                        found[tag] = str(self.get(name, Tag(tag)))
                    except ImageTagUnknown:  # deleted just now, damaged, or no image
                        continue
        return found

    def get(self, name: ImageRepositoryName, tag: Tag) -> ImageId:
        """
        Return the image that a tag names.

        Raises:
            ImageTagUnknown: there is no such tag, or what it names is no image of V1; the sentence says why.
        """
        image_id = self._linked(paired_names.repository(name), tag)
        image_id = image_id or self._files.find(name, tag) or self._linked(paired_names.fallback(name), tag)
        if image_id is None:
            raise ImageTagUnknown(name=str(name), tag=str(tag))
        return image_id

    def put(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId, client: Mapping[str, str]) -> None:
        """
        Let a tag name an image.

        Args:
            client: what is known of who pushes: ``docker_version``, ``docker_go_version``, ``arch``, ``os``,
                ``kernel``.

        Raises:
            ImageUnknown: there is no such image, or the repository is hidden.
            TagImmutable: it names another one, and may not change.
        """
        self._check_mutable(name, tag, image_id)
        if name.is_hidden or not self._images.exists(image_id):
            raise ImageUnknown(id=str(image_id))
        self._repositories.enter(name)
        folder = self._repositories.home(name)
        note = json.dumps({"last_update": int(self._now()), **client}, sort_keys=True).encode()
        if self._is_immutable(name, tag):
            self._create(name, folder, tag, image_id)
        for _ in range(_MAX_TRIES):
            self._write(name, folder, tag, image_id, note)
            if self._is_consistent(name, folder, tag, image_id, note):
                break
        events.announce(events.tag_created, self._driver, name=name, tag=tag)

    def delete(self, name: ImageRepositoryName, tag: Tag) -> None:
        """
        Forget a tag.

        Raises:
            ImageTagUnknown: there is no such tag.
            TagImmutable: it may not be deleted.
        """
        self._check_mutable(name, tag, None)
        removed = [self._files.remove(name, tag)]
        removed += [self._tags.remove_link(repository, tag) for repository in _repositories(name)]
        if not any(removed):
            raise ImageTagUnknown(name=str(name), tag=str(tag))
        self._notes.remove(name, tag, lambda: self._files.find(name, tag) is None)
        events.announce(events.tag_deleted, self._driver, name=name, tag=tag)

    def delete_repository(self, name: ImageRepositoryName) -> None:
        """
        Forget a repository with all its tags, whichever API wrote them; its images stay.

        Raises:
            ImageRepositoryUnknown: it is not there.
            TagImmutable: it has a tag that may not be deleted.
        """
        names = self._names(name)
        for tag in names:
            self._check_mutable(name, Tag(tag), None)
        try:
            self._repositories.delete(name)
        except ImageRepositoryUnknown:
            if not names:
                raise
        for repository in _repositories(name):
            self._remove_links(repository, names)
            events.announce(events.repository_updated, self._driver, name=repository)

    def check_hideable(self, name: ImageRepositoryName) -> None:
        """
        Refuse to hide a repository that has an immutable tag.

        Raises:
            TagImmutable: it has one.
        """
        for tag in map(Tag, self._names(name)):
            self._check_mutable(name, tag, None)

    def list_images(self, name: ImageRepositoryName) -> bytes:
        """
        Return the list of the images that were ever pushed to a repository, or that its tags name, as JSON.

        Raises:
            ImagesUnknown: there is none.
        """
        pairs = ((each, tag) for each in _repositories(name) for tag in self._tags.link_names(each))
        linked = [self._linked(repository, Tag(tag)) for repository, tag in self._pace(pairs)]
        linked += [self._files.find(name, Tag(tag)) for tag in self._pace(self._shown_files(name))]
        return self._repositories.list_images_with(name, [str(each) for each in linked if each is not None])

    def get_note(self, name: ImageRepositoryName, tag: Tag) -> dict[str, Any]:
        """
        Return what is known of who pushed a tag.

        Raises:
            ImageTagUnknown: there is no such tag.
        """
        if self.get(name, tag) != self._files.find(name, tag):  # the note is of a tag that API V2 has replaced
            return dict(NOTHING_KNOWN)
        return self._notes.get(name, tag)

    def get_repository_note(self, name: ImageRepositoryName) -> dict[str, Any]:
        """Return what is known of who pushed the tag latest, whether or not there is one."""
        try:
            if self.get(name, LATEST) != self._files.find(name, LATEST):
                return dict(NOTHING_KNOWN)
        except ImageTagUnknown:
            pass
        return self._notes.get_latest(name)

    # ------------------------------------------------------------------------------------------------- steps

    def _names(self, name: ImageRepositoryName) -> Sequence[str]:
        """Return the names that any tag has, or had a moment ago, in ASCII order."""
        linked = [self._tags.link_names(repository) for repository in _repositories(name)]
        return sorted(set(self._files.names(name)).union(*linked))

    def _shown_files(self, name: ImageRepositoryName) -> Iterator[str]:
        """Yield the names of the tags that API V1 wrote and none of API V2 hides."""
        repository = paired_names.repository(name)
        for tag in self._files.names(name):
            if repository is None or self._tags.find_link(repository, Tag(tag)) is None:
                yield tag

    def _linked(self, repository: RepositoryName | None, tag: Tag) -> ImageId | None:
        """Return the image that a tag of API V2 is; None when there is no such tag."""
        digest = self._tags.find_link(repository, tag) if repository is not None else None
        if repository is None or digest is None:
            return None
        try:
            return self._derived_images.top(repository, digest)
        except ImageUnknown as error:
            raise ImageTagUnknown(error.sentence, name=str(repository), tag=str(tag)) from None

    def _write(self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, note: bytes) -> None:
        """
        Write a tag and its note, and remove the tag of API V2 that hides it; where the image is one of V2, write that.

        The note follows the tag, and the tag is written again after the link of V2 was removed: what a removal beside
        this has begun to remove for the absence of the one, or for the presence of the other, it then finds changed.
        """
        self._files.put(folder, tag, image_id)
        self._notes.put(folder, tag, note)
        repository = paired_names.repository(name)
        if repository is None:
            return
        origin = self._origin(repository, image_id)
        if origin is not None:
            self._write_link(repository, tag, image_id, origin[1])
        elif self._tags.remove_link(repository, tag):
            self._files.put(folder, tag, image_id)
            self._notes.put(folder, tag, note)

    def _origin(self, repository: RepositoryName, image_id: ImageId) -> tuple[RepositoryName, Digest] | None:
        """Return the image of V2 of which this is the newest image of V1; None when it is of none."""
        return self._derived_images.manifest(image_id, repository, self._access.pull_filter())

    def _write_link(self, repository: RepositoryName, tag: Tag, image_id: ImageId, digest: Digest) -> None:
        """Let a tag of API V2 point at a manifest of which an image is the newest part; an index that has it stays."""
        linked = self._tags.find_link(repository, tag) if self._is_linked(repository, tag, image_id) else None
        if linked is not None:
            self._tags.put(repository, tag, linked)
            if self._driver.exists(layout.revision_link(repository, linked)):
                return
        self._derived_manifests.link(repository, digest)
        self._tags.put(repository, tag, digest)
        while self._derived_manifests.link(repository, digest):  # the manifest was deleted meanwhile
            self._tags.restore(repository, tag, digest)

    def _is_consistent(self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, note: bytes) -> bool:
        """Tell whether all of a tag is as this request wrote it, or as requests after it did; a mixture is not."""
        written = [self._files.find(name, tag) == image_id]
        written += [content == note for content in self._notes.contents(folder, tag)]
        if all(written):
            return True
        repository = paired_names.repository(name)
        origin = None if repository is None else self._origin(repository, image_id)
        if repository is not None and origin is not None:
            written.append(self._tags.find_link(repository, tag) == origin[1])
        return not any(written)

    def _create(self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId) -> None:
        """
        Write an immutable tag, unless another request, of either API, does so first.

        Raises:
            TagImmutable: the tag names another image, or is just being written.
        """
        if self._is_linked(paired_names.repository(name), tag, image_id):
            return
        is_new = False
        try:
            with self._tags.held(paired_names.repository(name), tag):
                is_new = self._files.create(folder, tag, image_id)
                if self._files.find(name, tag) != image_id:
                    raise TagImmutable(name=str(name), tag=str(tag))
        except TagImmutable:
            if is_new:
                self._files.remove(name, tag)
            raise

    def _remove_links(self, repository: RepositoryName, names: Sequence[str]) -> None:
        """Remove tags as far as API V2 wrote them, also those that come meanwhile, but for immutable ones."""
        for _ in range(_MAX_TRIES):
            for tag in names:
                # An immutable tag did not exist when the deletion was found to be allowed: it was pushed after it.
                if not self._immutable.covers(str(repository), tag):
                    self._tags.remove_link(repository, Tag(tag))
            names = [
                tag
                for tag in self._tags.link_names(repository)
                if not self._immutable.covers(str(repository), tag) and self._tags.find_link(repository, Tag(tag))
            ]
            if not names:
                return

    def _is_linked(self, repository: RepositoryName | None, tag: Tag, image_id: ImageId) -> bool:
        try:
            return self._linked(repository, tag) == image_id
        except ImageTagUnknown:
            return False

    def _check_mutable(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId | None) -> None:
        """Refuse to let an immutable tag name another image, or none."""
        if not self._is_immutable(name, tag):
            return
        try:
            current = self.get(name, tag)
        except ImageTagUnknown:
            if all(self._tags.find_link(repository, tag) is None for repository in _repositories(name)):
                return
            current = None  # what is tagged is no image of V1
        if current is None or current != image_id:
            raise TagImmutable(name=str(name), tag=str(tag))

    def _is_immutable(self, name: ImageRepositoryName, tag: Tag) -> bool:
        return self._immutable.covers(str(paired_names.repository(name) or name), str(tag))


def _repositories(name: ImageRepositoryName) -> list[RepositoryName]:
    """Return the repositories of API V2 that V1 sees under a name."""
    possible = (paired_names.repository(name), paired_names.fallback(name))
    return [repository for repository in possible if repository is not None]
