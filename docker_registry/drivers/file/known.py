"""
A cache of inodes that are known to be inside the store.

Opening a path shows whether a symbolic link leads out of the root (:meth:`~.tree.Tree.look`), and takes three times as
long as one stat. A path that still leads to the same inode as before needs no second check: whatever links the path
contains now, the file is inside the store. File systems reuse the inode number of a removed file, so the change time of
the inode is compared as well, except for a folder, whose change time changes with every file added or removed.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from docker_registry import dependencies
from docker_registry.drivers.file.tree import Tree

#: The maximum number of cached paths: about a MiB.
_MAX_PATHS: Final = 4096

#: Device, inode number, and change time in nanoseconds, which is 0 for a folder.
_Inode = tuple[int, int, int]


class Known:
    """Finds paths that are requested repeatedly, such as blobs of base images and the files of each repository."""

    def __init__(self, tree: Tree, max_paths: int = _MAX_PATHS) -> None:
        self._tree = tree
        self._max_paths = max_paths
        self._inodes: dict[str, _Inode] = {}

    def find(self, path: str) -> os.stat_result | None:
        """Return the metadata of a path; None if it does not exist; see :meth:`Tree.find`."""
        place = self._tree.place(path)
        try:
            found = os.stat(place)
        except OSError as error:
            self._tree.note_absence(path, error)
            return None
        if self._inodes.get(path) == _inode(found):
            dependencies.note(place, found)
            return found
        return self._learn(path)

    def _learn(self, path: str) -> os.stat_result | None:
        found = self._tree.find(path)
        if found is not None:
            if len(self._inodes) >= self._max_paths:
                self._inodes.clear()
            self._inodes[path] = _inode(found)
        return found


def _inode(found: os.stat_result) -> _Inode:
    return found.st_dev, found.st_ino, 0 if stat.S_ISDIR(found.st_mode) else found.st_ctime_ns
