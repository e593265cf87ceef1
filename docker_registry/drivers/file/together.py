"""
Changes that reach the disk together, before anybody hears that they were made.

Most of what a small change takes is waiting for the disk. So contents wait until there are no more, and then are put in
the order in which they came, with one wait for the journal (:class:`~.journal.Journal`), or two without it, however
many they are. What else was changed is synced in the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Final, Protocol

from docker_registry.drivers.base import Bytes, folders_above
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.journal import MAX_BYTES, Journal
from docker_registry.drivers.file.journal_file import Entry
from docker_registry.drivers.file.tree import Tree
from docker_registry.threads import close_now

#: So many contents wait at most, and no more bytes of them than the journal takes at once.
MAX_WAITING: Final = 64

#: So many bytes are written about as fast as one; with the names of what they are it is less than twice as much.
_BRIEF_BYTES: Final = 256 * 1024


class Touched(Protocol):
    """Who is told what a change has touched."""

    def changed(self, folder: int) -> None:
        """Hear of the descriptor of a folder that has to be synced."""

    def settled(self, path: str) -> None:
        """Hear of a path that was changed without the journal, while its lock is held."""


#: Puts contents to their paths, in their order.
PutAll = Callable[[Sequence[tuple[str, bytes]], Touched], None]


class Together:
    """What one greenlet changes until it is done; told of what it touches, a :class:`Touched`."""

    def __init__(self, tree: Tree, disk: Disk, put_all: PutAll, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._put_all = put_all
        self._journal = journal
        self._waiting: list[tuple[str, bytes]] = []
        self._waiting_bytes = 0
        self._changed: dict[tuple[int, int], int] = {}
        self._settled: list[Entry] = []

    @property
    def is_full(self) -> bool:
        """Whether no more contents may wait."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_BYTES

    @property
    def is_waiting(self) -> bool:
        """Whether contents wait, which come before what is changed next."""
        return bool(self._waiting)

    @property
    def is_brief(self) -> bool:
        """Whether all that is left is to put what waits, which is little, and for which a journal has room."""
        journal = self._journal
        is_little = not self._settled and self._waiting_bytes <= _BRIEF_BYTES
        return is_little and journal is not None and journal.has_room(2 * _BRIEF_BYTES)

    def add(self, path: str, content: Bytes) -> None:
        """Let a content wait."""
        self._waiting.append((path, bytes(content)))
        self._waiting_bytes += len(content)

    def changed(self, folder: int) -> None:
        """Keep this very folder, wherever others move it, to be synced."""
        found = os.fstat(folder)
        if (found.st_dev, found.st_ino) not in self._changed:
            self._changed[found.st_dev, found.st_ino] = os.dup(folder)

    def settled(self, path: str) -> None:
        """Keep a path, to be entered into the journal when it is synced."""
        if self._journal is not None:
            self._settled.append(Entry(time.monotonic_ns(), path))

    def publish(self) -> None:
        """Put everything that waits; blocks this thread."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self._put_all(waiting, self)

    def sync(self) -> None:
        """Sync what has changed; blocks this thread."""
        changed = list(self._changed.values())[::-1]
        if self._journal is None:
            self._disk.sync(changed)
        elif self._settled:
            if not self._disk.sync_all_soon():
                self._sync_with_those_above(changed)
            self._journal.settle(self._settled)

    def publish_and_end(self) -> None:
        """Put what waits, and sync all that has changed; blocks this thread."""
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
        self._waiting.clear()
        for fd in self._changed.values():
            close_now(fd)
        self._changed.clear()
        self._settled.clear()

    def _sync_with_those_above(self, changed: list[int]) -> None:
        """Sync also the folders above, which may have been made for what the journal has put there."""
        with ExitStack() as opened:
            above = {"", *(folder for entry in self._settled for folder in folders_above(entry.path))}
            for path in sorted(above, key=len, reverse=True):
                with suppress(OSError):  # removed since
                    changed.append(opened.enter_context(self._tree.folder(path)))
            for fd in changed:
                os.fsync(fd)


class Nobody:
    """A :class:`Touched` who leaves everything to the system: within seconds, unless the host crashes before."""

    def changed(self, folder: int) -> None:
        """Do nothing."""

    def settled(self, path: str) -> None:
        """Do nothing."""


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
