"""The bridge between the two APIs: each sees what the other stored."""

from __future__ import annotations

from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.bridge.derived_manifests import DerivedManifests
from docker_registry.registry.bridge.unpacked_layers import UnpackedCopies, UnpackedLayers
from docker_registry.registry.bridge.v1_sources import V1RepositorySource, V1TagSource
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.legacy_registry import LegacyRegistry


class Bridge:
    """
    Joins a registry of API V1 and an OCI registry that share a store.

    Attributes:
        images: the images that API V1 sees of API V2.
        copies: the uncompressed copies of their layers.
    """

    def __init__(self, oci: OciRegistry, reader: LayerReader, *, platform: str = "linux/amd64") -> None:
        """
        Args:
            reader: reads the content of layers.
            platform: the platform of the image in an index that API V1 serves.
        """
        self._oci = oci
        self._unpacked = UnpackedLayers(oci.driver, oci.leases, reader)
        self.copies = UnpackedCopies(oci.driver, self._unpacked, oci.slices)
        oci.reclamation.companions.append(self.copies.drop)
        self.images = DerivedImages(oci.driver, oci.blobs, reader, self.copies, oci.json_budget, platform=platform)

    def connect(self, legacy: LegacyRegistry) -> None:
        """Make a registry of API V1 a source of the OCI registry; call this once, before the first request."""
        oci = self._oci
        manifests = DerivedManifests(
            oci.driver,
            legacy.images,
            self.images,
            oci.blobs,
            oci.leases,
            oci.access,
            self._unpacked,
            oci.manifests,
        )
        oci.sources.tags.append(V1TagSource(legacy.tag_files, manifests))
        oci.sources.repositories.append(V1RepositorySource(legacy.image_repositories))
