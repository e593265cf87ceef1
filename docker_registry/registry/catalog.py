"""The entries of the catalog: an empty file for every repository, in one flat folder."""

from __future__ import annotations

from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout
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
        """Take out a repository that has gone, unless API V2 has something in it."""
        if self.has_content(name):
            return
        try:
            self._driver.remove(layout.catalog_entry(name))
        except PathNotFound:
            return
        if self.has_content(name):  # pushed just now
            self.enter(name)

    def has_content(self, name: RepositoryName) -> bool:
        """Tell whether API V2 has anything in a repository."""
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))
