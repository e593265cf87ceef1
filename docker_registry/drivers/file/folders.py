"""
What a file system says of a store: which entries of its folders belong to the store, and what errors mean.

A file system and other programs put entries of their own into a folder. Those are neither listed nor counted.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Final

from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathInvalid, StorageError, StorageFull, StorageUnavailable

# ---------------------------------------------------------------------------------------------------------- entries

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


# ----------------------------------------------------------------------------------------------------------- errors

#: The path does not exist or is of another kind than expected.
NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AWAY: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}


def translated(path: str, error: OSError) -> StorageError:
    """Return the error of the store that corresponds to an operating system error for *path*."""
    if error.errno in _FULL:
        return StorageFull(path=path)
    if error.errno == errno.ENAMETOOLONG:
        return PathInvalid(path=path)
    if error.errno in _AWAY:
        return StorageUnavailable(path=path)
    if error.errno == errno.EXDEV:
        return StorageError("The folder of the store must be one file system, with no other mounted in it.", path=path)
    return StorageError(f"The store failed: {error.strerror}.", path=path)
