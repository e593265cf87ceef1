"""The catalog: an empty file for every repository, in one flat folder."""

from __future__ import annotations

from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import conditional_removal, layout
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import RepositoryName


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

    def enter(self, name: RepositoryName) -> None:
        """Add a repository; call this before writing the first link or manifest in it."""
        entry = layout.catalog_entry(name)
        if not self._driver.exists(entry):
            self._driver.put_content(entry, b"")

    def leave(self, name: RepositoryName) -> None:
        """
        Remove the entry of a deleted repository, unless API V2 has content in it.

        A concurrent push may rely on an entry that it has just seen. Therefore, on stores where listings check that
        each repository exists, the entry is kept until it is old and :meth:`Repositories.adopt` removes it. On other
        stores a repository that is pushed at the same moment may be missing from listings until the next adoption.
        """
        if not self._driver.walks_by_pages or self.has_content(name):
            return
        if conditional_removal.remove(self._driver, layout.catalog_entry(name)) and self.has_content(name):
            self.enter(name)

    def has_content(self, name: RepositoryName) -> bool:
        """Return whether a repository has blobs or manifests of API V2."""
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))
