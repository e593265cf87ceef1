"""
Batches of changes, which reach the disk together before the caller continues.

Waiting for the disk takes most of the time of a small change. So a batch collects contents and then puts them in their
order, however many they are, with one wait for the journal (:class:`~.journal.Journal`), or two waits without one. All
other changes are synced at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Final, NamedTuple, Protocol

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes, folders_above
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.journal import MAX_BYTES, Journal
from docker_registry.drivers.file.journal_file import Entry
from docker_registry.drivers.file.tree import Tree

#: A batch holds at most this many contents, and no more bytes than one journal record takes.
MAX_WAITING: Final = 64

#: Up to this size the number of bytes hardly matters; with the paths a record is less than twice as large.
_BRIEF_BYTES: Final = 256 * 1024


class Touched(Protocol):
    """Receives what a change has touched."""

    def changed(self, folder: int) -> None:
        """Record a folder that must be synced, by its descriptor."""

    def settled(self, path: str) -> None:
        """Record a path that was changed without the journal, while its lock is held."""


class Content(NamedTuple):
    """
    A small content to publish.

    Attributes:
        if_match: the version that the path must have; ``ABSENT`` for no file, None for any version.
    """

    path: str
    content: bytes
    if_match: str | None = None


#: Publishes contents at their paths, in their order.
PutAll = Callable[[Sequence[Content], Touched], None]


class Together:
    """The batch of one greenlet. It is also the :class:`Touched` of its changes."""

    def __init__(self, tree: Tree, disk: Disk, put_all: PutAll, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._put_all = put_all
        self._journal = journal
        self._waiting: list[Content] = []
        self._waiting_bytes = 0
        self._changed: dict[tuple[int, int], int] = {}
        self._settled: list[Entry] = []

    @property
    def is_full(self) -> bool:
        """Whether the batch must be published before more contents are added."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_BYTES

    @property
    def is_waiting(self) -> bool:
        """Whether contents are pending that must be published before the next change."""
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to put or to sync."""
        return not (self._waiting or self._changed or self._settled)

    @property
    def is_brief(self) -> bool:
        """Whether only a few pending bytes remain to be put, for which the journal has room."""
        journal = self._journal
        is_little = not self._settled and self._waiting_bytes <= _BRIEF_BYTES
        return is_little and journal is not None and journal.has_room(2 * _BRIEF_BYTES)

    def add(self, path: str, content: Bytes, if_match: str | None = None) -> None:
        """Add a content to the batch."""
        self._waiting.append(Content(path, bytes(content), if_match))
        self._waiting_bytes += len(content)

    def changed(self, folder: int) -> None:
        """Keep a descriptor of this very folder, even if it is moved, to sync it later."""
        found = os.fstat(folder)
        if (found.st_dev, found.st_ino) not in self._changed:
            self._changed[found.st_dev, found.st_ino] = os.dup(folder)

    def settled(self, path: str) -> None:
        """Keep a path for the journal entry that is made after the sync."""
        if self._journal is not None:
            self._settled.append(Entry(time.monotonic_ns(), path))

    def publish(self) -> None:
        """Put all pending contents; blocks this thread."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self._put_all(waiting, self)

    def sync(self) -> None:
        """Sync all changes; blocks this thread."""
        changed = list(self._changed.values())[::-1]
        if self._journal is None:
            self._disk.sync(changed)
        elif self._settled:
            if not self._disk.sync_all_soon():
                self._sync_with_those_above(changed)
            self._journal.settle(self._settled)

    def publish_and_end(self) -> None:
        """Put all pending contents and sync all changes; blocks this thread."""
        try:
            self.publish()
        finally:
            self.end()

    def end(self) -> None:
        """Sync all changes and drop pending contents; blocks this thread."""
        try:
            self.sync()
        finally:
            self.forget()

    def forget(self) -> None:
        """Drop pending contents and pending syncs."""
        self._waiting.clear()
        for fd in self._changed.values():
            close_now(fd)
        self._changed.clear()
        self._settled.clear()

    def _sync_with_those_above(self, changed: list[int]) -> None:
        """Sync the parent folders too, because they may have been created for contents that the journal covers."""
        with ExitStack() as opened:
            above = {"", *(folder for entry in self._settled for folder in folders_above(entry.path))}
            for path in sorted(above, key=len, reverse=True):
                with suppress(OSError):  # removed meanwhile
                    changed.append(opened.enter_context(self._tree.folder(path)))
            for fd in changed:
                os.fsync(fd)


class Nobody:
    """
    A :class:`Touched` that does nothing: the kernel writes the changes back within seconds, unless the host crashes
    before.
    """

    def changed(self, folder: int) -> None:
        """Do nothing."""

    def settled(self, path: str) -> None:
        """Do nothing."""


_present: ContextVar[Together | None] = ContextVar("together", default=None)


def present() -> Together | None:
    """Return the current batch of this greenlet; None outside a batch."""
    return _present.get()


@contextmanager
def begun(together: Together) -> Iterator[None]:
    """Make *together* the current batch."""
    token = _present.set(together)
    try:
        yield
    finally:
        _present.reset(token)
