"""
Private repositories of API V1: the access policy of a registry without users.

A repository is private if its directory contains the file ``_private``. Each private repository also has an entry in
one flat directory, so that requests need no search. Images do not belong to repositories: an image that only private
repositories have is marked with ``images/<id>/_private``. Its layer has an entry of its own, because the layer is a
blob as well. An image derived from API V2 is as visible as the V2 repositories that have its layer. Trees of old
servers have neither entries nor marks; :meth:`PrivateRepositories.adopt` creates them before the first response.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnknown, NameInvalid, PathNotFound
from docker_registry.registry import events
from docker_registry.registry.access import Action, Repository
from docker_registry.registry.actor import Principal
from docker_registry.registry.bridge import name_mapping
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.tag_files import ImageTagFiles

#: Time for which entries are cached in memory if the driver cannot detect changes of a directory cheaply.
_KEPT_SECONDS: Final = 5.0


class PrivateRepositories:
    """Records which repositories are private, and hides them unless ``serve_private`` is set."""

    def __init__(
        self,
        driver: StorageDriver,
        listings: ListingCache,
        repositories: ImageRepositories,
        tags: ImageTagFiles,
        images: Images,
        derived_images: DerivedImages,
        *,
        serve_private: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            serve_private: serve private repositories to every client.
            now: a monotonic clock; returns seconds.
        """
        self._driver = driver
        self._listings = listings
        self._repositories = repositories
        self._tags = tags
        self._images = images
        self._derived_images = derived_images
        self._serve_private = serve_private
        self._now = now
        self._is_complete = False
        self._kept: tuple[float, Sequence[str]] | None = None
        self._hidden: tuple[Sequence[str], tuple[RepositoryName, ...]] = ((), ())

    # ------------------------------------------------------------------------------------------------ policy

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        return action is not Action.ADMIN and (self._serve_private or not self.is_private(name))

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName]:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        names = () if self._serve_private else self.names()
        if names is not self._hidden[0]:
            self._hidden = (names, tuple(each for name in names for each in _v2_names(name)))
        return self._hidden[1] if names else ()

    def hides_content(self, principal: Principal, digest: Digest) -> bool:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        return self._driver.exists(image_layout.private_layer(digest))

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        if self.is_private(name):
            self._put_missing(image_layout.private_layer(digest))

    def pull_prefixes(self, principal: Principal) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""

    def tag_filter(self, principal: Principal, name: Repository) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""

    def resolve_image(self, image_id: ImageId, *, with_ancestors: bool = False) -> ImageId:
        """
        Return the id of an image, or its hidden form if only private repositories have the image.

        Args:
            with_ancestors: also hide the image if only private repositories have one of its ancestors.
        """
        if self._serve_private or not self.names():
            return image_id
        ids = self._parsed(self._below(image_id)) if with_ancestors else [image_id]
        return replace(image_id, is_hidden=True) if any(map(self.is_private_image, ids)) else image_id

    # ------------------------------------------------------------------------------------------------- state

    def is_private(self, name: Repository) -> bool:
        """Return whether a repository is private, given its name in either API."""
        private = self.names()
        if not private or name.is_hidden:
            return False
        try:
            return _contains(private, str(ImageRepositoryName.parse(str(name))))
        except NameInvalid:  # no repository of API V1 can have that name
            return False

    def is_private_image(self, image_id: ImageId) -> bool:
        """Return whether only private repositories have an image, regardless of ``serve_private``."""
        if not self.names() or self._derived_images.find(image_id, self._is_public) is not None:
            return False
        if self._driver.exists(image_layout.private_image(image_id)):
            return True
        return self._derived_images.is_known(image_id) and not self._driver.exists(image_layout.image_json(image_id))

    def names(self) -> Sequence[str]:
        """Return the API V1 names of all private repositories, sorted."""
        self._is_complete = self._is_complete or self._driver.exists(image_layout.PRIVATE_IS_COMPLETE)
        if not self._is_complete:
            self.adopt()
        if type(self._driver).folder_version is not StorageDriver.folder_version:
            return self._entries()
        if self._kept is None or self._now() - self._kept[0] > _KEPT_SECONDS:
            self._kept = (self._now(), self._entries())
        return self._kept[1]

    def canonical_names(self) -> list[str]:
        """Return the canonical names of all private repositories, sorted: those in V2, or in V1 if V2 has none."""
        names = map(ImageRepositoryName.parse, self.names())
        return sorted(str(name_mapping.repository(name) or name) for name in names)

    def set_private(self, name: ImageRepositoryName, *, private: bool) -> None:
        """Make a repository, which need not exist yet, private or public; do nothing for a hidden name."""
        if name.is_hidden:
            return
        self.names()  # adopts repositories that old servers made private
        if private:
            self._driver.put_content(image_layout.private(self._repositories.home(name)), b"")
            self._driver.put_content(image_layout.private_entry(name), b"")
            self._mark(name)
        else:
            for folder in image_layout.repository_folders(name):
                self._remove(image_layout.private(folder))
            self._remove(image_layout.private_entry(name))
            self._unmark(self._ids(name))
        self._kept = None
        for each in (name, *_v2_names(str(name))):
            events.announce(events.repository_updated, self._driver, name=each)

    def claim(self, name: ImageRepositoryName) -> None:
        """Mark the listed images of a private repository that have not been pushed yet as private."""
        if self.is_private(name):
            for image_id in self._parsed(self._repositories.image_ids(name)):
                if not self._images.exists(image_id):
                    self._driver.put_content(image_layout.private_image(image_id), b"")

    def reveal(self, name: ImageRepositoryName, image_id: ImageId) -> None:
        """Make an image that a public repository has tagged public, with all its ancestors."""
        if self.names() and not self.is_private(name):
            self._unmark(self._images.ancestry_anywhere(image_id))

    def adopt(self) -> int:
        """
        Find all private repositories by walking the tree, rebuild their entries, and mark their images.

        Returns:
            The number of private repositories.
        """
        private = {}
        is_empty = True
        for stat in self._driver.walk(image_layout.REPOSITORIES):
            is_empty = False
            folder, _, file_name = stat.path.rpartition("/")
            name = image_layout.read_repository_folder(folder) if file_name == "_private" else None
            if name is not None:
                private[str(name)] = name
        for name in private.values():
            self._driver.put_content(image_layout.private_entry(name), b"")
        self._kept = None
        for gone in set(self._entries()) - private.keys():
            self._remove(image_layout.private_entry(ImageRepositoryName.parse(gone)))
        self._mark(*private.values())
        if not is_empty:  # walking an empty tree again is cheap, and a read should not write to it
            self._driver.put_content(image_layout.PRIVATE_IS_COMPLETE, b"")
        self._kept = None
        self._is_complete = True
        return len(private)

    # ------------------------------------------------------------------------------------------------- steps

    def _is_public(self, name: RepositoryName) -> bool:
        return not self.is_private(name)

    def _entries(self) -> Sequence[str]:
        return self._listings.names(image_layout.PRIVATE_REPOSITORIES, image_layout.read_private_entry)

    def _mark(self, *names: ImageRepositoryName) -> None:
        """Mark the images of private repositories that no public repository has."""
        candidates = set().union(*map(self._ids, names))
        if not candidates:
            return
        entries = set(self._entries())
        for name in self._repositories.names():
            if str(name) not in entries:
                candidates -= self._ids(name)
        for image_id in self._parsed(candidates):
            self._put_missing(image_layout.private_image(image_id))
            layer = self._images.find_digest(image_id)
            if layer is not None:
                self._put_missing(image_layout.private_layer(layer))

    def _unmark(self, ids: Iterable[str]) -> None:
        for image_id in self._parsed(ids):
            if self._remove(image_layout.private_image(image_id)):
                layer = self._images.find_digest(image_id)
                if layer is not None:
                    self._remove(image_layout.private_layer(layer))

    def _ids(self, name: ImageRepositoryName) -> set[str]:
        """Return the ids of all images of a repository."""
        ids = self._repositories.image_ids(name)
        found = (self._tags.find(name, Tag(tag)) for tag in self._tags.names(name))
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
        for text in ids:
            try:
                found.append(ImageId.parse(text))
            except ImageUnknown:
                continue
        return found

    def _put_missing(self, path: str) -> None:
        if not self._driver.exists(path):
            self._driver.put_content(path, b"")

    def _remove(self, path: str) -> bool:
        try:
            self._driver.remove(path)
        except PathNotFound:
            return False
        return True


def _contains(names: Sequence[str], name: str) -> bool:
    """Return whether a sorted list of names contains a name."""
    position = bisect_left(names, name)
    return position < len(names) and names[position] == name


def _v2_names(name: str) -> list[RepositoryName]:
    """Return the repositories of API V2 that are hidden together with a private repository of API V1."""
    try:
        old = ImageRepositoryName.parse(name)
    except NameInvalid:  # not an entry of this registry
        return []
    return [each for each in (name_mapping.repository(old), name_mapping.fallback(old)) if each is not None]
