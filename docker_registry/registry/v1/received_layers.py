"""
Layers of API V1 that have come, and wait for the checksum which says that they are meant.

The bytes wait in an upload session that belongs to no repository; a note says where, and what they are,
``images/<id>/_received/<sum>-<upload>``. Several pushes of one image have notes of their own.
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


@dataclass(frozen=True, slots=True)
class KnownTarSum:
    """
    The TarSum of a layer.

    Attributes:
        text: None when the layer is no tar or exceeds a limit.
        rules: the limits within which it was computed.
    """

    text: str | None
    rules: str


@dataclass(frozen=True, slots=True)
class Received:
    """
    A layer that waits for its checksum.

    Attributes:
        path: of its note.
        tarsum: None before it is computed.
    """

    path: str
    upload_id: str
    link: LayerLink
    tarsum: KnownTarSum | None = None


class ReceivedLayers:
    """All layers that wait."""

    def __init__(self, driver: StorageDriver, uploads: Uploads) -> None:
        self._driver = driver
        self._uploads = uploads

    def note(self, image_id: ImageId, upload_id: str, link: LayerLink) -> None:
        """Keep that a layer has come, and what it is for one JSON."""
        path = f"{image_layout.received(image_id)}/{link.checksums[0].rpartition(':')[2]}-{upload_id}"
        self._put(Received(path, upload_id, link))

    def keep_tarsum(self, received: Received, tarsum: KnownTarSum) -> None:
        """Keep the TarSum of a layer, so that it is not computed again."""
        self._put(replace(received, tarsum=tarsum))

    def of(self, image_id: ImageId) -> Iterator[Received]:
        """Yield the layers that wait for one image."""
        try:
            paths = list(self._driver.list_directory(image_layout.received(image_id)))
        except PathNotFound:
            return
        for path in paths:
            try:
                note = json.loads(self._driver.get_content(path))
                tarsum = KnownTarSum(**note["tarsum"]) if note.get("tarsum") else None
                yield Received(path, str(note["upload"]), LayerLink.from_json(note["layer"]), tarsum)
            except (PathNotFound, ValueError, KeyError, TypeError):  # discarded just now, or not ours
                continue

    def _put(self, received: Received) -> None:
        note: dict[str, object] = {"upload": received.upload_id, "layer": received.link.to_json()}
        if received.tarsum is not None:
            note["tarsum"] = asdict(received.tarsum)
        self._driver.put_content(received.path, json.dumps(note).encode())

    def forget(self, received: Received) -> None:
        """Forget the note alone: its session is over."""
        try:
            self._driver.remove(received.path)
        except PathNotFound:
            pass

    def discard(self, received: Received) -> None:
        """Forget a layer, bytes and all."""
        try:
            self._uploads.cancel(None, received.upload_id)
        except UploadUnknown:
            pass
        self.forget(received)
