"""Removes the descriptors of deleted referrers, but none that a concurrent push has just written."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.registry import store_removal

#: More than a push takes between its descriptor and its link.
_YOUNG_SECONDS: Final = 300

#: Maximum number of descriptors that wait for their removal; of more, the oldest stay.
_MAX_WAITING: Final = 10_000


class ReferrerRemoval:
    """
    Removes descriptors while their manifests have no link.

    On stores with :attr:`~docker_registry.drivers.base.Capabilities.pages`, pushes do not look whether a deletion has
    removed their descriptor before they wrote their link. So a young descriptor stays there, and a later call removes
    it. It is ignored without the link, so one that a worker leaves when it ends does no harm.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._waiting: deque[tuple[float, str, str]] = deque(maxlen=_MAX_WAITING)  # when to remove a path, and its link

    def remove_descriptor(self, path: str, link: str) -> None:
        """
        Remove a descriptor, at once or later.

        Args:
            path: of the descriptor.
            link: path of the link to its manifest.
        """
        self._remove_waiting()
        with suppress(PathNotFound):
            if self._driver.capabilities.pages and self._driver.stat(path).modified > time.time() - _YOUNG_SECONDS:
                self._waiting.append((time.monotonic() + _YOUNG_SECONDS, path, link))
                return
        self._take(path, link)

    def _remove_waiting(self) -> None:
        """Remove up to two descriptors that are no longer young; a call adds one at most."""
        for _ in range(2):
            if not self._waiting or self._waiting[0][0] > time.monotonic():
                return
            _, path, link = self._waiting.popleft()
            with suppress(StorageError):
                self._take(path, link)

    def _take(self, path: str, link: str) -> None:
        store_removal.take_while(self._driver, path, lambda: not self._driver.has_file(link))
