"""File modes: which files of a store only their owner may read."""

from __future__ import annotations

import os
import stat
from typing import Final

#: Files that other servers of the same folder read too, such as nginx or another registry.
SHARED: Final = 0o644

#: Keys and passwords.
SECRET: Final = 0o600

#: The key that signs tokens of API V1; earlier versions created it world-readable.
_KEYS: Final = ("docker/registry/v2/_v1/token-key",)


def mode_of(path: str) -> int:
    """Return the mode of the file for a path of the store."""
    return SECRET if path in _KEYS or "/_auth/" in path else SHARED


def restrict_keys(root: str) -> None:
    """Remove group and world permissions from keys that an earlier version created."""
    for path in _KEYS:
        place = f"{root}/{path}"
        try:
            found = os.lstat(place)
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                os.chmod(place, SECRET)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
