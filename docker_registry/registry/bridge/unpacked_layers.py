"""
Uncompressed copies of layers, for clients that cannot unpack the stored compression.

A copy is created once, by one process at a time. It may be removed at any time: it is created again when it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.drivers.base import Bytes, StorageDriver
from docker_registry.registry.leases import Leases
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1.layer_reader import LayerReader

#: A process that has not renewed its lease for this time is considered dead.
_LEASE_SECONDS: Final = 10.0
_RENEW_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 0.2


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
