"""
The paths under which drivers keep files.

``images/0a1b/layer``: components joined by ``/``, without a slash at either end. A component is not empty, ``.`` or
``..``, has at most 255 bytes of UTF-8 and contains no control characters. ``""`` is the root, which only
:meth:`~docker_registry.drivers.base.StorageDriver.list_directory` and
:meth:`~docker_registry.drivers.base.StorageDriver.walk` accept.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Final

from docker_registry.errors import PathInvalid

MAX_COMPONENT_BYTES: Final = 255


@lru_cache(maxsize=1024)  # each layer of drivers checks the paths of a request
def check_path(path: str, *, root: bool = False) -> str:
    """
    Return *path* if it follows the path grammar.

    Args:
        root: whether to accept the empty path.

    Raises:
        PathInvalid: it does not follow the grammar.
    """
    if not path and root:
        return path
    if path.isascii() and path.isprintable():
        too_long = len(path) > MAX_COMPONENT_BYTES and any(len(part) > MAX_COMPONENT_BYTES for part in path.split("/"))
    else:
        too_long = not _is_clean(path) or any(len(part.encode()) > MAX_COMPONENT_BYTES for part in path.split("/"))
    framed = f"/{path}/"
    if too_long or "//" in framed or "/./" in framed or "/../" in framed:
        raise PathInvalid(path=path)
    return path


def folders_above(path: str) -> list[str]:
    """Return the folders that contain a path, outermost first, without the root."""
    return [*accumulate(path.split("/")[:-1], "{}/{}".format)]


def _is_clean(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # an unpaired surrogate, which no file system or bucket can store
        return False
    return not any(ord(character) < 0x20 or ord(character) == 0x7F for character in path)
