"""
A cache of inodes that are known to lie in the store.

Opening a path shows whether a symbolic link on the way leads out of the root (:meth:`~.tree.Tree.look`), and takes
three times as long as one stat. A path that still leads to the inode found before needs no second check: whatever links
are on the way now, the file lies in the store. File systems give the inode number of a removed file to a new one, so
the time of the inode is compared as well; not that of a folder, which changes whenever a file comes or goes in it.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from docker_registry import provenance
from docker_registry.drivers.file.tree import Tree

#: So many paths are known at most: about a MiB.
_MAX_PATHS: Final = 4096

#: Device, inode number, and the time of the inode in nanoseconds; that is 0 for a folder.
_Inode = tuple[int, int, int]


class Known:
    """Finds what is asked for again and again: the blobs of base images, what is kept for each repository."""

    def __init__(self, tree: Tree, max_paths: int = _MAX_PATHS) -> None:
        self._tree = tree
        self._max_paths = max_paths
        self._inodes: dict[str, _Inode] = {}

    def find(self, path: str) -> os.stat_result | None:
        """Describe what lies under a path; None when nothing does; see :meth:`Tree.find`."""
        place = self._tree.place(path)
        try:
            found = os.stat(place)
        except OSError as error:
            self._tree.note_absence(path, error)
            return None
        if self._inodes.get(path) == _inode(found):
            provenance.note(place, found)
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
