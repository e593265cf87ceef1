"""
Pending pushes of API V1: the mark ``images/<id>/_inprogress``, and the JSON and layers received so far.

The JSON of a pushed image is kept in ``images/<id>/_pending/<its digest>``, preceded by a line with the ancestry, until
its layer has arrived and is verified. So concurrent pushes of one id, even with different JSON, do not interfere, and
none changes the image before its commit.

The mark is the format of 0.7.1, which has no other record of a push. Here it means that the state of the image must be
checked.

The bytes of a layer that is not yet confirmed by a checksum are *staged* in an upload session that belongs to no
repository. A record in ``images/<id>/_received/<sum>-<upload>`` contains the id of the session and the link of the
layer. Concurrent pushes of an image have separate records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageInvalid, PathNotFound, UploadUnknown
from docker_registry.registry import json_scanner, store_removal
from docker_registry.registry.actor import Actor
from docker_registry.registry.ingest import Body
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.uploads import Uploads
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink, Receipt
from docker_registry.resources.time_slices import TimeSlices

_MARK: Final = b"true"

#: Maximum number of pending JSON documents of one id; the oldest ones beyond it are deleted.
MAX_PENDING: Final = 4


@dataclass(frozen=True, slots=True)
class Pending:
    """
    The JSON of an image whose layer has not been committed.

    Attributes:
        payload: the image's JSON as it was sent.
        ancestry: the ids of the image and all its ancestors, newest first.
    """

    payload: bytes
    ancestry: tuple[str, ...]


def parse_image_json(image_id: ImageId, payload: bytes) -> dict[str, Any]:
    """
    Parse the JSON of an image.

    Raises:
        ImageInvalid: *payload* is not a JSON object, has too many values, or its ``id`` is missing or differs.
    """
    if json_scanner.count_values(payload) > json_scanner.MAX_PART_VALUES:  # it is parsed in one call
        raise ImageInvalid("JSON data has too many values", max_values=json_scanner.MAX_PART_VALUES)
    try:
        document = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, nested too deeply, or too long a number
        raise ImageInvalid from None
    if not isinstance(document, dict) or not document:
        raise ImageInvalid
    if "id" not in document:
        raise ImageInvalid("Missing key `id' in JSON")
    if document["id"] != str(image_id):
        raise ImageInvalid("JSON data contains invalid id")
    return document


class PendingPushes:
    """Stores the pending pushes of all images."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def is_marked(self, image_id: ImageId) -> bool:
        """Return whether an image has the mark of an unfinished push."""
        return self._driver.exists(image_layout.in_progress(image_id))

    def mark(self, image_id: ImageId) -> None:
        """Mark an image as unfinished."""
        self._driver.put_content(image_layout.in_progress(image_id), _MARK)

    def marked_since(self, image_id: ImageId) -> float | None:
        """Return the time of the mark, seconds since the Unix epoch; None without a mark."""
        try:
            return self._driver.stat(image_layout.in_progress(image_id)).modified
        except PathNotFound:
            return None

    def begin(self, image_id: ImageId, pending: Pending) -> None:
        """Mark an image as unfinished and store its JSON and ancestry."""
        self.mark(image_id)
        self._driver.put_content(self._path(image_id, Digest.of(pending.payload)), _dump(pending))
        for path in self._paths(image_id)[MAX_PENDING:]:
            store_removal.remove(self._driver, path)

    def exists(self, image_id: ImageId) -> bool:
        """Return whether an image has pending JSON documents, without reading them."""
        return any(True for _ in self._driver.walk(image_layout.pending(image_id)))

    def pending(self, image_id: ImageId) -> list[Pending]:
        """Return the pending JSON documents of an image, newest first."""
        found = (self._read(path) for path in self._paths(image_id))
        return [pending for pending in found if pending is not None]

    def find(self, image_id: ImageId, digest: Digest) -> Pending | None:
        """Return the pending JSON document with a digest; None when there is none."""
        return self._read(self._path(image_id, digest))

    def has(self, image_id: ImageId, digest: Digest) -> bool:
        """Return whether there is a pending JSON document with a digest, without reading it."""
        return self._driver.exists(self._path(image_id, digest))

    def end(self, image_id: ImageId) -> None:
        """Remove the mark and all pending JSON documents of a committed image."""
        store_removal.remove(self._driver, image_layout.in_progress(image_id))
        store_removal.remove(self._driver, image_layout.pending(image_id))

    def _path(self, image_id: ImageId, digest: Digest) -> str:
        return f"{image_layout.pending(image_id)}/{digest.hex}"

    def _paths(self, image_id: ImageId) -> list[str]:
        stats = self._driver.walk(image_layout.pending(image_id))
        return [stat.path for stat in sorted(stats, key=lambda stat: stat.modified, reverse=True)]

    def _read(self, path: str) -> Pending | None:
        try:
            line, _, payload = self._driver.get_content(path).partition(b"\n")
            return Pending(payload, tuple(json.loads(line)))
        except (PathNotFound, ValueError):  # ended meanwhile, or written by another program
            return None


def _dump(pending: Pending) -> bytes:
    return json.dumps(pending.ancestry).encode() + b"\n" + pending.payload


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

    def receive(self, receipts: Sequence[Receipt], body: Body, *, actor: Actor) -> tuple[str, list[LayerLink]]:
        """
        Receive a layer; it is staged once :meth:`put` has recorded it.

        Args:
            receipts: one for each JSON document to which the layer may belong. The documents themselves, of several
                megabytes each, need not be in memory while the layer arrives.

        Returns:
            The id of the upload session, and the link of the layer for each of the documents.

        Raises:
            SizeInvalid: the body ended early; the received bytes are discarded.
        """
        upload = self._uploads.start(None, actor=actor)
        try:
            taps = [receipt.update for receipt in receipts]
            upload = self._uploads.append(None, upload.id, body, taps=taps, actor=actor)
        except BaseException:
            self.cancel(upload.id)
            raise
        digest = upload.chunks[0].digest if upload.chunks else Digest.of(b"")
        return upload.id, [receipt.link(digest, upload.size) for receipt in receipts]

    def cancel(self, upload_id: str) -> None:
        """Discard the bytes of a received layer."""
        try:
            self._uploads.cancel(None, upload_id)
        except UploadUnknown:
            pass

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
        store_removal.remove(self._driver, staged.path)

    def discard(self, staged: StagedLayer) -> None:
        """Remove a staged layer: its record and its upload session."""
        self.cancel(staged.upload_id)
        self.remove_record(staged)
