"""The registry of the OCI Distribution Specification on one store, independent of HTTP and of API V1."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from itertools import chain

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.registry import layout
from docker_registry.registry.access import Access
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.deferred_failures import DeferredFailures
from docker_registry.registry.immutability import ImmutableContent, ImmutableTags
from docker_registry.registry.ingest import BufferPool
from docker_registry.registry.leases import Leases
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.manifest_pushes import ManifestPushes
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.private_repositories import PrivateRepositories
from docker_registry.registry.reclamation import Reclamation
from docker_registry.registry.references import References
from docker_registry.registry.referrers import Referrers
from docker_registry.registry.removal import Removal
from docker_registry.registry.repositories import Catalog, Repositories
from docker_registry.registry.sources import Sources
from docker_registry.registry.tags import Tags
from docker_registry.registry.uploads import Uploads
from docker_registry.resources.memory_budget import JsonBudget
from docker_registry.resources.time_slices import TimeSlices


class OciRegistry:
    """
    A registry on one store.

    Each attribute is the service for a noun of the specification, such as ``blobs``, ``manifests`` or ``tags``.

    Attributes:
        sources: parts that are asked for what the store does not have.
        access: applies the access policy: :class:`PrivateRepositories`, until it is replaced.
    """

    def __init__(
        self,
        driver: StorageDriver,
        *,
        max_manifest_bytes: int = 4 * 1024 * 1024,
        check_index_children: bool = False,
        immutable_tags: Sequence[str] = (),
        serve_private: bool = False,
    ) -> None:
        """
        Args:
            max_manifest_bytes, check_index_children: see :class:`ManifestPushes`.
            immutable_tags: patterns of immutable tags; see :class:`ImmutableTags`.
            serve_private: see :class:`PrivateRepositories`.
        """
        self.driver = driver
        self.sources = Sources()
        self.slices = TimeSlices()
        self.json_budget = JsonBudget(self.slices)
        self.buffers = BufferPool()
        self.listings = ListingCache(driver, self.slices)
        self.catalog = Catalog(driver, self.listings)
        self.leases = Leases(driver)
        self.private_repositories = PrivateRepositories(driver, self.listings, serve_private=serve_private)
        self.access = Access(driver, self.private_repositories)
        self.repositories = Repositories(driver, self.catalog, self.access, self.sources.repositories)
        self.blobs = Blobs(driver, self.repositories, self.access, self.sources.blobs)
        self.uploads = Uploads(driver, self.blobs, slices=self.slices, buffers=self.buffers)
        self.immutable_tags = ImmutableTags(immutable_tags)
        self.tags = Tags(driver, self.listings, self.immutable_tags, self.sources.tags)
        self.manifests = Manifests(driver, self.blobs, self.tags, self.json_budget, self.sources.manifests)
        self.referrers = Referrers(
            driver,
            self.blobs,
            self.tags,
            self.manifests.types,
            self.listings,
            self.json_budget,
            self.sources.referrers,
        )
        self.manifest_pushes = ManifestPushes(
            driver,
            self.blobs,
            self.tags,
            self.manifests,
            self.referrers,
            self.repositories,
            self.json_budget,
            max_manifest_bytes=max_manifest_bytes,
            check_index_children=check_index_children,
        )
        self.immutable_content = ImmutableContent(
            self.immutable_tags, self.tags, self.blobs.get, self.manifests.exists, self.json_budget
        )
        self.removal = Removal(
            driver,
            self.blobs,
            self.tags,
            self.manifests,
            self.referrers,
            self.immutable_content,
            self.access,
        )
        self.references = References(driver, self.repositories, self.slices)
        self.reclamation = Reclamation(driver, self.blobs.removed, self.references, self.slices)

    def probe(self) -> None:
        """
        Check that the store works by writing, reading and removing a file.

        Raises:
            StorageError: an operation failed, or the store returned other content.
        """
        path = layout.probe(secrets.token_hex(8))
        self.driver.put_content(path, path.encode())
        try:
            content = self.driver.get_content(path)
        finally:
            self.driver.remove(path)
        if content != path.encode():
            raise StorageError("The store returned content that differs from what was written.")

    def probe_reading(self) -> None:
        """
        Check that the store can be read.

        Raises:
            StorageError: it cannot.
        """
        try:
            self.driver.get_content(layout.probe("none"))
        except PathNotFound:  # the usual case: such a file exists only while another process probes
            pass

    def run_housekeeping(
        self, upload_ttl_seconds: float, is_stopped: Callable[[], bool] = lambda: False
    ) -> tuple[int, int]:
        """
        Delete abandoned uploads, and add repositories that other servers wrote to the catalog.

        Args:
            upload_ttl_seconds: minimum time since the last change of an upload, with or without a repository.
            is_stopped: asked before each change; ends the work when it returns true.

        Returns:
            The number of deleted uploads and the number of added repositories.

        Raises:
            StorageError: an upload or a folder could not be read or changed; the rest was done, if the store can be
                reached.
        """
        self.uploads.counts.remaining = 0
        purged, failures = 0, DeferredFailures()
        with failures.deferred():
            for name in chain([None], self.slices.pace(self.repositories.folders())):
                with failures.deferred():
                    purged += self.uploads.purge(name, upload_ttl_seconds, is_stopped)
                if is_stopped():
                    break
        adopted = self.repositories.adopt(is_stopped)
        failures.raise_last()
        return purged, adopted
