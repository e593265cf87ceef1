"""
Pushes of API V1 that are not finished: a mark, ``images/<id>/_inprogress``, and what was sent so far.

An image's JSON waits in ``images/<id>/_pending/<its digest>``, a line with the ancestry before it, until its layer is
there and verified. So several pushes of one id, even with different JSON, do not get into each other's way, and none
changes what an image is before it ends.

The mark is for 0.7.1, which knows nothing else, and says that something may have to be looked at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.v1 import image_layout

_MARK: Final = b"true"

#: Different JSON documents of one id that wait at the same time; the oldest goes when there are more.
MAX_PENDING: Final = 4


@dataclass(frozen=True, slots=True)
class Pending:
    """
    An image that waits for its layer.

    Attributes:
        payload: its JSON as it was sent.
        ancestry: its id and those of all below it, newest first.
    """

    payload: bytes
    ancestry: tuple[str, ...]


class UnfinishedPushes:
    """All pushes that have begun."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def is_marked(self, image_id: ImageId) -> bool:
        """Tell whether a push of an image has begun and, for all that is known, not ended."""
        return self._driver.exists(image_layout.in_progress(image_id))

    def mark(self, image_id: ImageId) -> None:
        """Say that an image has to be pushed."""
        self._driver.put_content(image_layout.in_progress(image_id), _MARK)

    def marked_since(self, image_id: ImageId) -> float | None:
        """Return when the mark was made, seconds since the Unix epoch; None without one."""
        try:
            return self._driver.stat(image_layout.in_progress(image_id)).modified
        except PathNotFound:
            return None

    def begin(self, image_id: ImageId, pending: Pending) -> None:
        """Mark an image, and keep what was sent."""
        self.mark(image_id)
        self._driver.put_content(self._path(image_id, Digest.of(pending.payload)), _dump(pending))
        for path in self._paths(image_id)[MAX_PENDING:]:
            self._remove(path)

    def pending(self, image_id: ImageId) -> list[Pending]:
        """Return all that waits of an image, the newest first."""
        found = (self._read(path) for path in self._paths(image_id))
        return [pending for pending in found if pending is not None]

    def find(self, image_id: ImageId, digest: Digest) -> Pending | None:
        """Return the one whose JSON has a digest."""
        return self._read(self._path(image_id, digest))

    def end(self, image_id: ImageId) -> None:
        """Forget all of it: the image is whole."""
        self._remove(image_layout.in_progress(image_id))
        self._remove(image_layout.pending(image_id))

    def _path(self, image_id: ImageId, digest: Digest) -> str:
        return f"{image_layout.pending(image_id)}/{digest.hex}"

    def _paths(self, image_id: ImageId) -> list[str]:
        stats = self._driver.walk(image_layout.pending(image_id))
        return [stat.path for stat in sorted(stats, key=lambda stat: stat.modified, reverse=True)]

    def _read(self, path: str) -> Pending | None:
        try:
            line, _, payload = self._driver.get_content(path).partition(b"\n")
            return Pending(payload, tuple(json.loads(line)))
        except (PathNotFound, ValueError):  # ended just now, or not ours
            return None

    def _remove(self, path: str) -> None:
        try:
            self._driver.remove(path)
        except PathNotFound:
            pass


def _dump(pending: Pending) -> bytes:
    return json.dumps(pending.ancestry).encode() + b"\n" + pending.payload
