"""
Repositories of API V1: what was pushed to each, and which there are.

A name with slashes of its own may lie in two folders (:mod:`docker_registry.registry.v1.image_layout`, "Quoting"),
which are one repository: what is read is looked for in both, what is written goes where the repository is, else to the
folder that 0.7.1 would take.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import (
    BodyInvalid,
    ImageRepositoryUnknown,
    ImagesUnknown,
    ImageUnknown,
    JsonInvalid,
    PathNotFound,
    PreconditionFailed,
    StorageUnavailable,
)
from docker_registry.registry import events
from docker_registry.registry.bridge import paired_names
from docker_registry.registry.catalog import Catalog
from docker_registry.registry.names import ImageId, ImageRepositoryName
from docker_registry.registry.v1 import image_layout

#: How often a change of a list is tried while others change it.
_MAX_TRIES: Final = 1000

#: One image of a list: ``id``, and sometimes ``checksum`` and ``Tag``.
_Entry = dict[str, Any]


class ImageRepositories:
    """All repositories of API V1."""

    def __init__(self, driver: StorageDriver, catalog: Catalog) -> None:
        self._driver = driver
        self._catalog = catalog

    def exists(self, name: ImageRepositoryName) -> bool:
        """Tell whether a repository is there."""
        return bool(self.folders(name))

    def check(self, name: ImageRepositoryName) -> None:
        """
        Raises:
            ImageRepositoryUnknown: there is no such repository.
        """
        if not self.exists(name):
            raise ImageRepositoryUnknown(name=str(name))

    def folders(self, name: ImageRepositoryName) -> tuple[str, ...]:
        """Return the folders in which a repository lies; none when it is not there."""
        return tuple(folder for folder in image_layout.repository_folders(name) if self._driver.exists(folder))

    def home(self, name: ImageRepositoryName) -> str:
        """Return the folder to which new content of a repository goes."""
        possible = image_layout.repository_folders(name)
        if len(possible) == 1:
            return possible[0]
        return next((folder for folder in possible if self._driver.exists(folder)), possible[0])

    def list_images(self, name: ImageRepositoryName) -> bytes:
        """
        Return the list of the images that were ever pushed to a repository, as JSON.

        Raises:
            ImagesUnknown: there is none.
        """
        lists = [found.content for folder in self.folders(name) if (found := self._stored(folder)).version != ABSENT]
        if not lists:
            raise ImagesUnknown(name=str(name))
        if len(lists) == 1:
            return lists[0]
        return _dump(_merge(_read(lists[1]), _read(lists[0])))

    def image_ids(self, name: ImageRepositoryName) -> set[str]:
        """Return the ids of that list; none when there is no such repository."""
        try:
            return {entry["id"] for entry in _read(self.list_images(name))}
        except ImagesUnknown:
            return set()

    def put_images(self, name: ImageRepositoryName, payload: bytes) -> None:
        """
        Add images to a repository's list; the first list is kept as it is.

        A checksum replaces the one that is known of that image; an entry without one changes nothing.

        Args:
            payload: JSON list of ``{"id": …, "checksum": …}``.

        Raises:
            JsonInvalid: it is no JSON.
            BodyInvalid: it is no such list.
        """
        entries = _parse(payload)
        self.enter(name)
        repository = paired_names.repository(name)
        for _ in range(_MAX_TRIES):
            folder = self.home(name)
            stored = self._stored(folder)
            content = payload if stored.version == ABSENT else _dump(_merge(_read(stored.content), entries))
            condition = stored.version if self._driver.supports_if_match else None
            try:
                if content != stored.content:
                    self._driver.put_content(image_layout.index_images(folder), content, if_match=condition)
            except PreconditionFailed:  # another push has changed it just now
                continue
            is_new = stored.version == ABSENT
            events.announce(events.repository_created if is_new else events.repository_updated, self._driver, name=name)
            if is_new and str(repository or name) != str(name):  # it may have been there under that name alone
                events.announce(events.repository_updated, self._driver, name=repository)
            return
        raise StorageUnavailable("Too many pushes to one repository at once.", name=str(name))

    def enter(self, name: ImageRepositoryName) -> None:
        """Put a repository into the catalog of API V2, before the first thing that makes it one is written."""
        repository = paired_names.repository(name)
        if repository is not None:
            self._catalog.enter(repository)

    def delete(self, name: ImageRepositoryName) -> None:
        """
        Forget what API V1 wrote of a repository; its images stay.

        Raises:
            ImageRepositoryUnknown: it is not there.
        """
        removed = [self._remove(folder) for folder in image_layout.repository_folders(name)]
        if not any(removed):
            raise ImageRepositoryUnknown(name=str(name))
        self._remove(image_layout.private_entry(name))
        repository = paired_names.repository(name)
        if repository is not None:
            self._catalog.leave(repository)
        events.announce(events.repository_deleted, self._driver, name=name)

    def names(self) -> Iterator[ImageRepositoryName]:
        """Yield every repository; lists one folder for each namespace."""
        for namespace in self._list(image_layout.REPOSITORIES):
            found = {image_layout.read_repository_folder(path): None for path in self._list(namespace)}
            yield from (name for name in found if name is not None)

    # ------------------------------------------------------------------------------------------------- steps

    def _stored(self, folder: str) -> Versioned:
        try:
            return self._driver.get_versioned(image_layout.index_images(folder))
        except PathNotFound:
            return Versioned(b"", ABSENT)

    def _list(self, folder: str) -> Sequence[str]:
        try:
            return sorted(self._driver.list_directory(folder))
        except PathNotFound:
            return ()

    def _remove(self, folder: str) -> bool:
        try:
            self._driver.remove(folder)
        except PathNotFound:
            return False
        return True


def _parse(payload: bytes) -> list[_Entry]:
    """Read a list that a client sends."""
    try:
        entries = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, too deep, or a number beyond reason
        raise JsonInvalid from None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise BodyInvalid
    return entries


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return False
    try:
        ImageId.parse(entry["id"])
    except ImageUnknown:
        return False
    return isinstance(entry.get("checksum", ""), str)


def _read(content: bytes) -> list[_Entry]:
    """Read a stored list; what is no entry is left out, so that one damaged file does not block a repository."""
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        return []
    return [entry for entry in entries if _is_entry(entry)] if isinstance(entries, list) else []


def _merge(stored: Sequence[_Entry], new: Sequence[_Entry]) -> list[_Entry]:
    """Merge two lists by their ids: each image once, in the order in which it came first."""
    merged: dict[str, _Entry] = {}
    for entry in (*stored, *new):
        known = merged.setdefault(entry["id"], {"id": entry["id"]})
        if entry.get("checksum"):
            known["checksum"] = entry["checksum"]
    return list(merged.values())


def _dump(entries: Sequence[_Entry]) -> bytes:
    return json.dumps(entries, sort_keys=True).encode()
