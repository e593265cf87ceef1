"""What is known of who pushed a tag by API V1: a JSON file beside the tag, and one more for the tag ``latest``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import conditional_removal, legacy_layout
from docker_registry.registry.names import ImageRepositoryName, Tag
from docker_registry.registry.v1 import image_layout

LATEST: Final = Tag("latest")

#: What is told of a tag of which nothing is known.
NOTHING_KNOWN: Final[Mapping[str, str | None]] = {
    "last_update": None,
    "docker_version": None,
    "docker_go_version": None,
    "arch": "amd64",
    "os": "linux",
    "kernel": None,
}


class ImageTagNotes:
    """The notes of all tags."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def put(self, folder: str, tag: Tag, note: bytes) -> None:
        """Write what is known of a tag, in one of its repository's folders."""
        for path in _paths(folder, tag):
            self._driver.put_content(path, note)

    def contents(self, folder: str, tag: Tag) -> Iterator[bytes | None]:
        """Yield the content of each file that :meth:`put` writes, with the mark of a removal; None where it lacks."""
        for path in _paths(folder, tag):
            yield self._driver.find(path)

    def remove(self, name: ImageRepositoryName, tag: Tag, holds: Callable[[], bool]) -> None:
        """Remove what is known of a tag, while a condition holds; see :func:`.conditional_removal.take_while`."""
        for folder in legacy_layout.repository_folders(name):
            for path in _paths(folder, tag):
                conditional_removal.take_while(self._driver, path, holds)

    def get(self, name: ImageRepositoryName, tag: Tag) -> dict[str, Any]:
        """Return what is known of a tag."""
        return self._read(image_layout.tag_json(folder, tag) for folder in legacy_layout.repository_folders(name))

    def get_latest(self, name: ImageRepositoryName) -> dict[str, Any]:
        """Return what is known of the tag ``latest``, whether or not it exists."""
        return self._read(image_layout.repository_json(folder) for folder in legacy_layout.repository_folders(name))

    def _read(self, paths: Iterator[str | None]) -> dict[str, Any]:
        for path in paths:
            try:
                note = json.loads(conditional_removal.unmarked(self._driver.get_content(path))) if path else None
            except (PathNotFound, ValueError):
                continue
            if isinstance(note, dict):
                return note
        return dict(NOTHING_KNOWN)


def _paths(folder: str, tag: Tag) -> Iterator[str]:
    """Yield the paths under which a tag's note lies."""
    path = image_layout.tag_json(folder, tag)
    if path is not None:
        yield path
    if tag == LATEST:
        yield image_layout.repository_json(folder)
