"""
Removal of files from the store: references (tags, links, entries of referrers), records, and the bytes of content.

This is the only module that removes what requests depend on, whichever API or mirror wrote it; its callers decide what
to remove. Only short-lived files are removed elsewhere, such as those of uploads.

* :func:`remove`: a file, or a whole folder. For links whose content never changes, records and whole folders.
* :func:`remove_version`, :func:`take_if`: by compare-and-swap. For files whose content matters, such as tags.
* :func:`take_while`: only while a condition on another file holds. For tags and referrers of a deleted manifest.

For example, a tag is removed only while the link of its manifest is absent. No driver can check one file and remove
another atomically, so both sides follow a protocol:

* The remover reads the file, marks it, checks the condition, and removes the file if it is still the marked one.
* A writer makes the condition false *before* it writes the file.

If the writer's file is newer than the mark, the removal fails; if it is older, the condition was already false when the
remover checked it. The mark is needed because the version of a file may be the hash of its content, so writing the same
bytes again would not be detected. It is appended to the content::

    sha256:0c2d… removal-5b0f…

Readers ignore the mark (:func:`unmarked`). It remains only if a process dies between the two steps, and is removed by
the next write or removal of the file. Without conditional writes in the driver, the file is compared and then removed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed

_MARK: Final = re.compile(rb" removal-[0-9a-f]{32}\Z")
_MARK_BYTES: Final = len(" removal-") + 32


def unmarked(content: bytes) -> bytes:
    """Return the content of a file without the mark of a removal."""
    return _MARK.sub(b"", content) if b" removal-" in content else content


def new_mark() -> bytes:
    """Return a unique mark."""
    return b" removal-" + secrets.token_hex(16).encode()


def is_mere_mark(driver: StorageDriver, path: str, size: int) -> bool:
    """Return whether a file of *size* bytes has no content but a mark; only a file of that size is read."""
    return size == _MARK_BYTES and not unmarked(driver.find(path) or b"")


def remove(driver: StorageDriver, path: str) -> bool:
    """Remove a file, or a folder with all its content; return whether it existed."""
    return driver.discard(path)


def remove_version(driver: StorageDriver, path: str, version: str) -> bool:
    """Remove a file if it still has a version; return False if it was changed or removed."""
    try:
        driver.remove_if_match(path, version)
    except PreconditionFailed:
        return False
    return True


def move(driver: StorageDriver, path: str, target: str) -> bool:
    """Move a file away from where readers look for it, or back; return whether it existed."""
    try:
        driver.move(path, target)
    except PathNotFound:
        return False
    return True


def take_if(driver: StorageDriver, path: str, is_expected: Callable[[bytes], bool]) -> bytes | None:
    """Remove a file if its content is expected; return the content, or None if nothing was removed."""
    while True:
        stored = driver.find_versioned(path)
        if stored is None:
            return None
        content = unmarked(stored.content)
        if not is_expected(content):
            return None
        if remove_version(driver, path, stored.version):
            return content


def take_while(
    driver: StorageDriver,
    path: str,
    holds: Callable[[], bool],
    is_expected: Callable[[bytes], bool] | None = None,
) -> bytes | None:
    """
    Remove a file if its content is expected, but only while a condition on another file holds.

    A file that was written after the condition became false is never removed.

    Args:
        holds: returns whether the condition holds.
        is_expected: returns whether the file may be removed, given its content; None accepts any content.

    Returns:
        The content of the removed file; None if nothing was removed.
    """
    try:
        stored = driver.get_versioned(path)
        content = unmarked(stored.content)
        if (is_expected is not None and not is_expected(content)) or not holds():
            return None
        version = stored.version
        if driver.capabilities.if_match:
            mark = content + new_mark()
            driver.put_content(path, mark, if_match=version)
            marked = driver.get_versioned(path)
            if marked.content != mark:
                return None
            version = marked.version
            if not holds():
                driver.put_content(path, content, if_match=version)
                return None
        driver.remove_if_match(path, version)
    except (PreconditionFailed, PathNotFound):  # written or removed by a concurrent request
        return None
    return content
