"""
Conditional removal: a file of the store is removed only while a condition holds, whatever other requests do meanwhile.

The condition concerns another file: a tag is removed only while its manifest's link is absent, for example. Nothing can
compare that file and remove this one in one step, so the two sides follow a protocol:

* The remover reads the file, marks it, checks the condition, and removes the file if it is still the marked one.
* A writer makes the condition false *before* it writes the file.

So whenever the writer's file is newer than the mark, the removal fails; whenever it is older, the condition was false
when the remover checked it. The mark is needed because the version of a file may be the hash of its content: a writer
that writes the very same bytes again would not be noticed. It is appended to the content::

    sha256:0c2d… removal-5b0f…

Readers ignore it (:func:`unmarked`); it stays only where a process dies between the two steps, and the next write or
removal of the file takes it away. Where the driver has no conditional put, the file is compared and then removed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed

_MARK: Final = re.compile(rb" removal-[0-9a-f]{32}\Z")


def unmarked(content: bytes) -> bytes:
    """Return the content of a file as it was before a removal marked it."""
    return _MARK.sub(b"", content) if b" removal-" in content else content


def new_mark() -> bytes:
    """Return a mark that no other removal, nor any other request, uses."""
    return b" removal-" + secrets.token_hex(16).encode()


def remove(driver: StorageDriver, path: str) -> bool:
    """Remove a file, or a folder with all that lies below it; False when nothing was there."""
    try:
        driver.remove(path)
    except PathNotFound:
        return False
    return True


def take_if(driver: StorageDriver, path: str, is_expected: Callable[[bytes], bool]) -> bytes | None:
    """Remove a file if its content is expected, and return that; None when it is not, or no file is there."""
    while True:
        try:
            stored = driver.get_versioned(path)
            content = unmarked(stored.content)
            if not is_expected(content):
                return None
            driver.remove_if_match(path, stored.version)
        except PreconditionFailed:
            continue
        except PathNotFound:
            return None
        return content


def take_while(
    driver: StorageDriver,
    path: str,
    holds: Callable[[], bool],
    is_expected: Callable[[bytes], bool] | None = None,
) -> bytes | None:
    """
    Remove a file only while a condition on another file holds, and if its content is expected.

    A write of the file that follows one that makes the condition false is never undone.

    Returns:
        The content that was removed; None when nothing was removed.
    """
    try:
        stored = driver.get_versioned(path)
        content = unmarked(stored.content)
        if (is_expected is not None and not is_expected(content)) or not holds():
            return None
        version = stored.version
        if driver.supports_if_match:
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
    except (PreconditionFailed, PathNotFound):  # written or removed by another request
        return None
    return content
