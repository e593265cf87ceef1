"""
The driver's own folder in the root of a store: staged files, and locks between threads, processes and hosts.

::

    .docker-registry/
        aside/0a1b2c3d/<name>        files that are being written or removed
        short-lived/0a1b2c3d/<name>  the same of scratch files
        locks/00 … 3f                locks of paths
        locks/short-lived/00 … 3f    the same of scratch files
        journals/gate, lock          the lock that excludes all changes
        journals/<name>, session, …  see :mod:`~.journal.journal` and :mod:`~.journal.mount_session`

**Staging.** A staged file has a unique name in one of sixteen subfolders, which ext4 spreads over the disk: otherwise
creating files would take half of the time of a small push (:func:`~.linux.spread_subfolders`). The file system chooses
the location of a subfolder by its name, so each store uses its own random names. Leftovers of dead processes are
removed by age (:mod:`~.leftovers`).

**Locks** use flock(2). :class:`PathLocks` orders the changes of one path. :class:`FairLock` lets a few operations, such
as a checkpoint, exclude all changes. The lock files are never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import secrets
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes
from docker_registry.errors import StorageError

#: The names of the subfolders must not change: processes of older versions may use the same store.
STAGING: Final = "aside"
SCRATCH: Final = "short-lived"
LOCKS: Final = "locks"
JOURNALS: Final = "journals"

#: The minimum number of subfolders. Two processes that create a store at the same time may make more.
_SUBFOLDERS: Final = 16

#: The length of a subfolder's name; the names of all other entries are longer.
_SUBFOLDER_CHARACTERS: Final = 8
_SUBFOLDER: Final = re.compile(f"[0-9a-f]{{{_SUBFOLDER_CHARACTERS}}}")

#: Files that other servers of the same folder read too, such as nginx or another registry.
SHARED: Final = 0o644

#: Keys and passwords.
SECRET: Final = 0o600

#: The key that signs tokens of API V1; earlier versions created it world-readable.
KEYS: Final = ("docker/registry/v2/_v1/token-key",)

#: The file names of a :class:`FairLock`. They must not change: processes of older versions lock the same files.
FAIR_LOCK_NAMES: Final = ("gate", "lock")

#: Opening a pipe must not block; a pipe can be locked like a file.
_LOCK_FLAGS: Final = os.O_NONBLOCK | os.O_NOFOLLOW

#: Errors for a folder, a symbolic link and a socket.
_NO_FILE: Final = {errno.EISDIR, errno.ELOOP, errno.ENXIO}


# -------------------------------------------------------------------------------------------------------------- staging


class Staging:
    """
    A staging folder in the same file system as the store.

    Attributes:
        subfolders: the subfolders in use.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.subfolders: list[str] = []
        self._deferred: deque[str] = deque()

    def prepare(self) -> None:
        """Find the existing subfolders and create the missing ones."""
        self.subfolders = self.found()
        while len(self.subfolders) < _SUBFOLDERS:
            self.subfolders.append(f"{self.folder}/{secrets.token_hex(_SUBFOLDER_CHARACTERS // 2)}")
            os.mkdir(self.subfolders[-1])

    def new(self) -> str:
        """
        Return an unused path in one of the subfolders.

        The name need not be secret, so it is made without a system call. The time keeps it unique where a program has
        seeded the random numbers.
        """
        name = f"{random.getrandbits(64):016x}{time.time_ns():016x}"
        return f"{self.subfolders[int(name[0], 16)]}/{name}"

    def create(self, mode: int = SHARED) -> tuple[str, int]:
        """Create a file; return its path in the file system and its descriptor."""
        location = self.new()
        return location, os.open(location, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def write(self, content: Bytes, *, mode: int = SHARED) -> tuple[str, os.stat_result]:
        """
        Write a small file; return its path in the file system and its metadata.

        Args:
            mode: permission bits of the file.
        """
        location, fd = self.create(mode)
        try:
            write_whole(fd, content)
            return location, os.fstat(fd)
        except BaseException:
            discard(location)
            raise
        finally:
            close_now(fd)

    def defer_removal(self, location: str) -> None:
        """Queue a file in the staging folder for :meth:`remove_deferred`."""
        self._deferred.append(location)

    def remove_deferred(self) -> None:
        """Remove the files queued by :meth:`defer_removal`; blocks this thread."""
        while self._deferred:
            discard(self._deferred.popleft())

    def found(self) -> list[str]:
        """Return the subfolders that exist, those made by other processes too."""
        with os.scandir(self.folder) as entries:
            return [
                entry.path
                for entry in entries
                if _SUBFOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]


def write_whole(fd: int, content: Bytes) -> None:
    """Write all of *content* to a file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def discard(location: str, *, is_staged: bool = True) -> None:
    """Remove a file or folder. Errors in the staging folder are ignored: the entry is removed later as a leftover."""
    try:
        _remove(location)
    except OSError:  # usually already moved to its final path
        if not is_staged:
            raise


def _remove(location: str) -> None:
    # shutil.rmtree would close each folder in a separate turn of gevent's event loop.
    try:
        os.unlink(location)
    except IsADirectoryError:
        with os.scandir(location) as entries:
            for entry in entries:
                _remove(entry.path)
        os.rmdir(location)


def mode_of(path: str) -> int:
    """Return the mode of the file for a path of the store: only its owner may read a secret."""
    return SECRET if path in KEYS or "/_auth/" in path else SHARED


# ---------------------------------------------------------------------------------------------------------------- locks


class PathLocks:
    """
    A folder with 64 lock files; a checksum of the path selects the file.

    Locks are held briefly, so 64 suffice. More would only take longer to create, each on first use.
    """

    def __init__(self, folder: str, changes: FairLock | None = None) -> None:
        """
        Args:
            changes: the lock of all changes, which is held with those of the paths; None where there is none.
        """
        self._locations = [f"{folder}/{number:02x}" for number in range(64)]
        self._changes = changes

    def hold(self, *paths: str, excludes_others: bool = False) -> AbstractContextManager[None]:
        """
        Hold the locks of these paths; blocks this thread.

        Args:
            excludes_others: also exclude changes of all other paths, by holding the lock of all changes exclusively.
        """
        # A fixed order prevents deadlocks.
        locations = sorted({self._locations[zlib.crc32(path.encode()) & 63] for path in paths})
        return _HeldLocks(locations, self._changes, fcntl.LOCK_EX if excludes_others else fcntl.LOCK_SH)


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
        return _HeldLocks((), self, fcntl.LOCK_SH)

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock exclusively; blocks this thread until all readers have released it."""
        return _HeldLocks((), self, fcntl.LOCK_EX)

    def acquire(self, operation: int) -> int:
        """Return a descriptor that holds the lock until it is closed."""
        first = _acquire(self._first, operation)
        try:
            return _acquire(self._second, operation)
        finally:
            close_now(first)


class _HeldLocks(AbstractContextManager[None]):
    """Holds locks during a block. A generator would take more than twice as many calls."""

    __slots__ = ("_changes", "_held", "_locations", "_operation")

    def __init__(self, locations: Sequence[str], changes: FairLock | None, operation: int) -> None:
        """
        Args:
            locations: lock files of paths.
            changes: the lock that is acquired before those, in the mode *operation*.
        """
        self._locations, self._changes, self._operation = locations, changes, operation
        self._held: list[int] = []

    def __enter__(self) -> None:
        try:
            if self._changes is not None:
                self._held.append(self._changes.acquire(self._operation))
            for location in self._locations:
                fd = _open_writable(location)
                self._held.append(fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for fd in self._held:
            close_now(fd)


def open_lock(location: str) -> int:
    """
    Open a lock file for reading, creating it if it does not exist.

    Raises:
        StorageError: something else than a file has its name.
    """
    try:
        return os.open(location, os.O_RDONLY | os.O_CREAT | _LOCK_FLAGS, 0o644)
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
        return os.open(location, os.O_RDWR | _LOCK_FLAGS)
    except FileNotFoundError:  # its first use; with O_CREAT, each use would take a third longer
        close_now(open_lock(location))
        return _open_writable(location)
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
