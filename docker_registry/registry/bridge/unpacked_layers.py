"""
Uncompressed copies of layers, for clients that cannot unpack the stored compression.

A copy is created once, by one process at a time (:class:`UnpackedLayers`). It may be removed at any time: it is created
again when it is needed.

An empty file records the layer of a copy that API V1 sends (:class:`UnpackedCopies`), so that the copy is counted, and
removed, together with its layer::

    docker/registry/v2/_v1/unpacked/<algorithm>/<hex>
    docker/registry/v2/_v1/unpacked-from/<algorithm>/<hex of the layer>/<algorithm>/<hex of the copy>
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.drivers.base import Bytes, StorageDriver
from docker_registry.errors import DigestInvalid
from docker_registry.registry import layout, store_removal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.leases import Leases
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.resources.time_slices import TimeSlices

logger = logging.getLogger(__name__)

#: A process that has not renewed its lease for this time is considered dead.
_LEASE_SECONDS: Final = 10.0
_RENEW_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 0.2

#: Age from which a copy without a record is not being made any more.
_UNUSED_SECONDS: Final = 3600.0

#: Memory of a worker for the copies that it knows to be recorded.
_RECORDED_BYTES: Final = 1024 * 1024


class UnpackedLayers:
    """The uncompressed copies of all layers."""

    def __init__(self, driver: StorageDriver, leases: Leases, reader: LayerReader) -> None:
        self._driver = driver
        self._leases = leases
        self._reader = reader
        self._locks = KeyedLocks()

    def put(self, layer: StoredFile, diff_id: Digest, path: str) -> int:
        """
        Store the uncompressed copy of a layer, unless it exists.

        Args:
            diff_id: the verified diff_id of the layer.
            path: the path of the copy.

        Returns:
            The size of the copy in bytes.

        Raises:
            LayerFormatUnsupported, TooLarge: the layer cannot be decompressed.
            DigestInvalid: the uncompressed bytes do not have the digest *diff_id*.
            Overloaded: too many layers are being read.
        """
        size = self._driver.find_size(path)
        if size is not None:
            return size
        with self._locks.hold(path):
            size = self._wait(diff_id, path)
            return size if size is not None else self._unpack(layer, diff_id, path)

    def _wait(self, diff_id: Digest, path: str) -> int | None:
        """Acquire the lease and return None, or wait for the process that holds it and return the size of the copy."""
        size = self._driver.find_size(path)
        while size is None and not self._leases.take(_work(diff_id), _LEASE_SECONDS):
            time.sleep(_PAUSE_SECONDS)
            check_client()
            size = self._driver.find_size(path)
        return size

    def _unpack(self, layer: StoredFile, diff_id: Digest, path: str) -> int:
        try:
            return self._driver.stream_write(path, self._unpacked(layer, diff_id))
        finally:
            self._leases.release(_work(diff_id))

    def _unpacked(self, layer: StoredFile, diff_id: Digest) -> Iterator[Bytes]:
        renewed = time.monotonic()
        for block in self._reader.unpack(layer.read(), diff_id):
            if time.monotonic() - renewed > _RENEW_SECONDS:
                self._leases.take(_work(diff_id), _LEASE_SECONDS)
                renewed = time.monotonic()
            yield block


def _work(diff_id: Digest) -> str:
    return f"unpack-{diff_id.hex}"


class UnpackedCopies:
    """The copies that API V1 sends, with their records."""

    def __init__(
        self,
        driver: StorageDriver,
        unpacked: UnpackedLayers,
        slices: TimeSlices,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._now = now
        self._driver = driver
        self._slices = slices
        self._unpacked = unpacked
        self._recorded: BoundedCache[str, bool] = BoundedCache(_RECORDED_BYTES)

    def put(self, stored: StoredFile, layer: Digest, diff_id: Digest) -> StoredFile:
        """
        Return the uncompressed copy of a layer, after creating it if it does not exist.

        Args:
            stored: the layer with its compression.
            layer: the digest of *stored*.
            diff_id: the verified digest of the copy.

        Raises:
            LayerFormatUnsupported, TooLarge, DigestInvalid, Overloaded: see :meth:`UnpackedLayers.put`.
        """
        path, record = image_layout.unpacked_layer(diff_id), image_layout.unpacked_from(layer, diff_id)
        size = self._driver.find_size(path)
        is_new = size is None
        if size is None:
            self._driver.put_content(record, b"")
            size = self._unpacked.put(stored, diff_id, path)
        if (is_new or not self._recorded.get(record)) and not self._driver.exists(record):
            # made by an earlier version or from another layer, or another process has just removed the record
            self._driver.put_content(record, b"")
        self._recorded.put(record, True)
        return replace(stored, path=path, size=size)

    def adopt(self) -> None:
        """
        Record the copies that an earlier version made without a record, and remove those whose layers are not known.

        Without that they would neither count against a limit nor be removed with their layers.
        """
        unrecorded = {file.path: file.modified for file in self._slices.pace(self._driver.walk(layout.UNPACKED))}
        for _, diff_id in self._records():
            unrecorded.pop(image_layout.unpacked_layer(diff_id), None)
        if not unrecorded:
            return
        for layer, diff_id in self._sent_layers():
            if image_layout.unpacked_layer(diff_id) in unrecorded and layer != diff_id:
                self._driver.put_content(image_layout.unpacked_from(layer, diff_id), b"")
                unrecorded.pop(image_layout.unpacked_layer(diff_id))
        oldest = self._now() - _UNUSED_SECONDS
        removed = sum(store_removal.remove(self._driver, path) for path, at in unrecorded.items() if at < oldest)
        logger.info("%d uncompressed copies of layers without a record were removed", removed)

    def _sent_layers(self) -> Iterator[tuple[Digest, Digest]]:
        """Yield the stored layer of each derived image, and the digest of the bytes that clients of V1 receive."""
        for file in self._slices.pace(self._driver.walk(image_layout.DERIVED)):
            if not image_layout.is_derived_image(file.path):
                continue
            try:
                document = json.loads(self._driver.find(file.path) or b"")
                yield Digest.parse(document["blob"]), LayerLink.from_json(document["layer"]).digest
            except (ValueError, KeyError, TypeError, AttributeError, DigestInvalid):
                continue

    def sizes(self, layers: Collection[Digest]) -> Mapping[Digest, int]:
        """Return the bytes of the copies of some layers; layers without a copy are left out."""
        sizes: dict[Digest, int] = {}
        for layer, diff_id in self._records():
            size = self._driver.find_size(image_layout.unpacked_layer(diff_id)) if layer in layers else None
            if size is not None:
                sizes[layer] = sizes.get(layer, 0) + size
        return sizes

    def drop(self, layer: Digest) -> None:
        """Remove the copy of a layer; it is made again if a client needs it."""
        for _, diff_id in list(self._records(image_layout.unpacked_from_folder(layer))):
            # The record is removed last, so that a process that dies in between leaves no copy without one.
            store_removal.remove(self._driver, image_layout.unpacked_layer(diff_id))
            store_removal.remove(self._driver, image_layout.unpacked_from(layer, diff_id))

    def _records(self, folder: str = image_layout.UNPACKED_FROM) -> Iterator[tuple[Digest, Digest]]:
        """Yield each layer with a record in a folder, and the digest of its copy."""
        for file in self._slices.pace(self._driver.walk(folder)):
            found = image_layout.read_unpacked_from(file.path)
            if found is not None:
                yield found
