"""The files that store the tags of API V1, including tags that are shadowed by tags of API V2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import ImageUnknown, PreconditionFailed
from docker_registry.registry import conditional_removal, legacy_layout
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.v1 import image_layout


class ImageTagFiles:
    """
    Stores a file for each tag, in one of a repository's two possible folders (:mod:`.legacy_layout`, "Quoting").

    Attributes:
        pace: wraps an iterable of tags so that a long loop over it yields to other requests.
    """

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings
        self.pace = listings.pace

    def find(self, name: ImageRepositoryName, tag: Tag) -> ImageId | None:
        """Return the image that a tag points at; None when it has no readable file."""
        for folder in legacy_layout.repository_folders(name):
            content = self._driver.find(image_layout.tag(folder, tag))
            if content is None:
                continue
            try:
                return ImageId.parse(conditional_removal.unmarked(content).decode().strip())
            except (ImageUnknown, UnicodeDecodeError):
                continue
        return None

    def names(self, name: ImageRepositoryName) -> Sequence[str]:
        """Return the names of all tags, in ASCII order."""
        lists = [self._listings.names(folder, _read) for folder in legacy_layout.repository_folders(name)]
        found = [tags for tags in lists if tags]
        return found[0] if len(found) == 1 else sorted(set().union(*found))

    def put(self, folder: str, tag: Tag, image_id: ImageId) -> None:
        """Set a tag, in one of the repository's folders."""
        self._driver.put_content(image_layout.tag(folder, tag), str(image_id).encode())

    def create(self, folder: str, tag: Tag, image_id: ImageId) -> bool:
        """Create a tag in one of the repository's folders; return False and write nothing if its file exists there."""
        path, condition = image_layout.tag(folder, tag), ABSENT if self._driver.capabilities.if_match else None
        if condition is None and self._driver.exists(path):
            return False
        try:
            self._driver.put_content(path, str(image_id).encode(), if_match=condition)
        except PreconditionFailed:
            return False
        return True

    def remove(self, name: ImageRepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag's file; return False when none was removed.

        Args:
            holds: remove the file only while this returns True; see :func:`.conditional_removal.take_while`.
        """
        removed = [
            self._remove(image_layout.tag(folder, tag), holds) for folder in legacy_layout.repository_folders(name)
        ]
        return any(removed)

    def _remove(self, path: str, holds: Callable[[], bool] | None) -> bool:
        if holds is None:
            return self._driver.discard(path)
        return conditional_removal.take_while(self._driver, path, holds) is not None


def _read(file_name: str) -> str | None:
    tag = image_layout.read_tag(file_name)
    return tag.value if tag else None
