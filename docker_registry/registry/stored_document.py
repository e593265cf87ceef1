"""Small documents in the store that several workers and hosts may change at the same time."""

from __future__ import annotations

from collections.abc import Callable

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import PreconditionFailed


def change(driver: StorageDriver, path: str, make: Callable[[Versioned | None], bytes | None]) -> None:
    """
    Replace a document by compare-and-swap. On a store without conditional writes, concurrent changes may be lost.

    Args:
        make: returns the new content, given what is stored (None if there is nothing); called again after a concurrent
            change. If it returns None, the document stays as it is.
    """
    while True:
        stored = driver.find_versioned(path)
        content = make(stored)
        if content is None:
            return
        version = ABSENT if stored is None else stored.version
        try:
            driver.put_content(path, content, if_match=version if driver.capabilities.if_match else None)
        except PreconditionFailed:
            continue
        return
