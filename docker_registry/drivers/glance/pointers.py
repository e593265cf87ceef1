"""
Pointers from layers to Glance images: small files in the alternate, one next to the path of each layer.

::

    images/0a1b/layer.glance
    docker/registry/v2/blobs/sha256/9b/9b1d…/data.glance      {"image": "3f9c5e8a-…", "size": 1048576}

The alternate publishes a pointer atomically, and the layer with it. ``"shared": true`` means that another pointer may
reference the same image, as for a moment during a move by copying, or for longer after a crash. Removing such a pointer
does not delete the image; the sweep does when no pointer references it.
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

#: The last one is where the bytes of a blob wait for their removal.
_LAYER = re.compile(r"images/[^/]+/layer|docker/registry/v2/(?:blobs/[^/]+/[^/]+/[^/]+|_removed/[^/]+)/data")
_PARENTS_OF_LAYERS = re.compile(r"images(/[^/]+)?|docker(/registry(/v2(/blobs(/[^/]+){0,3}|/_removed(/[^/]+)?)?)?)?")


@dataclass(frozen=True, slots=True)
class Pointer:
    """
    The location of a layer's bytes.

    Attributes:
        image: the image's ID in Glance; None for an empty layer.
        size: size of the layer in bytes.
        is_shared: whether another pointer may reference the same image.
        version: version of the pointer file; None if the pointer was not read from a file.
    """

    image: str | None
    size: int
    is_shared: bool = False
    version: str | None = None

    def dump(self) -> bytes:
        """Return the content of the pointer file."""
        members: dict[str, Any] = {"image": self.image, "size": self.size}
        if self.is_shared:
            members["shared"] = True
        return json.dumps(members).encode()


def is_layer(path: str) -> bool:
    """Return whether a path is that of a layer, which is stored in Glance."""
    return _LAYER.fullmatch(path) is not None


def may_contain_layers(folder: str) -> bool:
    """Return whether there may be layers below a folder."""
    return not folder or _PARENTS_OF_LAYERS.fullmatch(folder) is not None


def parse(stored: Versioned, path: str) -> Pointer:
    """
    Parse a pointer file.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        members = json.loads(stored.content)
        return Pointer(members["image"], int(members["size"]), bool(members.get("shared")), stored.version)
    except (ValueError, KeyError, TypeError):
        raise StorageError("The pointer to a layer in Glance is damaged.", path=path) from None


def find(driver: StorageDriver, path: str) -> Pointer | None:
    """Return the pointer of a layer; None if the layer is not in Glance."""
    try:
        return parse(driver.get_versioned(path + SUFFIX), path)
    except PathNotFound:
        return None


def list_below(driver: StorageDriver, folder: str) -> Iterator[tuple[str, Pointer]]:
    """Yield the path and the pointer of every layer in Glance below a folder."""
    for stat in driver.walk(folder):
        path = stat.path.removesuffix(SUFFIX)
        if path == stat.path or not is_layer(path):  # the name of a tag of API V1 may end with the suffix too
            continue
        pointer = find(driver, path)
        if pointer is not None:
            yield path, pointer
