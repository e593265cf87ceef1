"""
Locks between the threads, processes and hosts that share a store: flock(2) on files in the driver's own folder.

:class:`PathLocks` orders the changes of one path. :class:`FairLock` lets a few operations, such as a checkpoint,
exclude all changes. The lock files are never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.errors import StorageError

#: The file names of a :class:`FairLock`. They must not change: processes of older versions lock the same files.
FAIR_LOCK_NAMES: Final = ("gate", "lock")

#: Opening a pipe must not block; a pipe can be locked like a file.
_LOCK_FLAGS: Final = os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW

#: Errors for a folder, a symbolic link and a socket.
_NO_FILE: Final = {errno.EISDIR, errno.ELOOP, errno.ENXIO}


class PathLocks:
    """
    A folder with 64 lock files; a checksum of the path selects the file.

    Locks are held briefly, so 64 suffice. More would only take longer to create, each on first use.
    """

    def __init__(self, folder: str) -> None:
        self._locations = [f"{folder}/{number:02x}" for number in range(64)]

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Hold the locks of these paths; blocks this thread."""
        held: list[int] = []
        try:
            # A fixed order prevents deadlocks.
            for location in sorted({self._locations[zlib.crc32(path.encode()) & 63] for path in paths}):
                held.append(_open_writable(location))
                fcntl.flock(held[-1], fcntl.LOCK_EX)
            yield
        finally:
            for fd in held:
                close_now(fd)


class FairLock:
    """
    A fair shared/exclusive lock between the threads and processes of a host, over two files in an existing folder.

    Acquire the first file, then the second, then release the first. A writer takes both exclusively. While it waits for
    the second it holds the first, so no new reader can enter, and it waits only for the readers that hold the second.
    """

    def __init__(self, folder: str) -> None:
        self._first, self._second = (f"{folder}/{name}" for name in FAIR_LOCK_NAMES)

    def shared(self) -> AbstractContextManager[None]:
        """Hold the lock in shared mode; blocks this thread while a writer holds it or waits for it."""
        return self._hold(fcntl.LOCK_SH)

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock exclusively; blocks this thread until all readers have released it."""
        return self._hold(fcntl.LOCK_EX)

    @contextmanager
    def _hold(self, operation: int) -> Iterator[None]:
        first = _acquire(self._first, operation)
        try:
            second = _acquire(self._second, operation)
        finally:
            close_now(first)
        try:
            yield
        finally:
            close_now(second)


def open_lock(location: str) -> int:
    """
    Open a lock file for reading, creating it if it does not exist.

    Raises:
        StorageError: something else than a file has its name.
    """
    try:
        return os.open(location, os.O_RDONLY | _LOCK_FLAGS, 0o644)
    except OSError as error:
        raise not_a_lock(location, error) from None


def not_a_lock(location: str, error: OSError) -> Exception:
    """Return the exception to raise when a lock file cannot be opened."""
    if error.errno in _NO_FILE:
        folder, name = location.rsplit("/", 2)[1:]
        return StorageError(f"{folder}/{name}, in the folder .docker-registry of the store, must be a file. Remove it.")
    return error


def _open_writable(location: str) -> int:
    try:
        return os.open(location, os.O_RDWR | _LOCK_FLAGS, 0o644)
    except OSError:  # perhaps another user owns it; only NFS needs write access for an exclusive lock
        return open_lock(location)


def _acquire(location: str, operation: int) -> int:
    """Return a descriptor that holds a lock until it is closed."""
    fd = open_lock(location)  # read-only, because another user may own the file
    try:
        fcntl.flock(fd, operation)
    except BaseException:
        close_now(fd)
        raise
    return fd
