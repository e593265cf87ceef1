"""
Changes that reach the disk together, before anybody hears that they were made.

Most of what a small change takes is waiting for the disk. So contents are written aside as they come, and in the end
all of them synced, brought to their paths in the order in which they were put, and all folders synced: two waits,
however many changes there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from docker_registry.drivers.file.aside import discard
from docker_registry.drivers.file.disk import Disk
from docker_registry.threads import close_now

#: Called with the descriptor of a folder that has changed.
Sync = Callable[[int], None]

#: Moves what lies at a place aside to a path.
Bring = Callable[[str, str, Sync], None]

#: So many contents wait at most, each with an open file.
MAX_WAITING: Final = 64


class _Waiting(NamedTuple):
    fd: int
    aside: str
    path: str
    is_empty: bool


class Together:
    """What one greenlet changes until it is done."""

    def __init__(self, disk: Disk, bring: Bring) -> None:
        self._disk = disk
        self._bring = bring
        self._waiting: list[_Waiting] = []
        self._changed: dict[tuple[int, int], int] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more contents may wait."""
        return len(self._waiting) >= MAX_WAITING

    @property
    def is_waiting(self) -> bool:
        """Whether contents wait, which come before what is changed next."""
        return bool(self._waiting)

    def add(self, fd: int, aside: str, path: str, *, is_empty: bool) -> None:
        """Let a content wait, which was written aside."""
        self._waiting.append(_Waiting(fd, aside, path, is_empty))

    def changed(self, folder: int) -> None:
        """Keep this very folder, wherever others move it, to be synced; a :data:`Sync`."""
        found = os.fstat(folder)
        if (found.st_dev, found.st_ino) not in self._changed:
            self._changed[found.st_dev, found.st_ino] = os.dup(folder)

    def publish(self) -> None:
        """Bring everything that waits to its path; blocks this thread."""
        try:
            # That an empty file is there is told by its folder.
            self._disk.sync([item.fd for item in self._waiting if not item.is_empty])
            while self._waiting:
                item = self._waiting[0]
                self._bring(item.aside, item.path, self.changed)
                close_now(item.fd)
                del self._waiting[0]
        finally:
            self._drop_waiting()

    def sync(self) -> None:
        """Sync the folders that have changed; blocks this thread."""
        self._disk.sync(list(self._changed.values())[::-1])

    def publish_and_end(self) -> None:
        """Bring what waits to its path, and sync all that has changed; blocks this thread."""
        try:
            self.publish()
        finally:
            self.end()

    def end(self) -> None:
        """Sync what has changed, and take back what still waits; blocks this thread."""
        try:
            self.sync()
        finally:
            self.forget()

    def forget(self) -> None:
        """Take back what waits, and sync nothing any more."""
        self._drop_waiting()
        for fd in self._changed.values():
            close_now(fd)
        self._changed.clear()

    def _drop_waiting(self) -> None:
        for item in self._waiting:
            close_now(item.fd)
            discard(item.aside)
        self._waiting.clear()


_present: ContextVar[Together | None] = ContextVar("together", default=None)


def present() -> Together | None:
    """Return what this greenlet changes together now; None when each change stands for itself."""
    return _present.get()


@contextmanager
def begun(together: Together) -> Iterator[None]:
    """Let :func:`present` be this."""
    token = _present.set(together)
    try:
        yield
    finally:
        _present.reset(token)


def never(folder: int) -> None:
    """Leave it to the system: within seconds, unless the host crashes before."""
