"""The domain: blobs, uploads, manifests and tags over one storage driver. Knows neither HTTP nor any cloud."""

from __future__ import annotations

from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.image_marks import ImageMarks
from docker_registry.registry.image_pushes import ImagePushes
from docker_registry.registry.image_repositories import ImageRepositories
from docker_registry.registry.image_tags import ImageTags
from docker_registry.registry.images import Images
from docker_registry.registry.leases import Leases
from docker_registry.registry.listings import Listings
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.referrers import Referrers
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.tags import Tags
from docker_registry.registry.tokens import Tokens
from docker_registry.registry.uploads import Uploads


class Registry:
    """One registry over one store; its parts are the nouns of the specification."""

    def __init__(
        self,
        driver: StorageDriver,
        *,
        max_manifest_bytes: int = 4 * 1024 * 1024,
        check_index_children: bool = False,
        immutable_tags: Sequence[str] = (),
        max_unpacked_bytes: int = 64 * 1024**3,
        upload_ttl_seconds: float = 7 * 24 * 3600,
    ) -> None:
        """
        Args:
            max_manifest_bytes, check_index_children: see :class:`Manifests`.
            immutable_tags: patterns; see :class:`Tags`.
            max_unpacked_bytes: uncompressed bytes of a layer that are looked at.
            upload_ttl_seconds: how old a push is of which nobody has heard since.
        """
        self.driver = driver
        listings = Listings(driver)
        self.repositories = Repositories(driver, listings)
        self.blobs = Blobs(driver, self.repositories)
        self.uploads = Uploads(driver, self.blobs)
        self.tags = Tags(driver, listings, immutable=immutable_tags)
        self.referrers = Referrers(driver, self.blobs, self.tags)
        self.manifests = Manifests(
            driver,
            self.blobs,
            self.tags,
            self.referrers,
            self.repositories,
            max_manifest_bytes=max_manifest_bytes,
            check_index_children=check_index_children,
        )
        self.leases = Leases(driver)
        self._add_images(immutable_tags, max_unpacked_bytes, upload_ttl_seconds)

    def _add_images(self, immutable_tags: Sequence[str], max_unpacked_bytes: int, upload_ttl_seconds: float) -> None:
        """Add the nouns of API V1."""
        marks = ImageMarks(self.driver)
        self.images = Images(
            self.driver,
            marks,
            max_unpacked_bytes=max_unpacked_bytes,
            abandoned_after_seconds=upload_ttl_seconds,
        )
        self.image_pushes = ImagePushes(
            self.driver, self.uploads, self.images, marks, max_unpacked_bytes=max_unpacked_bytes
        )
        self.image_repositories = ImageRepositories(self.driver)
        self.image_tags = ImageTags(self.driver, self.image_repositories, self.images, immutable=immutable_tags)
        self.tokens = Tokens(self.driver)

    def keep_house(self, upload_ttl_seconds: float) -> tuple[int, int]:
        """
        Forget unfinished uploads that nobody has touched for *upload_ttl_seconds*, in every repository and beside
        them, and put into the catalog what other servers wrote into the tree.

        Returns:
            How many uploads were forgotten, and how many repositories were added.
        """
        purged = self.uploads.purge(None, upload_ttl_seconds)
        purged += sum(self.uploads.purge(name, upload_ttl_seconds) for name in self.repositories.folders())
        return purged, self.repositories.adopt()
