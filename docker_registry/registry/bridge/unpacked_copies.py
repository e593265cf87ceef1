"""
The uncompressed copies of layers of API V2 as API V1 sends them, with the layers that they were made from.

An empty file records the layer of a copy, so that a copy is counted, and removed, together with its layer::

    docker/registry/v2/_v1/unpacked/<algorithm>/<hex>
    docker/registry/v2/_v1/unpacked-from/<algorithm>/<hex of the layer>/<algorithm>/<hex of the copy>
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import store_removal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.bridge.unpacked_layers import UnpackedLayers
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.resources.time_slices import TimeSlices

#: Memory of a worker for the copies that it knows to be recorded.
_RECORDED_BYTES: Final = 1024 * 1024


class UnpackedCopies:
    """The uncompressed copies of the layers of a store."""

    def __init__(self, driver: StorageDriver, unpacked: UnpackedLayers, slices: TimeSlices) -> None:
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
