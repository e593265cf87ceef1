"""What earlier processes left in a store: unfinished files of those that died, and keys that all users can read."""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import suppress
from typing import Final

from docker_registry.drivers.file.reserved_folder import KEYS, SECRET, Staging, discard

#: The names of staged files and folders, in the subfolders or, written by older versions, beside them.
_OURS: Final = re.compile("[0-9a-f]{32}")

logger = logging.getLogger(__name__)


def remove_leftovers(staging: Staging, before: float) -> int:
    """
    Remove entries of a staging folder that are older than *before*; return their number.

    Args:
        before: seconds since the epoch.
    """
    removed = 0
    subfolders = staging.found()
    for folder in (staging.folder, *subfolders):
        with os.scandir(folder) as entries:
            for entry in entries:
                # Compare the change time: a file that was moved here or linked keeps its old modification time.
                with suppress(FileNotFoundError):
                    if entry.path in subfolders or entry.stat(follow_symlinks=False).st_ctime >= before:
                        continue
                    if folder == staging.folder and not _is_ours(entry):
                        logger.warning("%s is not a file of the registry; it is left unchanged.", entry.path)
                        continue
                    discard(entry.path)
                    removed += 1
    return removed


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry beside the subfolders was made by this driver, in this version or an older one."""
    return bool(_OURS.fullmatch(entry.name)) or entry.is_file(follow_symlinks=False)


def restrict_keys(root: str) -> None:
    """Remove group and world permissions from keys that an earlier version created."""
    for path in KEYS:
        location = f"{root}/{path}"
        try:
            found = os.lstat(location)
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                os.chmod(location, SECRET)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
