"""Changes documents in the store that several workers and hosts may change at the same time."""

from __future__ import annotations

from collections.abc import Callable

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PreconditionFailed


def change(driver: StorageDriver, path: str, read: Callable[[], str], make: Callable[[], bytes | None]) -> None:
    """
    Replace a document by compare-and-swap, and read it again.

    Args:
        read: reads the document, and returns its version; called again after a concurrent change.
        make: returns the new content, made of what was read; None to leave the document as it is.
    """
    while True:
        version = read()
        content = make()
        if content is None:
            return
        condition = version if driver.capabilities.if_match else None
        try:
            driver.put_content(path, content, if_match=condition)
        except PreconditionFailed:
            continue
        read()
        return
