"""
Pending pushes of API V1: the mark ``images/<id>/_inprogress``, and the JSON received so far.

The JSON of a pushed image is kept in ``images/<id>/_pending/<its digest>``, preceded by a line with the ancestry, until
its layer has arrived and is verified. So concurrent pushes of one id, even with different JSON, do not interfere, and
none changes the image before its commit.

The mark is the format of 0.7.1, which has no other record of a push. Here it means that the state of the image must be
checked.
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
            self._driver.discard(path)

    def pending(self, image_id: ImageId) -> list[Pending]:
        """Return the pending JSON documents of an image, newest first."""
        found = (self._read(path) for path in self._paths(image_id))
        return [pending for pending in found if pending is not None]

    def find(self, image_id: ImageId, digest: Digest) -> Pending | None:
        """Return the pending JSON document with a digest; None when there is none."""
        return self._read(self._path(image_id, digest))

    def end(self, image_id: ImageId) -> None:
        """Remove the mark and all pending JSON documents of a committed image."""
        self._driver.discard(image_layout.in_progress(image_id))
        self._driver.discard(image_layout.pending(image_id))

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
