"""
Blobs that will be removed, and their bytes, which wait at another path meanwhile.

::

    docker/registry/v2/_removed/sha256-<hex>/since    {"since": 1767225600.0}
    docker/registry/v2/_removed/sha256-<hex>/data

Their bytes are moved away before the references to a blob are counted. A request that needs them in this moment moves
them back (:meth:`RemovedBlobs.restore`), and a push of the same blob writes them again. So a reference that is written
after they were counted never loses its bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import Digest


@dataclass(frozen=True, slots=True)
class RemovedBlob:
    """
    A blob that will be removed.

    Attributes:
        since: when its last reference was removed or its bytes were moved away, seconds since the Unix epoch.
        waiting_bytes: size of the bytes that were moved away; None if they were not.
    """

    digest: Digest
    since: float
    waiting_bytes: int | None


class RemovedBlobs:
    """All blobs of a store that will be removed."""

    def __init__(self, driver: StorageDriver, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._now = now

    def add(self, digest: Digest) -> None:
        """Record that a blob will be removed; do this before its last reference is removed."""
        self._driver.put_content(layout.removed_since(digest), json.dumps({"since": self._now()}).encode())

    def all(self) -> Iterator[RemovedBlob]:
        """Yield all recorded blobs."""
        try:
            folders = list(self._driver.list_directory(layout.REMOVED))
        except PathNotFound:
            return
        for folder in folders:
            digest = layout.read_removed_blob(folder.rpartition("/")[2])
            if digest is not None:
                yield RemovedBlob(digest, self._since(digest), self._driver.find_size(layout.removed_data(digest)))

    def has_changed(self, blob: RemovedBlob) -> bool:
        """Return whether a blob was recorded again since :meth:`all` yielded it, as each step of its removal does."""
        return self._recorded(blob.digest) != blob.since

    def move_away(self, digest: Digest) -> bool:
        """Move the bytes of a blob away from readers; return False if it has none."""
        self.add(digest)
        return store_removal.move(self._driver, layout.blob_data(digest), layout.removed_data(digest))

    def restore(self, digest: Digest) -> bool:
        """Move the bytes of a blob back; return False if none are waiting for their removal."""
        waiting = layout.removed_data(digest)
        if self._driver.find_size(waiting) is None:
            return False
        return store_removal.move(self._driver, waiting, layout.blob_data(digest))

    def discard_bytes(self, digest: Digest) -> None:
        """Remove the bytes that are waiting, but not the record of the blob, which has been written again."""
        self.add(digest)
        store_removal.remove(self._driver, layout.removed_data(digest))

    def forget(self, digest: Digest) -> None:
        """Remove the record of a blob, and the bytes that are waiting."""
        store_removal.remove(self._driver, layout.removed_blob(digest))

    def _since(self, digest: Digest) -> float:
        since = self._recorded(digest)
        if since is None:  # damaged: begin anew
            self.add(digest)
            return self._now()
        return since

    def _recorded(self, digest: Digest) -> float | None:
        try:
            return float(json.loads(self._driver.find(layout.removed_since(digest)) or b"")["since"])
        except (ValueError, KeyError, TypeError):
            return None
