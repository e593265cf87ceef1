"""
Private images of API V1: making repositories private, and hiding the images that only private repositories have.

Images do not belong to repositories: an image that only private repositories have is marked with
``images/<id>/_private``. Its layer has an entry of its own, because the layer is a blob as well. An image derived from
API V2 is as visible as the V2 repositories that have its layer. Trees of old servers have no marks;
:meth:`.PrivateRepositories.adopt` creates them before the first response.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnknown, LinkBroken
from docker_registry.registry import events, layout, store_removal
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS, ANONYMOUS_PUSH, Actor, Principal
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.private_repositories import PrivateRepositories, oci_names
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import DerivedImageSource
from docker_registry.registry.v1.tag_files import ImageTagFiles

logger = logging.getLogger(__name__)


class PrivateImages:
    """Makes repositories private or public, and hides the images of private ones."""

    def __init__(
        self,
        driver: StorageDriver,
        private: PrivateRepositories,
        repositories: ImageRepositories,
        tags: ImageTagFiles,
        images: Images,
        derived: DerivedImageSource,
        access: Access,
        memberships: ImageMemberships,
    ) -> None:
        """
        Args:
            private: knows which repositories are private.
            derived: the images that derive from API V2.
            access: says whether anything is hidden from a principal.
            memberships: decides about images in a registry with access control.
        """
        self._driver = driver
        self._private = private
        self._repositories = repositories
        self._tags = tags
        self._images = images
        self._derived = derived
        self._access = access
        self._memberships = memberships
        private.mark_images = self._mark
        memberships.ids_of = self._ids
        self._pace = private.pace

    def hide_unless_visible(
        self, image_id: ImageId, *, principal: Principal = ANONYMOUS, with_ancestors: bool = False
    ) -> ImageId:
        """
        Return the id of an image, or its hidden form if the client may not see the image.

        Without access control, it may not if only private repositories have the image; with access control, unless it
        may pull from a repository that has the image.

        Args:
            principal: images are hidden from it unless it may pull from all repositories.
            with_ancestors: also hide the image if one of its ancestors must be hidden.
        """
        if self._access.policy.may_pull_all(principal):
            return image_id
        ids = self._parsed(self._below(image_id)) if with_ancestors else [image_id]
        return replace(image_id, is_hidden=True) if any(self._is_hidden(each, principal) for each in ids) else image_id

    def _is_hidden(self, image_id: ImageId, principal: Principal) -> bool:
        if self._memberships.is_maintained:
            return not self._memberships.may_pull(principal, image_id)
        return self.is_private_image(image_id)

    def is_private_image(self, image_id: ImageId) -> bool:
        """Return whether only private repositories have an image, regardless of ``serve_private``."""
        if (
            not self._private.names()
            or self._derived.find(image_id, lambda name: not self._private.is_private(name)) is not None
        ):
            return False
        if self._driver.exists(image_layout.private_image(image_id)):
            return True
        return self._derived.is_known(image_id) and not self._driver.exists(image_layout.image_json(image_id))

    def set_private(self, name: ImageRepositoryName, *, private: bool, actor: Actor = ANONYMOUS_PUSH) -> None:
        """Make a repository, which need not exist yet, private or public; do nothing for a hidden name."""
        if name.is_hidden:
            return
        self._private.names()  # adopts repositories that old servers made private
        if private:
            self._driver.put_content(layout.private_mark(self._repositories.home(name)), b"")
            self._driver.put_content(layout.private_entry(name), b"")
            self._mark([name])
        else:
            for folder in layout.image_repository_folders(name):
                store_removal.remove(self._driver, layout.private_mark(folder))
            store_removal.remove(self._driver, layout.private_entry(name))
            self._unmark(self._ids(name))
        self._private.forget()
        for each in (name, *oci_names(str(name))):
            events.announce(events.repository_updated, self._driver, actor, name=each)

    def mark_listed(self, name: ImageRepositoryName, *, actor: Actor = ANONYMOUS_PUSH) -> None:
        """Mark the listed images of a private repository that have not been pushed yet as private."""
        if self._private.is_private(name):
            for image_id in self._pace(self._parsed(self._repositories.image_ids(name))):
                if not self._images.exists(image_id):
                    self._driver.put_content(image_layout.private_image(image_id), b"")
                    logger.debug("image %s was made private with %s by %s", image_id, name, actor)

    def publish_tagged(self, name: ImageRepositoryName, image_id: ImageId, *, actor: Actor = ANONYMOUS_PUSH) -> None:
        """Make an image that a public repository has tagged public, with all its ancestors."""
        if self._private.names() and not self._private.is_private(name):
            self._unmark(self._images.ancestry_anywhere(image_id))
            logger.debug("image %s was made public with %s by %s", image_id, name, actor)

    # ------------------------------------------------------------------------------------------------- steps

    def _mark(self, names: Iterable[ImageRepositoryName]) -> None:
        """Mark the images of private repositories that no public repository has."""
        candidates = set().union(*map(self._ids, names))
        if not candidates:
            return
        entries = set(self._private.read_entries())
        with suppress(LinkBroken):  # the repositories behind it cannot be served
            for name in self._pace(self._repositories.names()):
                if str(name) not in entries:
                    candidates -= self._ids(name)
        for image_id in self._pace(self._parsed(candidates)):
            self._put_missing(image_layout.private_image(image_id))
            layer = self._images.find_digest(image_id)
            if layer is not None:
                self._put_missing(layout.private_layer(layer))

    def _unmark(self, ids: Iterable[str]) -> None:
        for image_id in self._pace(self._parsed(ids)):
            if store_removal.remove(self._driver, image_layout.private_image(image_id)):
                layer = self._images.find_digest(image_id)
                if layer is not None:
                    store_removal.remove(self._driver, layout.private_layer(layer))

    def _find(self, name: ImageRepositoryName, tag: Tag) -> ImageId | None:
        try:
            return self._tags.find(name, tag)
        except LinkBroken:
            return None

    def _ids(self, name: ImageRepositoryName) -> set[str]:
        """Return the ids of all images of a repository, except those that only broken symbolic links lead to."""
        ids = set[str]()
        with suppress(LinkBroken):
            ids = self._repositories.image_ids(name)
        found = (self._find(name, Tag(tag)) for tag in self._pace(self._tags.names(name)))
        tagged = {str(image_id) for image_id in found if image_id is not None}
        for image_id in self._parsed(tagged - ids):  # lists of images already contain the ancestors
            ids.update(self._below(image_id))
        return ids

    def _below(self, image_id: ImageId) -> Sequence[str]:
        try:
            return self._images.ancestry_anywhere(image_id)
        except ImageUnknown:
            return (str(image_id),)

    def _parsed(self, ids: Iterable[str]) -> list[ImageId]:
        found = []
        for text in self._pace(ids):
            try:
                found.append(ImageId.parse(text))
            except ImageUnknown:
                continue
        return found

    def _put_missing(self, path: str) -> None:
        if not self._driver.exists(path):
            self._driver.put_content(path, b"")
