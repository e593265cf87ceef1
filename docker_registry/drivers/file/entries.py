"""Entries of folders: which ones are files of the store, and not of the file system or other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from docker_registry.drivers.paths import check_path
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
    return any(are_files(folder))


def are_files(folder: str) -> Iterator[bool]:
    """Yield for each entry at any depth whether it is a file."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_file = not entry.is_dir(follow_symlinks=False)
                yield is_file and is_ours(entry.name)
                if not is_file and is_ours(entry.name):
                    yield from are_files(entry.path)
    except FileNotFoundError:  # removed meanwhile; the other entries still count
        return
