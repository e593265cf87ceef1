"""
A fair shared/exclusive lock between the threads and processes of a host.

It uses two files: acquire the first, then the second, then release the first. A writer takes both exclusively. While it
waits for the second it holds the first, so no new reader can enter, and it waits only for the readers that are already
inside.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.locks import open_lock

#: The names of the two lock files.
NAMES: Final = ("gate", "lock")

_GATE, _LOCK = NAMES


class Gate:
    """A shared/exclusive lock over two files in an existing folder; the files are never removed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def shared(self) -> AbstractContextManager[None]:
        """Hold the lock in shared mode; blocks this thread while a writer holds it or waits for it."""
        return self._inside(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lock exclusively; blocks this thread until all readers have released it."""
        return self._inside(fcntl.LOCK_EX)

    @contextmanager
    def _inside(self, operation: int) -> Iterator[None]:
        gate = self._take(_GATE, operation)
        try:
            lock = self._take(_LOCK, operation)
        finally:
            close_now(gate)
        try:
            yield
        finally:
            close_now(lock)

    def _take(self, name: str, operation: int) -> int:
        """Return a descriptor that holds a lock until it is closed."""
        fd = open_lock(f"{self._folder}/{name}")  # read-only, because another user may own the file
        try:
            fcntl.flock(fd, operation)
        except BaseException:
            close_now(fd)
            raise
        return fd
