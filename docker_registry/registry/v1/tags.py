"""
Tags of API V1: names that point at the images of a repository, each with metadata about its last push.

The tags that either API wrote form one set; :mod:`docker_registry.registry.bridge.v1_sources` describes how they are
merged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImageTagUnknown,
    ImageUnknown,
    TagChanged,
    TagImmutable,
)
from docker_registry.registry import events, layout
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS_DELETE, ANONYMOUS_PUSH, Actor
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tags import Tags
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import DerivedImageSource
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tag_json import LATEST, UNKNOWN_CLIENT, TagJson
from docker_registry.resources.time_slices import TimeSlices

#: What a tag points at: an image that API V1 has tagged, or a manifest of API V2.
Target = ImageId | Digest

#: Number of tags that are listed in one batch.
_BATCH: Final = 30

#: Maximum attempts to write a tag that other requests change concurrently.
_MAX_ATTEMPTS: Final = 100

#: Pause between attempts to create a tag that another request is creating.
_CREATION_SECONDS: Final = 0.01


class ImageTags:
    """All tags of the registry in the form of API V1."""

    def __init__(
        self,
        driver: StorageDriver,
        repositories: ImageRepositories,
        images: Images,
        files: ImageTagFiles,
        tags: Tags,
        manifests: Manifests,
        derived: DerivedImageSource,
        immutable: ImmutableTags,
        access: Access,
        memberships: ImageMemberships,
        *,
        now: Callable[[], float] = time.time,
        slices: TimeSlices | None = None,
    ) -> None:
        """
        Args:
            files: the tags that API V1 wrote.
            tags: the tags that API V2 wrote; they take precedence.
            derived: the images that derive from API V2.
            immutable: the patterns of immutable tags.
            access: decides from which repositories a manifest of API V2 may be linked.
            memberships: records which repositories have an image.
            now: the clock; returns seconds since the Unix epoch.
            slices: time slices for the iteration over all tags of a repository.
        """
        self._pace = (slices or TimeSlices()).pace
        self._driver = driver
        self._repositories = repositories
        self._images = images
        self._files = files
        self._tags = tags
        self._manifests = manifests
        self._derived = derived
        self._immutable = immutable
        self._access = access
        self._memberships = memberships
        self._json = TagJson(driver)
        self._now = now

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

    def put(
        self,
        name: ImageRepositoryName,
        tag: Tag,
        image_id: ImageId,
        client: Mapping[str, str],
        *,
        refuse: Callable[[], None] | None = None,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Target | None:
        """
        Set a tag.

        Args:
            client: metadata about the client: ``docker_version``, ``docker_go_version``, ``arch``, ``os``, ``kernel``.
            refuse: raises the error for moving the tag, which the client may not; None if it may. The check is atomic
                with the change, as for :meth:`.Manifests.put`.

        Returns:
            The previous target; None if the tag did not exist or pointed at the image already.

        Raises:
            ImageUnknown: the image does not exist, or the repository is hidden.
            TagImmutable: the tag is immutable and points at another image.
        """
        self._check_mutable(name, tag, image_id)
        if name.is_hidden or not self._images.exists(image_id):
            raise ImageUnknown(id=str(image_id))
        self._repositories.enter(name)
        if self._memberships.is_maintained:
            self._memberships.record_tagged(name, self._images.ancestry_anywhere(image_id))
        folder = self._repositories.home(name)
        tag_json = json.dumps({"last_update": int(self._now()), **client}, sort_keys=True).encode()
        if self._is_immutable(name, tag):
            self._create(name, folder, tag, image_id)
        previous: Target | None = None
        if refuse is not None:
            self._put_unmoved(name, folder, tag, image_id, tag_json, refuse, actor)
        else:
            previous = self._put_any(name, folder, tag, image_id, tag_json, actor)
        events.announce(events.tag_created, self._driver, actor, name=name, tag=tag)
        return previous

    def delete(self, name: ImageRepositoryName, tag: Tag, *, actor: Actor = ANONYMOUS_DELETE) -> Target | None:
        """
        Delete a tag, whichever API wrote it.

        Returns:
            The target of the tag; None if it was damaged.

        Raises:
            ImageTagUnknown: the tag does not exist.
            TagImmutable: the tag is immutable.
        """
        self._check_mutable(name, tag, None)
        had_file, image_id = self._files.take(name, tag)
        links = [self._tags.links.take(repository, tag) for repository in _repositories(name)]
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
        """
        names = self._names(name)
        for tag in self._pace(names):
            self._check_mutable(name, Tag(tag), None)
        try:
            self._repositories.delete(name, actor=actor)
        except ImageRepositoryUnknown:
            if not names:
                raise
        for repository in _repositories(name):
            self._remove_links(repository, names)
            events.announce(events.repository_updated, self._driver, actor, name=repository)

    def check_hideable(self, name: ImageRepositoryName) -> None:
        """
        Check that a repository may be hidden: that it has no immutable tag.

        Raises:
            TagImmutable: the repository has an immutable tag.
        """
        for tag in self._pace(map(Tag, self._names(name))):
            self._check_mutable(name, tag, None)

    def list_images(self, name: ImageRepositoryName) -> bytes:
        """
        Return the list of images that were pushed to a repository or that its tags point at, as JSON.

        Tags that name no image of V1, such as signatures and other artifacts, are left out.

        Raises:
            ImagesUnknown: the list is empty.
        """
        pairs = ((each, tag) for each in _repositories(name) for tag in self._tags.links.names(each))
        linked = [self._find_linked(repository, Tag(tag)) for repository, tag in self._pace(pairs)]
        linked += [self._files.find(name, Tag(tag)) for tag in self._pace(self._shown_files(name))]
        return self._repositories.list_images_with(name, [str(each) for each in linked if each is not None])

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
        linked = [self._tags.links.names(repository) for repository in _repositories(name)]
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

    def _find_linked(self, repository: RepositoryName, tag: Tag) -> ImageId | None:
        """Return the image that a tag of API V2 names; None when the tag is missing or names no image of V1."""
        try:
            return self._linked(repository, tag)
        except ImageTagUnknown:
            return None

    def _put_any(
        self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, tag_json: bytes, actor: Actor
    ) -> Target | None:
        """Set a tag, wherever it points; return the previous target."""
        previous: Target | None = None
        with self._locked(name, tag):
            for _ in range(_MAX_ATTEMPTS):
                previous = self._write(name, folder, tag, image_id, tag_json, actor) or previous
                if self._is_consistent(name, folder, tag, image_id, tag_json, actor):
                    break
        return previous

    def _put_unmoved(
        self,
        name: ImageRepositoryName,
        folder: str,
        tag: Tag,
        image_id: ImageId,
        tag_json: bytes,
        refuse: Callable[[], None],
        actor: Actor,
    ) -> None:
        """Set a tag that does not exist, or points at the image already; call *refuse* if it points at another."""
        with self._locked(name, tag):
            for _ in range(_MAX_ATTEMPTS):
                if self._points_elsewhere(name, tag, image_id):
                    refuse()
                try:
                    self._create(name, folder, tag, image_id)
                    break
                except TagImmutable:  # it exists by now, or another request is creating it
                    if self._find(name, tag) == image_id:
                        break
                    time.sleep(_CREATION_SECONDS)
            else:
                refuse()
            self._json.put(folder, tag, tag_json)
            repository = name.repository()
            origin = None if repository is None else self._origin(repository, image_id, actor)
            if repository is not None and origin is not None:
                self._link_new(repository, tag, origin[1], actor)

    def _link_new(self, repository: RepositoryName, tag: Tag, digest: Digest, actor: Actor) -> None:
        """Set a tag of API V2 unless it exists; a concurrent push of API V2 takes precedence."""
        self._manifests.grant(repository, digest)
        condition = (lambda current: current in (None, digest)) if self._driver.capabilities.if_match else None
        try:
            self._tags.put(repository, tag, digest, condition, actor=actor)
        except TagChanged:
            return
        while self._manifests.grant(repository, digest):  # the manifest was deleted concurrently
            self._tags.links.restore(repository, tag, digest)

    def _find(self, name: ImageRepositoryName, tag: Tag) -> ImageId | None:
        try:
            return self.get(name, tag)
        except ImageTagUnknown:
            return None

    def _points_elsewhere(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId) -> bool:
        """Return whether a tag exists and points at something else than an image."""
        current = self._find(name, tag)
        if current is not None:
            return current != image_id
        return any(self._tags.links.find(repository, tag) is not None for repository in _repositories(name))

    def _locked(self, name: ImageRepositoryName, tag: Tag) -> AbstractContextManager[None]:
        """Return the lock of a tag in both APIs, where the store has no conditional writes."""
        repository = name.repository()
        if repository is None or self._driver.capabilities.if_match:
            return nullcontext()
        return self._tags.locks.hold(repository, (tag,))

    def _write(
        self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, tag_json: bytes, actor: Actor
    ) -> Target | None:
        """
        Write a tag and its metadata, and remove the V2 tag that overrides it; for an image derived from V2, set the V2
        tag instead.

        The metadata is written after the tag, and both are written again after the link of V2 is removed. So a
        concurrent removal, which depends on the absence of the tag or the presence of the link, detects the change.

        Returns:
            The previous target; None if the tag did not exist or pointed at the image already.
        """
        replaced = self._files.put(folder, tag, image_id)
        self._json.put(folder, tag, tag_json)
        previous = replaced if replaced != image_id else None
        repository = name.repository()
        if repository is None:
            return previous
        origin = self._origin(repository, image_id, actor)
        if origin is not None:
            return self._write_link(repository, tag, image_id, origin[1], actor) or previous
        had_link, target = self._tags.links.take(repository, tag)
        if had_link:
            self._files.put(folder, tag, image_id)
            self._json.put(folder, tag, tag_json)
        return target or previous

    def _origin(
        self, repository: RepositoryName, image_id: ImageId, actor: Actor
    ) -> tuple[RepositoryName, Digest] | None:
        """Return the repository and digest of the V2 image whose top V1 image this is; None if there is none."""
        return self._derived.manifest(image_id, repository, self._access.pull_filter(actor.principal))

    def _write_link(
        self, repository: RepositoryName, tag: Tag, image_id: ImageId, digest: Digest, actor: Actor
    ) -> Digest | None:
        """
        Set a tag of API V2 to the manifest of an image; keep its target if that already has this image on top.

        Returns:
            The previous target; None if the tag did not exist or its target is kept.
        """
        linked = self._tags.links.find(repository, tag) if self._is_linked(repository, tag, image_id) else None
        if linked is not None:
            self._tags.put(repository, tag, linked, actor=actor)
            if self._driver.has_file(layout.revision_link(repository, linked)):
                return None
        self._manifests.grant(repository, digest)
        previous = self._tags.put(repository, tag, digest, actor=actor)
        while self._manifests.grant(repository, digest):  # the manifest was deleted concurrently
            self._tags.links.restore(repository, tag, digest)
        return previous

    def _is_consistent(
        self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, tag_json: bytes, actor: Actor
    ) -> bool:
        """Return whether all files of a tag are from this request, or all from later ones, and not a mixture."""
        written = [self._files.find(name, tag) == image_id]
        written += [content == tag_json for content in self._json.contents(folder, tag)]
        repository = name.repository()
        if repository is not None:
            origin = self._origin(repository, image_id, actor)
            written.append(self._tags.links.find(repository, tag) == (None if origin is None else origin[1]))
        return all(written) or not any(written)

    def _create(self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId) -> None:
        """
        Create an immutable tag, unless a concurrent request of either API creates it first.

        Raises:
            TagImmutable: the tag points at another image, or another request is creating it.
        """
        if self._is_linked(name.repository(), tag, image_id):
            return
        is_new = False
        try:
            with self._tags.changes.reservations.held(name.repository(), tag):
                is_new = self._files.create(folder, tag, image_id)
                if self._files.find(name, tag) != image_id:
                    raise TagImmutable(name=str(name), tag=str(tag))
        except TagImmutable:
            if is_new:
                self._files.take_back(folder, tag, image_id)
            raise

    def _remove_links(self, repository: RepositoryName, names: Sequence[str]) -> None:
        """Remove the V2 links of tags, including those written concurrently, except immutable ones."""
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

    def _is_linked(self, repository: RepositoryName | None, tag: Tag, image_id: ImageId) -> bool:
        return repository is not None and self._find_linked(repository, tag) == image_id

    def _check_mutable(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId | None) -> None:
        """
        Check that a tag may be set to an image, or deleted if *image_id* is None.

        Raises:
            TagImmutable: the tag is immutable and points at another target.
        """
        if not self._is_immutable(name, tag):
            return
        try:
            current = self.get(name, tag)
        except ImageTagUnknown:
            if all(self._tags.links.find(repository, tag) is None for repository in _repositories(name)):
                return
            current = None  # V1 cannot represent the target
        if current is None or current != image_id:
            raise TagImmutable(name=str(name), tag=str(tag))

    def _is_immutable(self, name: ImageRepositoryName, tag: Tag) -> bool:
        return self._immutable.covers(str(name.repository() or name), str(tag))


def _repositories(name: ImageRepositoryName) -> list[RepositoryName]:
    """Return the repositories of API V2 that a name of V1 denotes."""
    possible = (name.repository(), name.fallback())
    return [repository for repository in possible if repository is not None]
