"""
Repositories of API V1: their existence, and the lists of images that were pushed to them.

A name with further slashes may have two folders (:mod:`docker_registry.registry.layout`, "Quoting"), which
form one repository. Reads check both; writes go to an existing folder, or else to the one that 0.7.1 would use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import (
    BodyInvalid,
    ImageRepositoryUnknown,
    ImagesUnknown,
    ImageUnknown,
    JsonInvalid,
    LinkBroken,
    PathNotFound,
    PreconditionFailed,
    StorageUnavailable,
    TooLarge,
)
from docker_registry.registry import events, json_scanner, layout, store_removal
from docker_registry.registry.actor import ANONYMOUS_DELETE, ANONYMOUS_PUSH, Actor
from docker_registry.registry.json_scanner import NotAList
from docker_registry.registry.names import ImageId, ImageRepositoryName
from docker_registry.registry.repositories import Catalog
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.resources.memory_budget import JsonBudget
from docker_registry.resources.time_slices import TimeSlices

#: Maximum attempts to update a list that is being changed concurrently.
_MAX_ATTEMPTS: Final = 1000

#: Maximum images of a list. Lists only grow: they record which images were ever pushed to a repository.
MAX_IMAGES: Final = 50_000

#: An image in a list: ``id``, and optionally ``checksum`` and ``Tag``.
_Entry = dict[str, Any]


class ImageRepositories:
    """The repositories of API V1."""

    def __init__(
        self,
        driver: StorageDriver,
        catalog: Catalog,
        json_budget: JsonBudget | None = None,
        *,
        memberships: ImageMemberships | None = None,
        max_images: int = MAX_IMAGES,
    ) -> None:
        """
        Args:
            json_budget: limits the memory for parsing long lists.
            memberships: records which repositories list an image.
            max_images: maximum number of images of a list; pushes that would exceed it are rejected.
        """
        self._max_images = max_images
        self._driver = driver
        self._catalog = catalog
        self._json_budget = json_budget or JsonBudget(TimeSlices())
        self._memberships = memberships

    def exists(self, name: ImageRepositoryName) -> bool:
        """Return whether API V1 has a repository."""
        return bool(self.folders(name))

    def has_content(self, name: ImageRepositoryName) -> bool:
        """Return whether either API has a repository."""
        possible = (name.repository(), name.fallback())
        return self.exists(name) or any(each is not None and self._catalog.has_content(each) for each in possible)

    def check(self, name: ImageRepositoryName) -> None:
        """
        Check that a repository exists.

        Raises:
            ImageRepositoryUnknown: it does not.
        """
        if not self.exists(name):
            raise ImageRepositoryUnknown(name=str(name))

    def folders(self, name: ImageRepositoryName) -> tuple[str, ...]:
        """Return the existing folders of a repository; empty when it does not exist."""
        return tuple(folder for folder in layout.image_repository_folders(name) if self._driver.exists(folder))

    def home(self, name: ImageRepositoryName) -> str:
        """Return the folder for new content of a repository."""
        possible = layout.image_repository_folders(name)
        if len(possible) == 1:
            return possible[0]
        return next((folder for folder in possible if self._driver.exists(folder)), possible[0])

    def list_images(self, name: ImageRepositoryName, others: Iterable[str] = ()) -> bytes:
        """
        Return the list of all images that were ever pushed to a repository, as JSON.

        Args:
            others: the ids of images to append, unless the list has them already.

        Raises:
            ImagesUnknown: the repository has no list, and *others* is empty.
            Overloaded: as for :meth:`put_images`.
        """
        with self._lists(name) as lists:
            ids = dict.fromkeys(others)
            known = self._ids(lists) if ids else set()
            added = [{"id": image_id} for image_id in ids if image_id not in known]
            if not lists and not added:
                raise ImagesUnknown(name=str(name))
            return lists[0] if len(lists) == 1 and not added else self._merged(*reversed(lists), others=added)

    def image_ids(self, name: ImageRepositoryName) -> set[str]:
        """Return the ids in the list of :meth:`list_images`; empty when the repository does not exist."""
        with self._lists(name) as lists:
            return self._ids(lists)

    def put_images(self, name: ImageRepositoryName, payload: bytes, *, actor: Actor = ANONYMOUS_PUSH) -> None:
        """
        Add images to a repository's list, creating the repository if necessary.

        The first list is stored byte for byte. After that, a new checksum replaces the stored one of that image, and an
        entry without a checksum keeps it. A hidden repository is not changed.

        Args:
            payload: JSON list of ``{"id": …, "checksum": …}``.

        Raises:
            JsonInvalid: *payload* is not JSON.
            BodyInvalid: *payload* is not such a list.
            TooLarge: the list would exceed the maximum length.
            Overloaded: other requests use up the worker's memory budget for long lists.
            StorageUnavailable: too many concurrent changes of the list.
        """
        with self._lists(name, payload) as lists:
            self._put_images(name, payload, lists, actor)

    def _put_images(self, name: ImageRepositoryName, payload: bytes, lists: Sequence[bytes], actor: Actor) -> None:
        entries = self._parse(payload)
        known = self._ids(lists)
        added = [entry["id"] for entry in self._json_budget.pace(entries) if entry["id"] not in known]
        if added:
            self._check_count(known.union(added))
        if name.is_hidden:
            return
        if self._memberships is not None and added:
            self._memberships.record_listed(name, dict.fromkeys(added), actor.principal)
        self.enter(name)
        repository = name.repository()
        for _ in range(_MAX_ATTEMPTS):
            folder = self.home(name)
            stored = self._stored(folder)
            content = payload if stored.version == ABSENT else self._merged(stored.content, others=entries)
            condition = stored.version if self._driver.capabilities.if_match else None
            try:
                if content != stored.content:
                    self._driver.put_content(image_layout.index_images(folder), content, if_match=condition)
            except PreconditionFailed:  # changed by a concurrent push
                continue
            is_new = stored.version == ABSENT
            signal = events.repository_created if is_new else events.repository_updated
            events.announce(signal, self._driver, actor, name=name)
            if is_new and str(repository or name) != str(name):  # V2 may have had it already, under its own name
                events.announce(events.repository_updated, self._driver, actor, name=repository)
            return
        raise StorageUnavailable("Too many pushes to one repository at once.", name=str(name))

    def enter(self, name: ImageRepositoryName) -> None:
        """Add a repository to the catalog of API V2; call this before writing its first file."""
        repository = name.repository()
        if repository is not None:
            self._catalog.enter(repository)

    def delete(self, name: ImageRepositoryName, *, actor: Actor = ANONYMOUS_DELETE) -> None:
        """
        Delete the V1 part of a repository; its images are kept.

        A private repository stays private if API V2 has content in it.

        Raises:
            ImageRepositoryUnknown: API V1 does not have the repository.
        """
        if self._memberships is not None:
            self._memberships.forget(name)
        removed = [store_removal.remove(self._driver, folder) for folder in layout.image_repository_folders(name)]
        if not any(removed):
            raise ImageRepositoryUnknown(name=str(name))
        repository = name.repository()
        possible = (repository, name.fallback())
        if any(each is not None and self._catalog.has_content(each) for each in possible):
            if self._driver.exists(layout.private_entry(name)):
                self._driver.put_content(layout.private_mark(self.home(name)), b"")
        else:
            store_removal.remove(self._driver, layout.private_entry(name))
        if repository is not None:
            self._catalog.leave(repository)
        events.announce(events.repository_deleted, self._driver, actor, name=name)

    def names(self) -> Iterator[ImageRepositoryName]:
        """
        Yield all repositories; needs one folder listing for each namespace.

        Raises:
            LinkBroken: a namespace is a broken symbolic link; raised after all other repositories were yielded.
        """
        broken = None
        for namespace in self._list(layout.IMAGE_REPOSITORIES):
            try:
                paths = self._json_budget.pace(self._list(namespace))
            except LinkBroken as error:
                broken = error
                continue
            found = {layout.read_image_repository_folder(path): None for path in paths}
            yield from (name for name in found if name is not None)
        if broken is not None:
            raise broken

    # ------------------------------------------------------------------------------------------------- steps

    @contextmanager
    def _lists(self, name: ImageRepositoryName, payload: bytes = b"") -> Iterator[list[bytes]]:
        """
        Yield the stored lists of a repository, while memory is reserved to parse them together with *payload*.

        The memory is reserved before the lists are read, so that waiting requests do not hold them.
        """
        folders = layout.image_repository_folders(name)
        sizes = self._driver.find_sizes([image_layout.index_images(folder) for folder in folders])
        with self._json_budget.reserve_bytes(len(payload) + sum(size or 0 for size in sizes)):
            found = [self._stored(folder) for folder, size in zip(folders, sizes, strict=True) if size is not None]
            yield [stored.content for stored in found if stored.version != ABSENT]

    def _parse(self, payload: bytes) -> list[_Entry]:
        """Parse and validate a list sent by a client."""
        entries = []
        try:
            for entry in self._json_budget.pace(json_scanner.scan_list(payload.decode("utf-8"))):
                if not _is_entry(entry):
                    raise BodyInvalid
                entries.append(entry)
                self._check_count(entries)
        except NotAList:
            raise BodyInvalid from None
        except (ValueError, RecursionError):  # not UTF-8, not JSON, nested too deeply, or a number with too many digits
            raise JsonInvalid from None
        return entries

    def _check_count(self, images: Sized) -> None:
        if len(images) > self._max_images:
            raise TooLarge("The list of the repository's images is too long.", max_images=self._max_images)

    def _ids(self, lists: Iterable[bytes]) -> set[str]:
        return {entry["id"] for content in lists for entry in self._read(content)}

    def _read(self, content: bytes) -> Iterator[_Entry]:
        """Parse a stored list and skip invalid entries, so that a damaged file does not block the repository."""
        try:
            for entry in self._json_budget.pace(json_scanner.scan_list(content.decode("utf-8"))):
                if _is_entry(entry):
                    yield entry
        except (ValueError, RecursionError):
            return

    def _merged(self, *stored: bytes, others: Sequence[_Entry] = ()) -> bytes:
        """Merge lists by image id: each image once, in the order of its first occurrence."""
        merged: dict[str, _Entry] = {}
        for entry in chain(*map(self._read, stored), self._json_budget.pace(others)):
            known = merged.setdefault(entry["id"], {"id": entry["id"]})
            if entry.get("checksum"):
                known["checksum"] = entry["checksum"]
        # json.dumps of the whole list could not yield to other requests, so each entry is encoded separately.
        written = [json.dumps(entry, sort_keys=True) for entry in self._json_budget.pace(merged.values())]
        return f"[{', '.join(written)}]".encode()

    def _stored(self, folder: str) -> Versioned:
        return self._driver.find_versioned(image_layout.index_images(folder)) or Versioned(b"", ABSENT)

    def _list(self, folder: str) -> Sequence[str]:
        try:
            return self._json_budget.sort(self._driver.list_directory(folder))
        except PathNotFound:
            return ()


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return False
    try:
        ImageId.parse(entry["id"])
    except ImageUnknown:
        return False
    return isinstance(entry.get("checksum", ""), str)
