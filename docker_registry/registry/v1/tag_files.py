"""The files that store the tags of API V1, including tags that are shadowed by tags of API V2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnknown
from docker_registry.registry import layout, store_removal, tag_links
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.v1 import image_layout


class ImageTagFiles:
    """
    Stores a file for each tag, in one of a repository's two possible folders (:mod:`~docker_registry.registry.layout`).

    Attributes:
        pace: wraps an iterable of tags so that a long loop over it yields to other requests.
    """

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings
        self.pace = listings.pace

    def find(self, name: ImageRepositoryName, tag: Tag) -> ImageId | None:
        """Return the image that a tag points at; None when it has no readable file."""
        for folder in layout.image_repository_folders(name):
            content = self._driver.find(image_layout.tag(folder, tag))
            image_id = None if content is None else _parse(content)
            if image_id is not None:
                return image_id
        return None

    def names(self, name: ImageRepositoryName) -> Sequence[str]:
        """Return the names of all tags, in ASCII order."""
        lists = [self._listings.names(folder, _read) for folder in layout.image_repository_folders(name)]
        found = [tags for tags in lists if tags]
        return found[0] if len(found) == 1 else sorted(set().union(*found))

    def put(self, folder: str, tag: Tag, image_id: ImageId) -> ImageId | None:
        """Set a tag by compare-and-swap, in one of the repository's folders; return the image that it pointed at."""
        previous = tag_links.put(self._driver, image_layout.tag(folder, tag), str(image_id).encode())
        return None if previous is None else _parse(previous)

    def create(self, folder: str, tag: Tag, image_id: ImageId) -> bool:
        """Create a tag in one of the repository's folders; return False and write nothing if its file exists there."""
        return tag_links.create(self._driver, image_layout.tag(folder, tag), str(image_id).encode())

    def take_back(self, folder: str, tag: Tag, image_id: ImageId) -> None:
        """Remove a tag's file in one of the repository's folders if it still points at an image."""
        expected = str(image_id).encode()
        path = image_layout.tag(folder, tag)
        tag_links.take(self._driver, path, lambda content: content.strip() == expected)

    def take(
        self, name: ImageRepositoryName, tag: Tag, holds: Callable[[], bool] | None = None
    ) -> tuple[bool, ImageId | None]:
        """
        Remove a tag's file.

        Args:
            holds: remove the file only while this returns True; see :func:`.store_removal.take_while`.

        Returns:
            Whether a file was removed, and the image that the tag pointed at; None if the file was damaged.
        """
        paths = [image_layout.tag(folder, tag) for folder in layout.image_repository_folders(name)]
        taken = [tag_links.take(self._driver, path, lambda _: True, holds) for path in paths]
        contents = [content for content in taken if content is not None]
        return bool(contents), next(filter(None, map(_parse, contents)), None)


def _parse(content: bytes) -> ImageId | None:
    try:
        return ImageId.parse(store_removal.unmarked(content).decode().strip())
    except (ImageUnknown, UnicodeDecodeError):  # damaged
        return None


def _read(file_name: str) -> str | None:
    tag = image_layout.read_tag(file_name)
    return tag.value if tag else None
