"""
Existence checks for repositories, and their listing.

The folders of repositories nest in each other, so finding all of them requires a walk of the whole tree. Therefore
each repository also has an empty file in one flat folder, the catalog, written before the first link or manifest of
the repository. Repositories that other servers wrote into the tree lack this file: :meth:`Repositories.adopt` walks
the tree and adds them, before the first listing of a tree without a catalog, and periodically.

Repositories of sources (:mod:`docker_registry.registry.sources`) are included, such as those of API V1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import LinkBroken, NameInvalid, NameUnknown, PathNotFound
from docker_registry.registry import layout, store_removal
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.deferred_failures import DeferredFailures
from docker_registry.registry.listing_cache import ListingCache, Page, cut, with_prefixes
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.sources import RepositorySource

logger = logging.getLogger(__name__)

#: Minimum age of a catalog entry that may be removed: a younger one may precede a first link that is being written.
_YOUNG_SECONDS: Final = 3600


class Catalog:
    """
    The names of all repositories, as candidates: an entry may outlive its repository or precede it.

    Attributes:
        pace: wraps an iterable of names so that a long loop over it yields to other requests.
    """

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self.pace = listings.pace
        self._driver = driver
        self._listings = listings

    def names(self) -> Sequence[str]:
        """Return all names, in ASCII order."""
        return self._listings.names(layout.CATALOG, layout.read_catalog_entry)

    def enter(self, name: RepositoryName) -> bool:
        """Add a repository before the first link or manifest in it is written; return False if it was there."""
        entry = layout.catalog_entry(name)
        if self._driver.has_file(entry):
            return False
        self._driver.put_content(entry, b"")
        return True

    def leave(self, name: RepositoryName) -> None:
        """
        Remove the entry of a deleted repository, unless API V2 has content in it.

        A concurrent push may rely on an entry that it has just seen. Therefore, on stores where listings check that
        each repository exists, the entry is kept until it is old and :meth:`Repositories.adopt` removes it. On other
        stores a repository that is pushed at the same moment may be missing from listings until the next adoption.
        """
        if not self._driver.capabilities.pages or self.has_content(name):
            return
        if store_removal.remove(self._driver, layout.catalog_entry(name)) and self.has_content(name):
            self.enter(name)

    def has_content(self, name: RepositoryName) -> bool:
        """Return whether a repository has blobs or manifests of API V2."""
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))


class Repositories:
    """The repositories of the registry: one exists as soon as it has a blob or manifest, or a source has it."""

    def __init__(
        self,
        driver: StorageDriver,
        catalog: Catalog,
        access: Access,
        sources: Sequence[RepositorySource] = (),
    ) -> None:
        """
        Args:
            access: decides which repositories clients may see.
            sources: have further repositories, such as those of API V1.
        """
        self._access = access
        self._driver = driver
        self._catalog = catalog
        self._sources = sources
        self._catalog_is_complete = False

    def exists(self, name: RepositoryName) -> bool:
        """Return whether a repository exists, in the store or in a source."""
        return self.has_content(name) or self._exists_in_sources(name)

    def _exists_in_sources(self, name: RepositoryName) -> bool:
        return any(source.exists(name) for source in self._sources)

    def has_content(self, name: RepositoryName) -> bool:
        """Return whether a repository has content in the store."""
        return self._catalog.has_content(name)

    def resolve(self, name: RepositoryName) -> RepositoryName:
        """
        Return the repository that a client means by a name.

        That is ``foo`` for ``library/foo`` if the store has no ``library/foo`` and a source has ``foo``; otherwise the
        name itself.
        """
        if not self._sources or name.short() is None or self.has_content(name):
            return name
        return self.find_short(name) or name

    def find_short(self, name: RepositoryName) -> RepositoryName | None:
        """Return ``foo`` for ``library/foo`` if a source has that repository; otherwise None."""
        short = name.short() if self._sources else None
        return short if short is not None and self._exists_in_sources(short) else None

    def check(self, name: RepositoryName) -> None:
        """
        Check that a repository exists.

        Raises:
            NameUnknown: it does not.
        """
        if not self.exists(name):
            raise NameUnknown(name=str(name))

    def page(
        self,
        count: int,
        last: str = "",
        *,
        principal: Principal = ANONYMOUS,
        prefix: str = "",
        with_hidden: bool = False,
    ) -> Page:
        """
        Return at most *count* names of repositories, those after *last*, in ASCII order.

        Args:
            principal: only repositories that it may pull from are listed.
            prefix: only repositories whose names begin with it are listed.
            with_hidden: list all repositories, also those that the principal may not pull from.
        """
        self._catalog_is_complete = self._catalog_is_complete or self._driver.exists(layout.CATALOG_COMPLETE)
        if not self._catalog_is_complete:
            self._complete_catalog()
        names = self._catalog.names()
        prefixes = None if with_hidden else self._access.policy.pull_prefixes(principal)
        if prefixes is not None:
            names = with_prefixes(names, prefixes)
        if prefix:
            names = with_prefixes(names, (prefix,))

        def is_listed(name: str) -> bool:
            repository = RepositoryName(name)
            if not with_hidden and not self._access.may_pull(principal, repository):
                return False
            # On object stores each check would be a request, so a catalog entry is trusted; adopt() removes stale ones.
            try:
                return self._driver.capabilities.pages or self.exists(repository)
            except LinkBroken:  # it is out of reach, not deleted
                return True

        return cut(names, count, last, is_listed, self._catalog.pace)

    def _complete_catalog(self) -> None:
        """Add repositories to the catalog, except those behind broken links, which cannot be served."""
        try:
            self.adopt()
        except LinkBroken as error:  # housekeeping tries again
            logger.warning("the catalog lacks repositories behind a broken link: %s", error)
            self._catalog_is_complete = True

    def enter(self, name: RepositoryName) -> None:
        """Add a repository to the catalog; call this before writing the first link or manifest in it."""
        self._catalog.enter(name)

    def adopt(self, is_stopped: Callable[[], bool] = lambda: False) -> int:
        """
        Add repositories that other servers created to the catalog, and remove entries of repositories that are gone.

        Walks all folders of repository names.

        Args:
            is_stopped: asked before each change; ends the work when it returns true.

        Returns:
            The number of added repositories.

        Raises:
            StorageError: a folder or repository could not be read; the others were, if the store can be reached.
        """
        entered = set(self._catalog.names())
        added, failures = 0, DeferredFailures()
        for name in self._catalog.pace(self._candidates(failures)):
            if is_stopped():
                return added
            with failures.deferred():
                added += self._add(name, entered)
        for name in self._catalog.pace(map(RepositoryName, entered)):
            if is_stopped():
                return added
            with failures.deferred():
                if not self.exists(name):
                    self._forget(name)
        failures.raise_last()
        if not self._driver.exists(layout.CATALOG_COMPLETE):
            self._driver.put_content(layout.CATALOG_COMPLETE, b"")
        return added

    def _candidates(self, failures: DeferredFailures) -> Iterator[RepositoryName]:
        """Yield the names of repositories that may exist, in the tree and in the sources."""
        for names in (self.folders(), *(source.names() for source in self._sources)):
            with failures.deferred():
                yield from names

    def _add(self, name: RepositoryName, entered: set[str]) -> bool:
        """Add a repository to the catalog and to *entered*; return False if it is there or does not exist."""
        if str(name) in entered or not self.exists(name):
            return False
        entered.add(str(name))
        return self._catalog.enter(name)  # a push may have added it since the catalog was read

    def _forget(self, name: RepositoryName) -> None:
        entry = layout.catalog_entry(name)
        with suppress(PathNotFound):  # removed by another process
            if self._driver.stat(entry).modified < time.time() - _YOUNG_SECONDS:
                store_removal.remove(self._driver, entry)

    def folders(self) -> Iterator[RepositoryName]:
        """
        Yield all names with content in the tree: repositories, and names that only have unfinished uploads.

        Raises:
            StorageError: a folder could not be read; raised after the names in all others, if the store can be reached.
        """
        failures = DeferredFailures()
        yield from self._folders_below(layout.REPOSITORIES, failures)
        failures.raise_last()

    def _folders_below(self, path: str, failures: DeferredFailures) -> Iterator[RepositoryName]:
        children: list[str] = []
        with failures.deferred(), suppress(PathNotFound):
            children += self._catalog.pace(self._driver.list_directory(path))
        own = any(child.rpartition("/")[2].startswith("_") for child in children)
        name = _parse(path.removeprefix(layout.REPOSITORIES).lstrip("/"))
        if own and name:
            yield name
        for child in self._catalog.pace(children):
            if not child.rpartition("/")[2].startswith("_"):
                yield from self._folders_below(child, failures)


def _parse(text: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(text)
    except NameInvalid:
        return None
