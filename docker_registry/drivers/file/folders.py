"""What lies in folders of the file system, where a file system also keeps things of its own."""

from __future__ import annotations

import os
import re
from typing import Final

from docker_registry.drivers.base import check_path
from docker_registry.errors import PathInvalid

#: The name under which NFS keeps a file that was removed while somebody reads it.
_SILLY_RENAMED: Final = re.compile(r"\.nfs[0-9a-f]{16,}")


def is_ours(name: str) -> bool:
    """Tell whether a name in the file system can be part of a path, and is not how the file system helps itself."""
    if _SILLY_RENAMED.fullmatch(name):
        return False
    try:
        check_path(name)
    except PathInvalid:
        return False
    return True


def holds_files(folder: str) -> bool:
    """Tell whether there is a file at any depth below a place; folders alone are nothing."""
    try:
        with os.scandir(folder) as entries:
            return any(
                is_ours(entry.name) and (not entry.is_dir(follow_symlinks=False) or holds_files(entry.path))
                for entry in entries
            )
    except FileNotFoundError:  # removed meanwhile, which says nothing of its neighbours
        return False


def remove_folders(folder: str) -> None:
    """
    Remove a folder with those in it.

    Raises:
        OSError: there is a file in one of them; some may be gone by then.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_folders(entry.path)
    os.rmdir(folder)
