"""
Many who change something at once, or one who lets nobody else: among the threads and processes of a host.

Two files are locked: whoever comes takes the first, then the second, and leaves the first to the next one. Who wants to
be alone takes both alone. So nobody comes in who could make him wait longer, as long as those inside take to leave.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from docker_registry.drivers.file.locks import open_lock
from docker_registry.threads import close_now

#: The files in a gate's folder.
NAMES: Final = ("gate", "lock")

_GATE, _LOCK = NAMES


class Gate:
    """The two files in a folder that is there; they are never removed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def shared(self) -> AbstractContextManager[None]:
        """Be inside with others; blocks this thread while somebody is alone, or wants to be."""
        return self._inside(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Be inside alone; blocks this thread until all others have left."""
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
        fd = open_lock(f"{self._folder}/{name}")  # not for writing: another user may have made it
        try:
            fcntl.flock(fd, operation)
        except BaseException:
            close_now(fd)
            raise
        return fd
