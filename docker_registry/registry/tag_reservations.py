"""
Reservations of immutable tags that do not exist yet.

Two requests may set the same new tag at the same time; an immutable tag must keep the target of the first. So a request
reserves the tag by writing a mark in place of the missing link, then checks the tag in the sources, and replaces the
mark by the link on the condition that it is still there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PathNotFound, TagImmutable
from docker_registry.registry import layout, store_removal, tag_links
from docker_registry.registry.names import RepositoryName, Tag

#: Age after which a reservation is considered abandoned by a process that died.
_ABANDONED_SECONDS: Final = 60.0


class TagReservations:
    """
    Reserves tags in one store.

    Without conditional writes, several requests may reserve the same tag.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    @contextmanager
    def held(self, name: RepositoryName | None, tag: Tag) -> Iterator[None]:
        """
        Reserve a tag, so that no other request can write it during the block.

        Args:
            name: the repository in API V2; None if V2 has no such repository, in which case nothing is reserved.
                Nothing is reserved either if the driver does not support conditional writes.

        Raises:
            TagImmutable: the tag exists or another request reserves it, or the reservation was lost during the block.
        """
        if name is None or not self._driver.capabilities.if_match:
            yield
            return
        version = self.reserve(name, tag)
        try:
            yield
        except BaseException:
            self.release(name, tag, version)
            raise
        if not self.release(name, tag, version):
            raise TagImmutable(name=str(name), tag=str(tag))

    def reserve(self, name: RepositoryName, tag: Tag) -> str:
        """
        Write a mark in place of the missing link and return its version.

        An abandoned mark is replaced. A request that was only slow then fails on its next conditional operation,
        because the version has changed.

        Raises:
            TagImmutable: the tag exists, or another request reserves it.
        """
        path, mark = layout.tag_link(name, tag), store_removal.new_mark()
        try:
            stored = self._driver.get_versioned(path)
            is_mark = not store_removal.unmarked(stored.content)
            if not is_mark or self._driver.stat(path).modified > time.time() - _ABANDONED_SECONDS:
                raise TagImmutable(name=str(name), tag=str(tag))
            version = stored.version
        except PathNotFound:
            version = ABSENT
        is_written = tag_links.put_version(self._driver, path, mark, version)
        reserved = self._driver.find_versioned(path) if is_written else None
        if reserved is None or reserved.content != mark:
            raise TagImmutable(name=str(name), tag=str(tag))
        return reserved.version

    def release(self, name: RepositoryName, tag: Tag, version: str) -> bool:
        """Remove the mark of :meth:`reserve`; return False if another request has replaced it."""
        return store_removal.remove_version(self._driver, layout.tag_link(name, tag), version)
