"""
Which repositories there are.

Repositories nest in each other's folders, so that finding them all means walking the whole tree. Therefore each also
has an empty file in one flat folder, the catalog, written before the first thing that makes it a repository. What
others wrote into the tree has none: :meth:`Repositories.adopt` walks the tree and adds what is missing, before the
first listing of a tree that never had a catalog and from time to time.

A repository of API V1 is one too, under the name that it has in V2
(:mod:`docker_registry.registry.bridge.paired_names`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import NameInvalid, NameUnknown, PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.access import Access
from docker_registry.registry.bridge import paired_names
from docker_registry.registry.catalog import Catalog
from docker_registry.registry.listings import Page, cut
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.v1.repositories import ImageRepositories

#: A younger entry of the catalog may belong to a repository whose first link is just being written.
_YOUNG_SECONDS: Final = 3600


class Repositories:
    """All repositories: a repository is there as soon as it may read a blob or has a manifest."""

    def __init__(
        self,
        driver: StorageDriver,
        catalog: Catalog,
        image_repositories: ImageRepositories,
        access: Access,
    ) -> None:
        """
        Args:
            access: tells which repositories clients may see.
        """
        self._access = access
        self._driver = driver
        self._catalog = catalog
        self._image_repositories = image_repositories
        self._is_whole = False

    def exists(self, name: RepositoryName) -> bool:
        """Tell whether a repository is there, of whichever API."""
        if self._has_content(name):
            return True
        old_name = paired_names.image_repository(name)
        return old_name is not None and self._image_repositories.exists(old_name)

    def _has_content(self, name: RepositoryName) -> bool:
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))

    def resolve(self, name: RepositoryName) -> RepositoryName:
        """Return the repository that is meant by a name: ``foo`` for ``library/foo`` where only API V1 knows that."""
        if paired_names.short(name) is None or self._has_content(name):
            return name
        return self.find_short(name) or name

    def find_short(self, name: RepositoryName) -> RepositoryName | None:
        """Return ``foo`` for ``library/foo`` where API V1 has that repository; else None."""
        short = paired_names.short(name)
        old_name = paired_names.image_repository(short) if short is not None else None
        return short if old_name is not None and self._image_repositories.exists(old_name) else None

    def check(self, name: RepositoryName) -> None:
        """
        Raises:
            NameUnknown: there is no such repository.
        """
        if not self.exists(name):
            raise NameUnknown(name=str(name))

    def page(self, count: int, last: str = "", *, with_hidden: bool = False) -> Page:
        """
        Return the names of *count* repositories at most, those after *last*, in ASCII order.

        Args:
            with_hidden: also those that clients may not see.
        """
        self._is_whole = self._is_whole or self._driver.exists(layout.CATALOG_IS_WHOLE)
        if not self._is_whole:
            self.adopt()
        names = self._catalog.names()

        def is_listed(name: str) -> bool:
            repository = RepositoryName(name)
            if not with_hidden and not self._access.may_pull(repository):
                return False
            # Where each question is a request, an entry is believed; one that is wrong goes with the next adoption.
            return self._driver.walks_by_pages or self.exists(repository)

        return cut(names, count, last, is_listed, self._catalog.pace)

    def enter(self, name: RepositoryName) -> None:
        """Put a repository into the catalog, before the first thing that makes it one is written."""
        self._catalog.enter(name)

    def adopt(self) -> int:
        """
        Put into the catalog what others wrote into the tree, and take out what they removed; walks every folder of a
        repository's name.

        Returns:
            How many repositories were added.
        """
        entered = set(self._catalog.names())
        added = 0
        for name in self._catalog.pace(chain(self.folders(), self._old_names())):
            if str(name) not in entered and self.exists(name):
                self._catalog.enter(name)
                entered.add(str(name))
                added += 1
        for name in self._catalog.pace(map(RepositoryName, entered)):
            if not self.exists(name):
                self._forget(name)
        if not self._driver.exists(layout.CATALOG_IS_WHOLE):
            self._driver.put_content(layout.CATALOG_IS_WHOLE, b"")
        return added

    def _forget(self, name: RepositoryName) -> None:
        entry = layout.catalog_entry(name)
        try:
            if self._driver.stat(entry).modified < time.time() - _YOUNG_SECONDS:
                self._driver.remove(entry)
        except PathNotFound:  # by another
            pass

    def _old_names(self) -> Iterator[RepositoryName]:
        for old_name in self._image_repositories.names():
            name = paired_names.repository(old_name)
            if name is not None:
                yield name

    def folders(self, path: str = layout.REPOSITORIES) -> Iterator[RepositoryName]:
        """Yield every name under which something lies: repositories, and those that only have unfinished uploads."""
        try:
            children = list(self._driver.list_directory(path))
        except PathNotFound:
            return
        own = any(child.rpartition("/")[2].startswith("_") for child in children)
        name = _parse(path.removeprefix(layout.REPOSITORIES).lstrip("/"))
        if own and name:
            yield name
        for child in children:
            if not child.rpartition("/")[2].startswith("_"):
                yield from self.folders(child)


def _parse(text: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(text)
    except NameInvalid:
        return None
