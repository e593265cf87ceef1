"""
Records of what a mirrored registry of API V1 has answered.

They are no files of repositories and images, because these have precedence over every source. Each begins with a line
of JSON; the answer follows as it was received::

    docker/registry/v2/_mirror/_v1/repositories/library+base/tags     {"checked": 1767225600.0}
    docker/registry/v2/_mirror/_v1/repositories/library+base/images   {"checked": 1767225600.0}
    docker/registry/v2/_mirror/_v1/images/<id>     {"ancestry": ["<id>", …], "size": 1024, "checksums": ["sha256:…"]}
    docker/registry/v2/_mirror/_v1/stored/<id>     (empty)

The record of an image is removed when the image itself is in the store; then an empty file says where it came from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import ImageId, ImageRepositoryName
from docker_registry.registry.v1.sources import SourceImage

_ROOT: Final = f"{layout.MIRROR}/_v1"

ListKind = Literal["tags", "images"]


@dataclass(frozen=True, slots=True)
class ListRecord:
    """
    A list of a repository.

    Attributes:
        checked: when the source sent it, seconds since the Unix epoch.
    """

    payload: bytes
    checked: float


class Records:
    """The records of a mirrored registry."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def find_list(self, name: ImageRepositoryName, kind: ListKind) -> ListRecord | None:
        """Return a list of a repository; None if there is none, or it is damaged."""
        head, payload = self._read(_list_path(name, kind))
        try:
            return ListRecord(payload, float(head["checked"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put_list(self, name: ImageRepositoryName, kind: ListKind, record: ListRecord) -> None:
        """Store a list of a repository."""
        self._write(_list_path(name, kind), {"checked": record.checked}, record.payload)

    def discard_lists(self, name: ImageRepositoryName) -> bool:
        """Remove the lists of a repository; return whether there were any."""
        return store_removal.remove(self._driver, _repository(name))

    def find_image(self, image_id: ImageId) -> SourceImage | None:
        """Return an image without its layer; None if there is no record, or it is damaged."""
        head, payload = self._read(_image_path(image_id))
        try:
            size = None if head["size"] is None else int(head["size"])
            return SourceImage(payload, tuple(map(str, head["ancestry"])), size, tuple(map(str, head["checksums"])))
        except (KeyError, TypeError, ValueError):
            return None

    def put_image(self, image_id: ImageId, image: SourceImage) -> None:
        """Store an image without its layer."""
        head = {"ancestry": image.ancestry, "size": image.size, "checksums": image.checksums}
        self._write(_image_path(image_id), head, image.payload)

    def discard_image(self, image_id: ImageId) -> None:
        """Remove the record of an image."""
        store_removal.remove(self._driver, _image_path(image_id))

    def mark_stored(self, image_id: ImageId) -> None:
        """Record that an image in the store came from the mirrored registry."""
        self._driver.put_content(_stored_path(image_id), b"")

    def is_stored(self, image_id: ImageId) -> bool:
        """Return whether an image in the store came from the mirrored registry."""
        return self._driver.exists(_stored_path(image_id))

    # ------------------------------------------------------------------------------------------------- steps

    def _read(self, path: str) -> tuple[dict[str, Any], bytes]:
        head, _, payload = (self._driver.find(path) or b"").partition(b"\n")
        try:
            document = json.loads(head)
        except ValueError:
            return {}, b""
        return document if isinstance(document, dict) else {}, payload

    def _write(self, path: str, head: dict[str, Any], payload: bytes) -> None:
        self._driver.put_content(path, json.dumps(head).encode() + b"\n" + payload)


def _repository(name: ImageRepositoryName) -> str:
    return f"{_ROOT}/repositories/{layout.flat_name(name)}"


def _list_path(name: ImageRepositoryName, kind: ListKind) -> str:
    return f"{_repository(name)}/{kind}"


def _stored_path(image_id: ImageId) -> str:
    return f"{_ROOT}/stored/{image_id}"


def _image_path(image_id: ImageId) -> str:
    return f"{_ROOT}/images/{image_id}"
