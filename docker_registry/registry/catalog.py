"""The entries of the catalog: an empty file for every repository, in one flat folder."""

from __future__ import annotations

from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.listings import Listings
from docker_registry.registry.names import RepositoryName


class Catalog:
    """The names under which there are, were, or soon will be repositories."""

    def __init__(self, driver: StorageDriver, listings: Listings) -> None:
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
