"""The domain of the registry: blobs, uploads, manifests and tags on a storage driver, independent of HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.registry import layout
from docker_registry.registry.access import Access
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.bridge.v1_tag_source import V1TagSource
from docker_registry.registry.catalog import Catalog
from docker_registry.registry.immutability import ImmutableContent, ImmutableTags
from docker_registry.registry.json_budget import JsonBudget
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.leases import Leases
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.referrers import Referrers
from docker_registry.registry.removal import Removal
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.search.entries import SearchEntries
from docker_registry.registry.tags import Tags
from docker_registry.registry.uploads import Uploads
from docker_registry.registry.v1.files import DiffQueue, ImageFiles
from docker_registry.registry.v1.image_commits import ImageCommits
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_inspections import LayerInspections
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.pending_pushes import PendingPushes
from docker_registry.registry.v1.private_repositories import PrivateRepositories
from docker_registry.registry.v1.pushes import ImagePushes
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tags import ImageTags
from docker_registry.registry.v1.tokens import Tokens
from docker_registry.registry.v1.unpacked_layers import UnpackedLayers
from docker_registry.time_slices import TimeSlices


class Registry:
    """
    A registry on one store.

    Each attribute is the service for a noun of the specifications, such as ``blobs``, ``manifests`` or ``tags``.
    """

    def __init__(
        self,
        driver: StorageDriver,
        *,
        max_manifest_bytes: int = 4 * 1024 * 1024,
        check_index_children: bool = False,
        immutable_tags: Sequence[str] = (),
        layer_limits: LayerLimits | None = None,
        upload_ttl_seconds: float = 7 * 24 * 3600,
        serve_private: bool = False,
        v1_platform: str = "linux/amd64",
        diff_queue: DiffQueue | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            max_manifest_bytes, check_index_children: see :class:`Manifests`.
            immutable_tags: patterns of immutable tags; see :class:`ImmutableTags`.
            layer_limits: limits for reading the content of a layer.
            upload_ttl_seconds: the time after which an inactive push of API V1 is considered abandoned.
            serve_private: see :class:`PrivateRepositories`.
            v1_platform: the platform of the image in an index that API V1 serves, such as ``linux/amd64``.
            diff_queue: see :class:`ImageFiles`.
            now: the clock of API V1; returns seconds since the Unix epoch.
        """
        self.driver = driver
        slices = TimeSlices()
        json_budget = JsonBudget(slices)
        listings = ListingCache(driver, slices)
        catalog = Catalog(driver, listings)
        unfinished = PendingPushes(driver)
        decisions = ImageCommits(driver, unfinished)
        image_tag_files = ImageTagFiles(driver, listings)
        self.access = Access(driver)
        self.leases = Leases(driver)
        reader = LayerReader(layer_limits)
        unpacked = UnpackedLayers(driver, self.leases, reader)
        derived_images = DerivedImages(driver, reader, unpacked, json_budget, platform=v1_platform)
        self.tokens = Tokens(driver)
        self.images = Images(
            driver,
            decisions,
            unfinished,
            derived_images,
            self.access,
            reader,
            abandoned_after_seconds=upload_ttl_seconds,
            now=now,
        )
        self.image_files = ImageFiles(driver, self.images, reader, queue=diff_queue)
        self.image_repositories = ImageRepositories(driver, catalog, json_budget)
        self.private_repositories = PrivateRepositories(
            driver,
            listings,
            self.image_repositories,
            image_tag_files,
            self.images,
            derived_images,
            serve_private=serve_private,
        )
        self.access.policy = self.private_repositories
        self.repositories = Repositories(driver, catalog, self.image_repositories, self.access)
        self.blobs = Blobs(driver, self.repositories, self.access)
        self.uploads = Uploads(driver, self.blobs, slices=slices)
        self.image_pushes = ImagePushes(
            driver,
            self.uploads,
            self.images,
            decisions,
            unfinished,
            self.private_repositories.resolve_image,
            reader,
            LayerInspections(self.images),
        )
        derived_manifests = DerivedManifests(
            driver,
            self.images,
            derived_images,
            self.blobs,
            self.leases,
            self.access,
            unpacked,
        )
        immutable = ImmutableTags(immutable_tags)
        self.tags = Tags(driver, listings, V1TagSource(image_tag_files, derived_manifests), immutable)
        self.image_tags = ImageTags(
            driver,
            self.image_repositories,
            self.images,
            image_tag_files,
            self.tags,
            derived_images,
            derived_manifests,
            immutable,
            self.access,
            now=now,
            slices=slices,
        )
        self.referrers = Referrers(driver, self.blobs, self.tags, listings, json_budget)
        self.manifests = Manifests(
            driver,
            self.blobs,
            self.tags,
            self.referrers,
            self.repositories,
            json_budget,
            max_manifest_bytes=max_manifest_bytes,
            check_index_children=check_index_children,
        )
        self.immutable_content = ImmutableContent(
            immutable, self.tags, self.blobs.get, self.manifests.exists, json_budget
        )
        self.removal = Removal(self.blobs, self.manifests, self.immutable_content, self.access)
        self.search_entries = SearchEntries(self.repositories, self.image_repositories, self.private_repositories)

    def probe(self) -> None:
        """
        Check that the store works by writing, reading and removing a file.

        Raises:
            StorageError: an operation failed, or the store returned other content.
        """
        path = layout.probe(secrets.token_hex(8))
        self.driver.put_content(path, path.encode())
        if self.driver.get_content(path) != path.encode():
            raise StorageError("The store does not return what was written.")
        self.driver.remove(path)

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

    def run_housekeeping(self, upload_ttl_seconds: float) -> tuple[int, int]:
        """
        Delete abandoned uploads, and add repositories that other servers wrote to the catalog.

        Args:
            upload_ttl_seconds: minimum time since the last change of an upload, with or without a repository.

        Returns:
            The number of deleted uploads and the number of added repositories.
        """
        purged = self.uploads.purge(None, upload_ttl_seconds)
        purged += sum(self.uploads.purge(name, upload_ttl_seconds) for name in self.repositories.folders())
        return purged, self.repositories.adopt()
