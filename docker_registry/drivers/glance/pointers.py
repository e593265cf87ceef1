"""
Which image of Glance is which layer: small files of the other store, one beside the place of each layer.

::

    images/0a1b/layer.glance
    docker/registry/v2/blobs/sha256/9b/9b1d…/data.glance      {"image": "3f9c5e8a-…", "size": 1048576}

Such a file is published as every other one of that store, whole and at once, and with it the layer. ``"shared": true``
says that another pointer may name the same image, as for a moment while one is moved, and after a crash for longer:
then nobody removes the image with the pointer, but only once no pointer at all names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver, Versioned
from docker_registry.errors import PathNotFound, StorageError

SUFFIX: Final = ".glance"

_LAYER = re.compile(r"images/[^/]+/layer|docker/registry/v2/blobs/[^/]+/[^/]+/[^/]+/data")
_AROUND_LAYERS = re.compile(r"images(/[^/]+)?|docker(/registry(/v2(/blobs(/[^/]+){0,3})?)?)?")


@dataclass(frozen=True, slots=True)
class Pointer:
    """
    Where a layer's bytes are.

    Attributes:
        image: the id in Glance; None of a layer without any bytes.
        size: bytes.
        is_shared: whether another pointer may name the same image.
        version: of the file that it was read from.
    """

    image: str | None
    size: int
    is_shared: bool = False
    version: str | None = None

    def dump(self) -> bytes:
        """Return the content of its file."""
        members: dict[str, Any] = {"image": self.image, "size": self.size}
        if self.is_shared:
            members["shared"] = True
        return json.dumps(members).encode()


def is_layer(path: str) -> bool:
    """Tell whether what lies there belongs into Glance."""
    return _LAYER.fullmatch(path) is not None


def may_hold_layers(folder: str) -> bool:
    """Tell whether layers may lie below a folder."""
    return not folder or _AROUND_LAYERS.fullmatch(folder) is not None


def parse(stored: Versioned, path: str) -> Pointer:
    """
    Raises:
        StorageError: it is damaged.
    """
    try:
        members = json.loads(stored.content)
        return Pointer(members["image"], int(members["size"]), bool(members.get("shared")), stored.version)
    except (ValueError, KeyError, TypeError):
        raise StorageError("What says where a layer is in Glance is damaged.", path=path) from None


def find(driver: StorageDriver, path: str) -> Pointer | None:
    """Return what points at the image of a layer; None when the layer is not in Glance."""
    try:
        return parse(driver.get_versioned(path + SUFFIX), path)
    except PathNotFound:
        return None


def below(driver: StorageDriver, folder: str) -> Iterator[tuple[str, Pointer]]:
    """Yield the path of every layer below a folder that is in Glance, and what points at it."""
    for stat in driver.walk(folder):
        if stat.path.endswith(SUFFIX):
            path = stat.path.removesuffix(SUFFIX)
            pointer = find(driver, path)
            if pointer is not None:
                yield path, pointer
