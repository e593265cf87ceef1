"""
The switch that makes a registry read-only, on all hosts of a store.

It is a small file in the store, which every worker reads every few seconds::

    {"why": "Moving to another bucket until 14:00."}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import Invalid, PathNotFound, StorageError
from docker_registry.registry import layout, store_removal

logger = logging.getLogger(__name__)

#: Time between two reads of the switch; changes apply on all hosts within five seconds.
REFRESH_SECONDS: Final = 2.0

MAX_WHY_CHARACTERS: Final = 500

#: The reason if the file is damaged, which counts as read-only.
_UNKNOWN: Final = "The registry is read-only."


class ReadOnly:
    """
    The switch, as this process last read it.

    Attributes:
        why: the reason, for clients; None if writes are allowed.
    """

    why: str | None = None

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    @property
    def is_on(self) -> bool:
        """Whether writes are refused."""
        return self.why is not None

    def switch_on(self, why: str) -> None:
        """
        Make the registry read-only.

        Args:
            why: the reason, for clients; one line.

        Raises:
            Invalid: the reason is empty, too long or not printable.
        """
        why = why.strip()
        if not why or len(why) > MAX_WHY_CHARACTERS or not why.isprintable():
            raise Invalid(f"The reason must be one line of 1 to {MAX_WHY_CHARACTERS} printable characters.")
        self._driver.put_content(layout.READ_ONLY, json.dumps({"why": why}).encode())
        self.why = why

    def switch_off(self) -> bool:
        """Allow writes again; return whether the registry was read-only."""
        try:
            return store_removal.remove(self._driver, layout.READ_ONLY)
        finally:
            self.why = None

    def refresh(self) -> None:
        """Read the switch; keep its state while the store cannot be read."""
        try:
            why = self._read()
        except StorageError as error:
            logger.warning("whether the registry is read-only could not be read: %s", error)
            return
        if why != self.why:
            logger.warning(
                "writes are allowed again" if why is None else "the registry is read-only: %s", *filter(None, [why])
            )
            self.why = why

    def watch(self, sleep: Callable[[float], object]) -> None:
        """Read the switch forever; runs in a greenlet."""
        while True:
            sleep(REFRESH_SECONDS)
            self.refresh()

    def _read(self) -> str | None:
        try:
            # Bypasses a cache in front of the store, which other hosts may not share.
            if self._driver.capabilities.if_match:
                content = self._driver.get_versioned(layout.READ_ONLY).content
            else:
                content = self._driver.get_content(layout.READ_ONLY)
        except PathNotFound:
            return None
        try:
            why = json.loads(content)["why"]
        except (ValueError, KeyError, TypeError):
            return _UNKNOWN
        return why if isinstance(why, str) else _UNKNOWN
