"""
Who may see what. The registry has no users yet: everybody may see everything but what a private repository has.

A repository of API V1 is private when it has the file ``_private``. All that are have an entry in one flat folder as
well, so that a request costs no search. An image belongs to no repository; one that only private repositories have is
marked with ``images/<id>/_private``, all others are public. (An image that follows from API V2 is as visible as the
repositories of V2 that it is known to come from.) Trees of old servers have neither entries nor marks:
:meth:`Visibility.adopt` makes them, before the first answer.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImageUnknown,
    NameInvalid,
    NameUnknown,
    PathNotFound,
)
from docker_registry.registry import events
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.listings import Listings
from docker_registry.registry.names import ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.tag_files import ImageTagFiles

#: How long entries are remembered where the store cannot tell cheaply whether there are others.
_REMEMBERED_SECONDS: Final = 5.0


class Visibility:
    """Decides who may see a repository or an image; the one place for that."""

    def __init__(
        self,
        driver: StorageDriver,
        listings: Listings,
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
            serve_private: let everybody see what is private.
            now: a clock in seconds that never goes back.
        """
        self._driver = driver
        self._listings = listings
        self._repositories = repositories
        self._tags = tags
        self._images = images
        self._derived_images = derived_images
        self._now = now
        self._is_whole = False
        self._remembered: tuple[float, Sequence[str]] | None = None
        self.serve_private = serve_private

    def check(self, subject: object) -> None:
        """
        Refuse what nobody may see, as if it were not there.

        Args:
            subject: a repository's name in API V1 or V2, or an image's id; anything else may be seen.

        Raises:
            ImageRepositoryUnknown, NameUnknown, ImageUnknown: it may not be seen.
        """
        if self.serve_private:
            return
        if isinstance(subject, ImageRepositoryName) and self.is_private(subject):
            raise ImageRepositoryUnknown(name=str(subject))
        if isinstance(subject, RepositoryName) and not self.may_see(subject):
            raise NameUnknown(name=str(subject))
        if isinstance(subject, ImageId) and self.is_private_image(subject):
            raise ImageUnknown(id=str(subject))

    def check_private(self, image_id: ImageId) -> None:
        """
        Raises:
            ImageUnknown: a public repository has the image, or none has.
        """
        if not self.is_private_image(image_id):
            raise ImageUnknown(id=str(image_id))

    def may_see(self, name: RepositoryName) -> bool:
        """Tell whether a repository of API V2 may be seen: the one of API V1 with that name is not private."""
        if self.serve_private:
            return True
        private = self.private_names()
        if not private:
            return True
        try:
            return not _holds(private, ImageRepositoryName.parse(str(name)))
        except NameInvalid:  # no repository of API V1 can have that name
            return True

    def is_private(self, name: ImageRepositoryName) -> bool:
        """Tell whether a repository is private."""
        return _holds(self.private_names(), name)

    def is_private_image(self, image_id: ImageId) -> bool:
        """Tell whether only private repositories have an image."""
        if not self.private_names():
            return False
        origins = {name for name, _ in self._derived_images.origins(image_id)}
        if origins:
            return not any(map(self.may_see, origins))
        return self._driver.exists(image_layout.private_image(image_id))

    def private_names(self) -> Sequence[str]:
        """Return the names of all private repositories, in order."""
        self._is_whole = self._is_whole or self._driver.exists(image_layout.PRIVATE_IS_WHOLE)
        if not self._is_whole:
            self.adopt()
        if type(self._driver).folder_version is not StorageDriver.folder_version:
            return self._entries()
        if self._remembered is None or self._now() - self._remembered[0] > _REMEMBERED_SECONDS:
            self._remembered = (self._now(), self._entries())
        return self._remembered[1]

    def set_private(self, name: ImageRepositoryName, *, private: bool) -> None:
        """Make a repository private, or public; it need not be there yet."""
        self.private_names()  # whatever was private before is known
        if private:
            self._driver.put_content(image_layout.private(self._repositories.home(name)), b"")
            self._driver.put_content(image_layout.private_entry(name), b"")
            self._mark(name)
        else:
            for folder in image_layout.repository_folders(name):
                self._remove(image_layout.private(folder))
            self._remove(image_layout.private_entry(name))
            self._unmark(self._ids(name))
        self._remembered = None
        events.announce(events.repository_updated, self._driver, name=name)

    def claim(self, name: ImageRepositoryName) -> None:
        """Say that the images which a private repository lists, and which are not here yet, are its own."""
        if self.is_private(name):
            for image_id in self._parsed(self._repositories.image_ids(name)):
                if not self._images.exists(image_id):
                    self._driver.put_content(image_layout.private_image(image_id), b"")

    def reveal(self, name: ImageRepositoryName, image_id: ImageId) -> None:
        """Say that a public repository has an image, and all below it."""
        if self.private_names() and not self.is_private(name):
            self._unmark(self._images.ancestry(image_id))

    def adopt(self) -> int:
        """
        Find all private repositories by a walk through the tree, and mark their images.

        Returns:
            How many there are.
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
        self._remembered = None
        for gone in set(self._entries()) - private.keys():
            self._remove(image_layout.private_entry(ImageRepositoryName.parse(gone)))
        self._mark(*private.values())
        if not is_empty:  # to look again costs nothing, and looking alone should leave no trace
            self._driver.put_content(image_layout.PRIVATE_IS_WHOLE, b"")
        self._remembered = None
        self._is_whole = True
        return len(private)

    # ------------------------------------------------------------------------------------------------- steps

    def _entries(self) -> Sequence[str]:
        return self._listings.names(image_layout.PRIVATE_REPOSITORIES, image_layout.read_private_entry)

    def _mark(self, *names: ImageRepositoryName) -> None:
        """Mark the images of private repositories that no public one has."""
        candidates = set().union(*map(self._ids, names))
        if not candidates:
            return
        entries = set(self._entries())
        for name in self._repositories.names():
            if str(name) not in entries:
                candidates -= self._ids(name)
        for image_id in self._parsed(candidates):
            if not self._driver.exists(image_layout.private_image(image_id)):
                self._driver.put_content(image_layout.private_image(image_id), b"")

    def _unmark(self, ids: Iterable[str]) -> None:
        for image_id in self._parsed(ids):
            self._remove(image_layout.private_image(image_id))

    def _ids(self, name: ImageRepositoryName) -> set[str]:
        """Return the ids of all images that a repository has."""
        ids = self._repositories.image_ids(name)
        found = (self._tags.find(name, Tag(tag)) for tag in self._tags.names(name))
        tagged = {str(image_id) for image_id in found if image_id is not None}
        for image_id in self._parsed(tagged - ids):  # clients list all images of a push, below the tagged one too
            ids.update(self._below(image_id))
        return ids

    def _below(self, image_id: ImageId) -> Sequence[str]:
        try:
            return self._images.ancestry(image_id)
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

    def _remove(self, path: str) -> None:
        try:
            self._driver.remove(path)
        except PathNotFound:
            pass


def _holds(names: Sequence[str], name: ImageRepositoryName) -> bool:
    """Tell whether a name is among others, which are in order."""
    position = bisect_left(names, str(name))
    return position < len(names) and names[position] == str(name)
