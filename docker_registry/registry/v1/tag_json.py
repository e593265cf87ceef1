"""The JSON of tags of API V1: when and by which client a tag was set. That of ``latest`` is also its repository's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import ImageRepositoryName, Tag
from docker_registry.registry.v1 import image_layout

LATEST: Final = Tag("latest")

#: The JSON of a tag for which none is stored.
UNKNOWN_CLIENT: Final[Mapping[str, str | None]] = {
    "last_update": None,
    "docker_version": None,
    "docker_go_version": None,
    "arch": "amd64",
    "os": "linux",
    "kernel": None,
}


class TagJson:
    """The JSON of all tags."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def put(self, folder: str, tag: Tag, content: bytes) -> None:
        """Write the JSON of a tag into one of the folders of its repository."""
        for path in _paths(folder, tag):
            self._driver.put_content(path, content)

    def contents(self, folder: str, tag: Tag) -> Iterator[bytes | None]:
        """Yield the content of each file that :meth:`put` writes, with its removal mark; None for a missing file."""
        for path in _paths(folder, tag):
            yield self._driver.find(path)

    def remove(self, name: ImageRepositoryName, tag: Tag, holds: Callable[[], bool]) -> None:
        """Remove the JSON of a tag while a condition holds; see :func:`.store_removal.take_while`."""
        for folder in layout.image_repository_folders(name):
            for path in _paths(folder, tag):
                store_removal.take_while(self._driver, path, holds)

    def get(self, name: ImageRepositoryName, tag: Tag) -> dict[str, Any]:
        """Return the JSON of a tag."""
        return self._read(image_layout.tag_json(folder, tag) for folder in layout.image_repository_folders(name))

    def get_latest(self, name: ImageRepositoryName) -> dict[str, Any]:
        """Return the JSON of a repository: that of its tag ``latest``, whether or not the tag exists."""
        return self._read(image_layout.repository_json(folder) for folder in layout.image_repository_folders(name))

    def _read(self, paths: Iterator[str | None]) -> dict[str, Any]:
        for path in paths:
            try:
                document = json.loads(store_removal.unmarked(self._driver.get_content(path))) if path else None
            except (PathNotFound, ValueError):
                continue
            if isinstance(document, dict):
                return document
        return dict(UNKNOWN_CLIENT)


def _paths(folder: str, tag: Tag) -> Iterator[str]:
    """Yield the paths of the JSON of a tag."""
    path = image_layout.tag_json(folder, tag)
    if path is not None:
        yield path
    if tag == LATEST:
        yield image_layout.repository_json(folder)
