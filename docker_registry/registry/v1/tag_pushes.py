"""
Pushes of tags by API V1.

A tag of API V1 is a file, with a JSON document about its push. A tag of an image that derives from API V2 is a link to
its manifest instead (:mod:`.tag_links`); so at most one of both is shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnknown, StorageUnavailable, TagChanged, TagImmutable
from docker_registry.registry import events, layout
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS_PUSH, Actor
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tags import Tags
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import DerivedImageSource
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tag_json import TagJson
from docker_registry.registry.v1.tags import ImageTags, Target, oci_repositories

#: Maximum attempts to write a tag that other requests change concurrently.
_MAX_ATTEMPTS: Final = 100

#: Pause between attempts to create a tag that another request is creating.
_CREATION_SECONDS: Final = 0.01


class ImageTagPushes:
    """Sets tags in the form of API V1."""

    def __init__(
        self,
        driver: StorageDriver,
        image_tags: ImageTags,
        repositories: ImageRepositories,
        images: Images,
        files: ImageTagFiles,
        tags: Tags,
        manifests: Manifests,
        derived: DerivedImageSource,
        access: Access,
        memberships: ImageMemberships,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            files: the tags that API V1 wrote.
            tags: the tags that API V2 wrote; they take precedence.
            derived: the images that derive from API V2.
            access: decides from which repositories a manifest of API V2 may be linked.
            memberships: records which repositories have an image.
            now: the clock; returns seconds since the Unix epoch.
        """
        self._driver = driver
        self._image_tags = image_tags
        self._repositories = repositories
        self._images = images
        self._files = files
        self._tags = tags
        self._manifests = manifests
        self._derived = derived
        self._access = access
        self._memberships = memberships
        self._json = TagJson(driver)
        self._now = now

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
                with the change, as for :meth:`.ManifestPushes.put`.

        Returns:
            The previous target; None if the tag did not exist or pointed at the image already.

        Raises:
            ImageUnknown: the image does not exist, or only as one of API V2 that the actor may not pull; or the
                repository is hidden.
            TagImmutable: the tag is immutable and points at another image.
            StorageUnavailable: concurrent pushes of the tag interfered too often; it may point at their target.
        """
        self._image_tags.check_mutable(name, tag, image_id)
        if name.is_hidden or not self._images.exists(image_id, principal=actor.principal):
            raise ImageUnknown(id=str(image_id))
        self._repositories.enter(name)
        if self._memberships.is_maintained:
            self._memberships.record_tagged(name, self._images.ancestry_anywhere(image_id))
        folder = self._repositories.home(name)
        tag_json = json.dumps({"last_update": int(self._now()), **client}, sort_keys=True).encode()
        if self._image_tags.is_immutable(name, tag):
            self._create(name, folder, tag, image_id)
        previous: Target | None = None
        if refuse is not None:
            self._put_unmoved(name, folder, tag, image_id, tag_json, refuse, actor)
        else:
            previous = self._put_any(name, folder, tag, image_id, tag_json, actor)
        events.announce(events.tag_created, self._driver, actor, name=name, tag=tag)
        return previous

    def _put_any(
        self, name: ImageRepositoryName, folder: str, tag: Tag, image_id: ImageId, tag_json: bytes, actor: Actor
    ) -> Target | None:
        """Set a tag, wherever it points; return the previous target."""
        previous: Target | None = None
        with self._locked(name, tag):
            for _ in range(_MAX_ATTEMPTS):
                previous = self._write(name, folder, tag, image_id, tag_json, actor) or previous
                if self._is_consistent(name, folder, tag, image_id, tag_json, actor):
                    return previous
        raise StorageUnavailable("Too many pushes to one tag at once.", name=str(name), tag=str(tag))

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
                if self.points_elsewhere(name, tag, image_id):
                    refuse()
                try:
                    self._create(name, folder, tag, image_id)
                    break
                except TagImmutable:  # it exists by now, or another request is creating it
                    if self._image_tags.find(name, tag) == image_id:
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

    def points_elsewhere(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId) -> bool:
        """Return whether a tag exists and points at something else than an image."""
        current = self._image_tags.find(name, tag)
        if current is not None:
            return current != image_id
        return any(self._tags.links.find(repository, tag) is not None for repository in oci_repositories(name))

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
            linked = self._tags.links.find(repository, tag)
            # The link may name another manifest of the same image, which was kept.
            is_kept = origin is not None and linked != origin[1] and self._is_linked(repository, tag, image_id)
            written.append(is_kept or linked == (None if origin is None else origin[1]))
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

    def _is_linked(self, repository: RepositoryName | None, tag: Tag, image_id: ImageId) -> bool:
        return repository is not None and self._image_tags.find_linked(repository, tag) == image_id
