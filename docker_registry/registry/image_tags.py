"""Tags of API V1: names that a repository gives to its images, each with a note of who pushed it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageTagUnknown, ImageUnknown, PathNotFound, TagImmutable
from docker_registry.registry import events, image_layout
from docker_registry.registry.image_repositories import ImageRepositories
from docker_registry.registry.images import Images
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.tags import is_named

LATEST: Final = Tag("latest")

#: What is told of a tag of which nothing is known.
_NOTHING_KNOWN: Final[Mapping[str, str | None]] = {
    "last_update": None,
    "docker_version": None,
    "docker_go_version": None,
    "arch": "amd64",
    "os": "linux",
    "kernel": None,
}


class ImageTags:
    """All tags of API V1."""

    def __init__(
        self,
        driver: StorageDriver,
        repositories: ImageRepositories,
        images: Images,
        *,
        immutable: Sequence[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            immutable: patterns of tags that never change; see :class:`~docker_registry.registry.tags.Tags`.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._repositories = repositories
        self._images = images
        self._immutable = immutable
        self._now = now

    def list(self, name: ImageRepositoryName) -> dict[str, str]:
        """
        Return all tags of a repository and the images that they name.

        Raises:
            ImageRepositoryUnknown: there is no such repository.
        """
        self._repositories.check(name)
        found: dict[str, str] = {}
        for tag in sorted({tag.value for folder in self._repositories.folders(name) for tag in self._tags(folder)}):
            try:
                found[tag] = str(self.get(name, Tag(tag)))
            except ImageTagUnknown:  # deleted just now, or damaged
                continue
        return found

    def get(self, name: ImageRepositoryName, tag: Tag) -> ImageId:
        """
        Return the image that a tag names.

        Raises:
            ImageTagUnknown: there is no such tag.
        """
        for folder in image_layout.repository_folders(name):
            try:
                return ImageId.parse(self._driver.get_content(image_layout.tag(folder, tag)).decode().strip())
            except (PathNotFound, ImageUnknown, UnicodeDecodeError):
                continue
        raise ImageTagUnknown(name=str(name), tag=str(tag))

    def put(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId, client: Mapping[str, str]) -> None:
        """
        Let a tag name an image.

        Args:
            client: what is known of who pushes: ``docker_version``, ``docker_go_version``, ``arch``, ``os``,
                ``kernel``.

        Raises:
            ImageUnknown: there is no such image.
            TagImmutable: it names another one, and may not change.
        """
        self._check_mutable(name, tag, image_id)
        if not self._images.exists(image_id):
            raise ImageUnknown(id=str(image_id))
        folder = self._repositories.home(name)
        note = json.dumps({"last_update": int(self._now()), **client}, sort_keys=True).encode()
        for path in self._notes(folder, tag):
            self._driver.put_content(path, note)
        self._driver.put_content(image_layout.tag(folder, tag), str(image_id).encode())
        events.announce(events.tag_created, self._driver, name=name, tag=tag)

    def delete(self, name: ImageRepositoryName, tag: Tag) -> None:
        """
        Forget a tag.

        Raises:
            ImageTagUnknown: there is no such tag.
            TagImmutable: it may not be deleted.
        """
        self._check_mutable(name, tag, None)
        folders = image_layout.repository_folders(name)
        removed = [self._remove(image_layout.tag(folder, tag)) for folder in folders]
        if not any(removed):
            raise ImageTagUnknown(name=str(name), tag=str(tag))
        for folder in folders:
            for path in self._notes(folder, tag):
                self._remove(path)
        events.announce(events.tag_deleted, self._driver, name=name, tag=tag)

    def get_note(self, name: ImageRepositoryName, tag: Tag) -> dict[str, Any]:
        """
        Return what is known of who pushed a tag.

        Raises:
            ImageTagUnknown: there is no such tag.
        """
        self.get(name, tag)
        return self._read_note(image_layout.tag_json(folder, tag) for folder in image_layout.repository_folders(name))

    def get_repository_note(self, name: ImageRepositoryName) -> dict[str, Any]:
        """Return what is known of who pushed the tag latest, whether or not there is one."""
        return self._read_note(image_layout.repository_json(folder) for folder in image_layout.repository_folders(name))

    # ------------------------------------------------------------------------------------------------- steps

    def _tags(self, folder: str) -> Iterator[Tag]:
        try:
            paths = self._driver.list_directory(folder)
        except PathNotFound:
            return
        yield from (tag for path in paths if (tag := image_layout.read_tag(path)) is not None)

    def _notes(self, folder: str, tag: Tag) -> Iterator[str]:
        """Yield the paths under which a tag's meta-data lies."""
        path = image_layout.tag_json(folder, tag)
        if path is not None:
            yield path
        if tag == LATEST:
            yield image_layout.repository_json(folder)

    def _read_note(self, paths: Iterator[str | None]) -> dict[str, Any]:
        for path in paths:
            try:
                note = json.loads(self._driver.get_content(path)) if path else None
            except (PathNotFound, ValueError):
                continue
            if isinstance(note, dict):
                return note
        return dict(_NOTHING_KNOWN)

    def _check_mutable(self, name: ImageRepositoryName, tag: Tag, image_id: ImageId | None) -> None:
        """Refuse to let an immutable tag name another image, or none."""
        if not is_named(self._immutable, str(name), tag):
            return
        try:
            current = self.get(name, tag)
        except ImageTagUnknown:
            return
        if current != image_id:
            raise TagImmutable(name=str(name), tag=str(tag))

    def _remove(self, path: str) -> bool:
        try:
            self._driver.remove(path)
        except PathNotFound:
            return False
        return True
