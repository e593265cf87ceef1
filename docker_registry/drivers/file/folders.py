"""Entries of folders, without those that a file system creates for itself."""

from __future__ import annotations

import os
import re
from typing import Final

from docker_registry.drivers.base import check_path
from docker_registry.errors import PathInvalid

#: The name that an NFS client gives to a removed file that is still open ("silly rename").
_SILLY_RENAMED: Final = re.compile(r"\.nfs[0-9a-f]{16,}")


def is_ours(name: str) -> bool:
    """Return whether a file name can be a component of a path and is not one that NFS uses internally."""
    if _SILLY_RENAMED.fullmatch(name):
        return False
    try:
        check_path(name)
    except PathInvalid:
        return False
    return True


def holds_files(folder: str) -> bool:
    """Return whether a folder contains a file at any depth."""
    try:
        with os.scandir(folder) as entries:
            return any(
                is_ours(entry.name) and (not entry.is_dir(follow_symlinks=False) or holds_files(entry.path))
                for entry in entries
            )
    except FileNotFoundError:  # removed meanwhile; the other entries still count
        return False


def remove_folders(folder: str) -> None:
    """
    Remove a folder and its subfolders.

    Raises:
        OSError: one of them contains a file; some may already have been removed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_folders(entry.path)
    os.rmdir(folder)
