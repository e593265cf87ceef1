"""
The identity of a store: a random text, kept in a file of the store.

A bucket name or folder path cannot identify a store: two hosts may mount one folder under different paths, and the same
path on two hosts may be two folders. After a whole store is copied, delete the file in the copy to give it a new
identity.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError

logger = logging.getLogger(__name__)

#: Next to the ``blobs`` and ``repositories`` folders of distribution, which ignores this file.
PATH: Final = "docker/registry/v2/_identity"

#: Without conditional puts, concurrent writers may overwrite each other's file: use its content only from this age on.
_YOUNG_SECONDS: Final = 10

#: After a failed read or write, wait this long before the next attempt.
_PAUSE_SECONDS: Final = 10


class StoreIdentity:
    """The identity of a store: read, or created if missing, on first use and then cached."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._known: str | None = None
        self._ask_at = 0.0

    def __call__(self) -> str | None:
        """Return the identity; None while it is not yet reliable or the store cannot be read."""
        if self._known is None and time.monotonic() >= self._ask_at:
            try:
                self._known = self._find()
            except StorageError as error:
                self._ask_at = time.monotonic() + _PAUSE_SECONDS
                logger.warning("the identity of the store is unknown, so the cache is off: %s", error)
        return self._known

    def _find(self) -> str | None:
        try:
            return self._read()
        except PathNotFound:
            condition = ABSENT if self._driver.capabilities.if_match else None
        try:
            self._driver.put_content(PATH, secrets.token_hex(16).encode(), if_match=condition)
        except PreconditionFailed:  # another process created it first
            pass
        return self._read()

    def _read(self) -> str | None:
        content = self._driver.get_content(PATH)
        if not self._driver.capabilities.if_match and self._driver.stat(PATH).modified > time.time() - _YOUNG_SECONDS:
            self._ask_at = time.monotonic() + 1
            return None
        identity = content.decode("ascii", "replace").strip()
        if not identity:  # two such stores would share their cache
            raise StorageError("The file is empty. Remove it, so that another one is written.", path=PATH)
        return identity
