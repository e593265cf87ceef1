"""Locks for single changes of a path, between threads, processes and hosts that share the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.errors import StorageError

#: Errors for a folder, a symbolic link and a socket.
_NO_FILE: Final = {errno.EISDIR, errno.ELOOP, errno.ENXIO}


class Locks:
    """
    A folder with 64 lock files; a checksum of the path selects the file.

    Locks are held briefly, so 64 suffice. More would only take longer to create, each on first use.
    """

    def __init__(self, folder: str) -> None:
        self._places = [f"{folder}/{number:02x}" for number in range(64)]

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Hold the locks of these paths; blocks this thread."""
        held: list[int] = []
        try:
            # A fixed order prevents deadlocks.
            for place in sorted({self._places[zlib.crc32(path.encode()) & 63] for path in paths}):
                held.append(_open(place))
                fcntl.flock(held[-1], fcntl.LOCK_EX)
            yield
        finally:
            for fd in held:
                close_now(fd)


def open_lock(place: str, flags: int = os.O_RDONLY) -> int:
    """
    Open a lock file, creating it if it does not exist.

    Raises:
        StorageError: something else than a file has its name.
    """
    try:
        # Opening a pipe must not block; a pipe can be locked like a file.
        return os.open(place, flags | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise not_a_lock(place, error) from None


def not_a_lock(place: str, error: OSError) -> Exception:
    """Return the exception to raise when a lock file cannot be opened."""
    if error.errno in _NO_FILE:
        folder, name = place.rsplit("/", 2)[1:]
        return StorageError(f"{folder}/{name}, in the folder .docker-registry of the store, must be a file. Remove it.")
    return error


def _open(place: str) -> int:
    try:
        return open_lock(place, os.O_RDWR)
    except PermissionError:  # another user owns it; only NFS needs write access for an exclusive lock
        return open_lock(place)
