"""The registry of API V1, on the store of an OCI registry."""

from __future__ import annotations

import time
from collections.abc import Callable

from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.v1.files import DiffQueue, ImageFiles
from docker_registry.registry.v1.image_commits import ImageCommits
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.image_pulls import ImagePulls
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_inspections import LayerInspections
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.pending_pushes import PendingPushes
from docker_registry.registry.v1.private_images import PrivateImages
from docker_registry.registry.v1.pushes import ImagePushes
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.registry.v1.sources import DerivedImageSource, V1Source
from docker_registry.registry.v1.tag_files import ImageTagFiles
from docker_registry.registry.v1.tag_pushes import ImageTagPushes
from docker_registry.registry.v1.tags import ImageTags
from docker_registry.registry.v1.tokens import Tokens


class LegacyRegistry:
    """
    A registry of API V1.

    Each attribute is the service for a noun of API V1, such as ``images`` or ``image_tags``.

    Attributes:
        sources: parts that are asked for images and repositories that the store does not have.
    """

    def __init__(
        self,
        oci: OciRegistry,
        reader: LayerReader,
        derived: DerivedImageSource,
        *,
        upload_ttl_seconds: float = 7 * 24 * 3600,
        diff_queue: DiffQueue | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            reader: reads the content of layers.
            derived: the images that derive from content of API V2.
            upload_ttl_seconds: the time after which an inactive push is considered abandoned.
            diff_queue: see :class:`ImageFiles`.
            now: the clock; returns seconds since the Unix epoch.
        """
        driver = oci.driver
        self.sources: list[V1Source] = []
        pending_pushes = PendingPushes(driver)
        commits = ImageCommits(driver, pending_pushes)
        self.tag_files = ImageTagFiles(driver, oci.listings)
        self.tokens = Tokens(driver)
        self.images = Images(
            driver,
            commits,
            pending_pushes,
            derived,
            oci.access,
            reader,
            abandoned_after_seconds=upload_ttl_seconds,
            now=now,
        )
        self.image_files = ImageFiles(driver, self.images, reader, queue=diff_queue)
        self.image_memberships = ImageMemberships(driver, oci.listings, derived, oci.access)
        self.image_repositories = ImageRepositories(
            driver, oci.catalog, oci.json_budget, memberships=self.image_memberships
        )
        self.image_memberships.exists = self.images.exists
        self.image_memberships.names = self.image_repositories.names
        self.private_images = PrivateImages(
            driver,
            oci.private_repositories,
            self.image_repositories,
            self.tag_files,
            self.images,
            derived,
            oci.access,
            self.image_memberships,
        )
        self.image_pushes = ImagePushes(
            driver,
            oci.uploads,
            self.images,
            commits,
            pending_pushes,
            self.private_images.hide_unless_visible,
            reader,
            LayerInspections(self.images),
            oci.slices,
        )
        self.image_tags = ImageTags(
            driver,
            self.image_repositories,
            self.tag_files,
            oci.tags,
            derived,
            oci.immutable_tags,
            slices=oci.slices,
        )
        self.image_tag_pushes = ImageTagPushes(
            driver,
            self.image_tags,
            self.image_repositories,
            self.images,
            self.tag_files,
            oci.tags,
            oci.manifests,
            derived,
            oci.access,
            self.image_memberships,
            now=now,
        )
        self.image_pulls = ImagePulls(
            self.images, self.image_tags, self.image_repositories, oci.access, self.sources, self.image_memberships
        )
