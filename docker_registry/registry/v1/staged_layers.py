"""
Staged layers of API V1: layers that were received but not yet confirmed by a checksum.

The bytes are in an upload session that belongs to no repository. A record in ``images/<id>/_received/<sum>-<upload>``
contains the id of the session and the link of the layer. Concurrent pushes of an image have separate records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, UploadUnknown
from docker_registry.registry.names import ImageId
from docker_registry.registry.uploads import Uploads
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.resources.time_slices import TimeSlices


@dataclass(frozen=True, slots=True)
class KnownTarSum:
    """
    The computed TarSum of a layer.

    Attributes:
        text: the TarSum; None if the layer is not a tar or exceeds a limit.
        rules: the limits of the computation (:attr:`~docker_registry.registry.layers.limits.LayerLimits.fingerprint`).
    """

    text: str | None
    rules: str


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """
    A staged layer.

    Attributes:
        path: the path of its record.
        tarsum: the TarSum; None if it has not been computed yet.
    """

    path: str
    upload_id: str
    link: LayerLink
    tarsum: KnownTarSum | None = None


class StagedLayers:
    """All staged layers."""

    def __init__(self, driver: StorageDriver, uploads: Uploads, slices: TimeSlices) -> None:
        """
        Args:
            slices: divides the reading of many records into time slices.
        """
        self._driver = driver
        self._uploads = uploads
        self._pace = slices.pace

    def put(self, image_id: ImageId, upload_id: str, link: LayerLink) -> None:
        """Record a staged layer with its link for one image JSON."""
        path = f"{image_layout.staged_layers(image_id)}/{link.checksums[0].rpartition(':')[2]}-{upload_id}"
        self._put(StagedLayer(path, upload_id, link))

    def put_tarsum(self, staged: StagedLayer, tarsum: KnownTarSum) -> None:
        """Record the TarSum of a staged layer, so that it is computed only once."""
        self._put(replace(staged, tarsum=tarsum))

    def of(self, image_id: ImageId) -> Iterator[StagedLayer]:
        """Yield the staged layers of an image."""
        try:
            paths = list(self._pace(self._driver.list_directory(image_layout.staged_layers(image_id))))
        except PathNotFound:
            return
        for path in self._pace(paths):
            try:
                record = json.loads(self._driver.get_content(path))
                tarsum = KnownTarSum(**record["tarsum"]) if record.get("tarsum") else None
                yield StagedLayer(path, str(record["upload"]), LayerLink.from_json(record["layer"]), tarsum)
            except (PathNotFound, ValueError, KeyError, TypeError):  # discarded concurrently, or not ours
                continue

    def _put(self, staged: StagedLayer) -> None:
        record: dict[str, object] = {"upload": staged.upload_id, "layer": staged.link.to_json()}
        if staged.tarsum is not None:
            record["tarsum"] = asdict(staged.tarsum)
        self._driver.put_content(staged.path, json.dumps(record).encode())

    def remove_record(self, staged: StagedLayer) -> None:
        """Remove the record of a staged layer whose upload session no longer exists."""
        self._driver.discard(staged.path)

    def discard(self, staged: StagedLayer) -> None:
        """Remove a staged layer: its record and its upload session."""
        try:
            self._uploads.cancel(None, staged.upload_id)
        except UploadUnknown:
            pass
        self.remove_record(staged)
