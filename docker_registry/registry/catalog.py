"""The entries of the catalog: an empty file for every repository, in one flat folder."""

from __future__ import annotations

from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import conditional_removal, layout
from docker_registry.registry.listings import Listings
from docker_registry.registry.names import RepositoryName


class Catalog:
    """The names under which there are, were, or soon will be repositories."""

    def __init__(self, driver: StorageDriver, listings: Listings) -> None:
        self.pace = listings.pace
        self._driver = driver
        self._listings = listings

    def names(self) -> Sequence[str]:
        """Return all names, in ASCII order."""
        return self._listings.names(layout.CATALOG, layout.read_catalog_entry)

    def enter(self, name: RepositoryName) -> None:
        """Add a repository, before the first thing that makes it one is written."""
        entry = layout.catalog_entry(name)
        if not self._driver.exists(entry):
            self._driver.put_content(entry, b"")

    def leave(self, name: RepositoryName) -> None:
        """
        Take out a repository that has gone, unless API V2 has something in it.

        A push beside this may rely on the entry that it has just seen. So where lists look whether each repository
        exists, the entry stays, until :meth:`Repositories.adopt` removes it when it is old. Elsewhere a repository that
        is pushed in this very moment may be missing from lists until then.
        """
        if not self._driver.walks_by_pages or self.has_content(name):
            return
        if conditional_removal.remove(self._driver, layout.catalog_entry(name)) and self.has_content(name):
            self.enter(name)

    def has_content(self, name: RepositoryName) -> bool:
        """Tell whether API V2 has anything in a repository."""
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))
