"""
What tells one store from all others, however it is reached: a random text in a file of its own.

The name of a bucket or the path of a folder would not do: two hosts mount one folder in two places, and the same path
on two hosts is two folders. Whoever copies a whole store gives the copy another identity by removing the file there.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError

logger = logging.getLogger(__name__)

#: Beside the tree of the distribution registry, which ignores it.
PATH: Final = "docker/registry/v2/_identity"

#: Where several may write the file at once, each over the other's, nobody believes it before it is so old.
_YOUNG_SECONDS: Final = 10

#: After a failure the store is not asked for so long.
_PAUSE_SECONDS: Final = 10


class StoreIdentity:
    """The identity of a store, read or written when it is first needed, and then known."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._known: str | None = None
        self._ask_at = 0.0

    def __call__(self) -> str | None:
        """Return it; None as long as nobody can be sure of it."""
        if self._known is None and time.monotonic() >= self._ask_at:
            try:
                self._known = self._find()
            except StorageError as error:
                self._ask_at = time.monotonic() + _PAUSE_SECONDS
                logger.warning("nothing is cached, as the identity of the store cannot be found out: %s", error)
        return self._known

    def _find(self) -> str | None:
        try:
            return self._read()
        except PathNotFound:
            condition = ABSENT if self._driver.supports_if_match else None
        try:
            self._driver.put_content(PATH, secrets.token_hex(16).encode(), if_match=condition)
        except PreconditionFailed:  # another process was faster
            pass
        return self._read()

    def _read(self) -> str | None:
        content = self._driver.get_content(PATH)
        if not self._driver.supports_if_match and self._driver.stat(PATH).modified > time.time() - _YOUNG_SECONDS:
            self._ask_at = time.monotonic() + 1
            return None
        return content.decode("ascii", "replace").strip()
