"""Symbolic links in the tree of a store that lead to nothing, or out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from docker_registry.drivers.paths import folders_above
from docker_registry.errors import LinkBroken


def check_missing(path: str, locate: Callable[[str], str]) -> None:
    """
    Check that a path is not missing because of a symbolic link.

    Args:
        locate: returns the location of a path in the file system.

    Raises:
        LinkBroken: a symbolic link leads to nothing.
    """
    for existing in reversed(folders_above(f"{path}/")):
        location = locate(existing)
        if os.path.lexists(location):
            if not os.path.exists(location):
                raise LinkBroken("A symbolic link leads to nothing, such as an unmounted disk.", path=existing)
            return


def check_inside(fd: int, path: str, root: str) -> None:
    """
    Check that an open file or folder is in the root.

    Raises:
        LinkBroken: a symbolic link has led out of it.
    """
    real = os.readlink(f"/proc/self/fd/{fd}")
    if real != root and not real.startswith(f"{root}/"):
        raise LinkBroken("A symbolic link leads out of the store.", path=path)


def raise_all(errors: Sequence[LinkBroken]) -> None:
    """Raise the first of several errors, with the paths of the others, if there is one."""
    if errors:
        first, *others = errors
        raise LinkBroken(first.sentence, path=first.paths[0], others=[path for each in others for path in each.paths])
