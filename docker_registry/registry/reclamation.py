"""
Reclamation of space: removes the bytes of blobs to which nothing refers any more.

A blob is recorded before its last reference is removed, and its bytes wait at another path before they are removed::

    docker/registry/v2/_removed/sha256-<hex>/since    {"since": 1767225600.0}
    docker/registry/v2/_removed/sha256-<hex>/data

They are moved there before the references to the blob are counted. A request that needs them in this moment moves them
back (:meth:`RemovedBlobs.restore`), and a push of the same blob writes them again. So a reference that is written after
they were counted never loses its bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout, store_removal, stored_document
from docker_registry.registry.deferred_failures import DeferredFailures
from docker_registry.registry.names import Digest
from docker_registry.registry.references import References
from docker_registry.resources.time_slices import TimeSlices

logger = logging.getLogger(__name__)

#: Time after the last reference to a blob was removed until its bytes are moved away. Requests that have found the blob
#: have opened it by then.
MOVE_SECONDS: Final = 60.0

#: Time after which references are counted once more, and the bytes are removed. A push that has found the blob has
#: written its reference by then.
REMOVE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class RemovedBlob:
    """
    A blob that will be removed.

    Attributes:
        since: when its last reference was removed, or its bytes were last moved away or removed, seconds since the Unix
            epoch.
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

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of all recorded blobs."""
        try:
            folders = list(self._driver.list_directory(layout.REMOVED))
        except PathNotFound:
            return
        for folder in folders:
            digest = layout.read_removed_blob(folder.rpartition("/")[2])
            if digest is not None:
                yield digest

    def get(self, digest: Digest) -> RemovedBlob:
        """Return a recorded blob."""
        return RemovedBlob(digest, self._since(digest), self._driver.find_size(layout.removed_data(digest)))

    def has_changed(self, blob: RemovedBlob) -> bool:
        """Return whether a blob was recorded again since :meth:`get` returned it, as each step of its removal does."""
        return self._recorded(blob.digest) != blob.since

    def move_away(self, digest: Digest) -> bool:
        """Move the bytes of a blob away from readers; return False if it has none."""
        self.add(digest)
        return store_removal.move(self._driver, layout.blob_data(digest), layout.removed_data(digest))

    def restore(self, digest: Digest, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Move the bytes of a blob back; return False if none are waiting for their removal, or none are wanted."""
        waiting = layout.removed_data(digest)
        if self._driver.find_size(waiting) is None or not is_wanted():
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
            return float(stored_document.parse(self._driver.find(layout.removed_since(digest)) or b"")["since"])
        except (ValueError, KeyError, TypeError):
            return None


class Reclamation:
    """
    Removes the bytes of blobs to which nothing refers any more, safely beside requests on all hosts.

    A blob is recorded before its last reference is removed. Some time later its bytes are moved away, where a request
    still finds them and moves them back. References are counted after that: a push either wrote its reference before,
    and the bytes are moved back, or it has found no bytes, and writes them again.

    Attributes:
        first_steps: functions that are called before references are counted, as they may restore some.
        companions: functions that remove what was derived from a blob. They are called with its digest before its bytes
            are moved away, and again before they are removed.
    """

    def __init__(
        self,
        driver: StorageDriver,
        removed: RemovedBlobs,
        references: References,
        slices: TimeSlices,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            slices: divides the work on many blobs into time slices.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._removed = removed
        self._references = references
        self._pace = slices.pace
        self._now = now
        self.first_steps: list[Callable[[], object]] = []
        self.companions: list[Callable[[Digest], object]] = []

    def run(self, is_stopped: Callable[[], bool] = lambda: False) -> int:
        """
        Take the next step for each recorded blob whose time has come.

        Only one process at a time should do this, to save work; several do no harm, because each leaves the blobs
        alone for which another one has taken a step since it began.

        Args:
            is_stopped: asked before each change; ends the work when it returns true.

        Returns:
            The number of bytes removed.

        Raises:
            StorageUnavailable: the store cannot be reached; the remaining blobs are left for the next run.
            StorageError: a record could not be read, or a step failed; the steps of the other blobs were taken. On a
                full store, they may free space.
        """
        for step in () if is_stopped() else self.first_steps:
            step()
        due: dict[Digest, RemovedBlob] = {}
        removed_bytes, failures = 0, DeferredFailures()
        for digest in self._pace(self._removed.digests()):
            with failures.deferred():
                blob = self._removed.get(digest)
                if self._is_due(blob):
                    due[digest] = blob
        used = self._references.among(due) if due else set[Digest]()
        for blob in self._pace(due.values()):
            if is_stopped():
                break
            with failures.deferred():
                removed_bytes += self._step(blob, is_used=blob.digest in used)
        failures.raise_last()
        return removed_bytes

    def _is_due(self, blob: RemovedBlob) -> bool:
        age = self._now() - blob.since
        if age < -REMOVE_SECONDS:  # recorded by a host whose clock is wrong
            self._removed.add(blob.digest)
        return age >= (MOVE_SECONDS if blob.waiting_bytes is None else REMOVE_SECONDS)

    def _step(self, blob: RemovedBlob, *, is_used: bool) -> int:
        """Take the next step for a blob; return the number of bytes removed."""
        if self._removed.has_changed(blob):  # counting takes long, and what was counted may be outdated
            return 0
        if blob.waiting_bytes is None:
            self._move_away(blob.digest, is_used=is_used)
            return 0
        return blob.waiting_bytes if self._settle(blob.digest, is_used=is_used) else 0

    def _move_away(self, digest: Digest, *, is_used: bool) -> None:
        if not is_used:
            self._remove_companions(digest)
        if is_used or not self._removed.move_away(digest):
            self._removed.forget(digest)

    def _settle(self, digest: Digest, *, is_used: bool) -> bool:
        """Remove the waiting bytes of a blob, or move them back; return whether they were removed."""
        is_there = self._driver.find_size(layout.blob_data(digest)) is not None
        if not is_used:
            self._remove_companions(digest)
        if is_used and not is_there:
            self._removed.restore(digest)
            logger.info("blob %s was pushed while it was being removed, and stays", digest)
        if is_there and not is_used:  # the push that wrote it has not written its reference yet, or has failed
            self._removed.discard_bytes(digest)
        else:
            self._removed.forget(digest)
        return not is_used

    def _remove_companions(self, digest: Digest) -> None:
        for remove in self.companions:
            remove(digest)
