"""
Notes in the store that a search index lacks changes, so that it is rebuilt even if a worker ends before it catches up.

::

    docker/registry/v2/_search/<index>/<random>     {}

There is one note for each worker that could not reach the index. The worker removes its own when it has caught up;
a rebuild of the index removes those that it found when it began.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.registry import layout, store_removal

logger = logging.getLogger(__name__)


class MissedUpdates:
    """The notes about one index, of all workers and hosts."""

    def __init__(self, driver: StorageDriver, index: str) -> None:
        """
        Args:
            index: what identifies the index, such as the URL of its database; only a hash of it is stored.
        """
        self._driver = driver
        self._folder = layout.search_notes(hashlib.sha256(index.encode("utf-8", "replace")).hexdigest()[:16])
        self._own = self._new()
        self._is_noted = False
        self._is_failing = False

    def note(self) -> None:
        """Note that this worker has changes that the index lacks; a store that fails is only logged, and once."""
        try:
            if not self._driver.has_file(self._own):  # a rebuild may have removed it
                self._driver.put_content(self._own, b"{}")
            self._is_noted, self._is_failing = True, False
        except StorageError as error:
            if not self._is_failing:
                logger.warning("the store could not record that the search index lacks changes: %s", error)
            self._is_failing = True

    def settle(self) -> None:
        """Remove the note of this worker, which has caught up."""
        if not self._is_noted:
            return
        self._is_noted = False
        try:
            store_removal.remove(self._driver, self._own)
        except StorageError as error:  # costs one needless rebuild
            logger.warning("the note about the search index cannot be removed: %s", error)

    def leave(self) -> None:
        """Leave the note of this worker, which cannot catch up, to the next rebuild; a later note is a new one."""
        self._own, self._is_noted = self._new(), False

    def all(self) -> Sequence[str]:
        """Return the paths of the notes of all workers."""
        try:
            return list(self._driver.list_directory(self._folder))
        except PathNotFound:
            return ()

    def forget(self, paths: Iterable[str]) -> None:
        """Remove notes that were found before the index was rebuilt."""
        for path in paths:
            store_removal.remove(self._driver, path)

    def _new(self) -> str:
        return f"{self._folder}/{secrets.token_hex(8)}"
