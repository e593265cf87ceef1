"""
What was found in the store before is known again by its number, and need not be opened.

That no link on the way to a file leads out of the root is found by opening it (:meth:`~.tree.Tree.look`), which takes
three times as long as to ask the system what lies there. What has the number that was found under that path before is
the very same file, so whatever links are on the way by now, it lies in the store.
"""

from __future__ import annotations

import os
from typing import Final

from docker_registry import provenance
from docker_registry.drivers.file.tree import Tree

#: So many paths are known at most: about a MiB.
_MAX_PATHS: Final = 4096


class Known:
    """Finds what is asked for again and again: the blobs of base images, what is kept for each repository."""

    def __init__(self, tree: Tree, max_paths: int = _MAX_PATHS) -> None:
        self._tree = tree
        self._max_paths = max_paths
        self._numbers: dict[str, tuple[int, int]] = {}  # of a file system, and of a file in it

    def find(self, path: str) -> os.stat_result | None:
        """Describe what lies under a path; None when nothing does; see :meth:`Tree.find`."""
        place = self._tree.place(path)
        try:
            found = os.stat(place)
        except OSError as error:
            self._tree.note_absence(path, error)
            return None
        if self._numbers.get(path) == (found.st_dev, found.st_ino):
            provenance.note(place, found)
            return found
        return self._learn(path)

    def _learn(self, path: str) -> os.stat_result | None:
        found = self._tree.find(path)
        if found is not None:
            if len(self._numbers) >= self._max_paths:
                self._numbers.clear()
            self._numbers[path] = found.st_dev, found.st_ino
        return found
