"""
Durable changes: each reaches the disk before the caller continues.

Waiting for the disk takes most of the time of a small change. So the changes of a transaction share their waits: it
collects contents and then publishes them in their order, however many they are, with one wait for the journal
(:class:`~.journal.journal.Journal`), or two waits without one. All other changes are synced at the end. This makes a
PUT of a manifest 1.1 to 1.6 times faster.

A :class:`Committer` runs transactions in a native thread. Scratch files bypass this module: they are changed directly
and never synced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

from docker_registry.concurrency import RunBlocking, close_now, run_in_thread, run_later
from docker_registry.drivers.base import folders_above
from docker_registry.drivers.file.journal.file import Entry
from docker_registry.drivers.file.journal.journal import MAX_BYTES, Journal
from docker_registry.drivers.file.publish import Content, Publisher
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.tree import Tree

Result = TypeVar("Result")

#: A transaction holds at most this many contents, and no more bytes than one journal record takes.
MAX_WAITING: Final = 64

#: Up to this size the number of bytes hardly matters; with the paths a record is less than twice as large.
_BRIEF_BYTES: Final = 256 * 1024

#: Up to this size a scratch file is written without a thread, because the kernel only copies the bytes.
_INLINE_BYTES: Final = 256 * 1024

#: Delay from a change to the checkpoint that syncs its final location and makes the journal entry obsolete.
_CHECKPOINT_SECONDS: Final = 5.0


class Committer:
    """Commits the changes of a store; at any time each greenlet has at most one transaction."""

    def __init__(self, tree: Tree, disk: Disk, publisher: Publisher, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._publisher = publisher
        self._journal = journal
        self._is_checkpoint_planned = False

    @contextmanager
    def batch(self, run_brief: RunBlocking) -> Iterator[None]:
        """
        Commit the changes that this greenlet makes in the block together; see :meth:`StorageDriver.batch`.

        Args:
            run_brief: waits for the disk if the wait is brief.
        """
        if self._current() is not None:
            yield
            return
        transaction = self._begin()
        finish = transaction.end  # even after an error: earlier changes are visible, and others may depend on them
        token = _current.set(transaction)
        try:
            yield
            finish = transaction.publish_and_end
        finally:
            _current.reset(token)
            with self._tree.errors("", may_miss=False):
                if not transaction.is_empty:  # a block that only reads waits for no thread, and stays cacheable
                    call = run_brief if transaction.is_brief else run_in_thread
                    call(finish)
                self._checkpoint_later()

    @property
    def is_waiting(self) -> bool:
        """True while the current batch has unpublished contents."""
        transaction = self._current()
        return transaction is not None and transaction.is_waiting

    def add(self, content: Content) -> bool:
        """Add a small content to the current batch; return False outside a batch."""
        transaction = self._current()
        if transaction is None:
            return False
        if transaction.add(content):
            with self._tree.errors(content.path, may_miss=False):
                run_in_thread(transaction.publish)
        return True

    def put(self, content: Content) -> None:
        """Publish a small content at once, even in a batch."""
        self.commit(self._publisher.put, [content])

    def commit(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Run a change, with an :class:`~.publish.Effects` as its last argument, and make it durable.

        Args:
            is_rename: the change does not wait for the disk, except when its folders are synced. Without a journal it
                may run in this thread as part of a batch.
        """
        transaction = self._current()
        if is_rename and self._journal is None and transaction is not None and not transaction.is_waiting:
            return change(*args, transaction)
        result = run_in_thread(partial(self._run_and_sync, transaction, change, args))
        self._checkpoint_later()
        return result

    def _run_and_sync(self, batch: Transaction | None, change: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        if batch is not None:
            batch.publish()  # contents put earlier in the batch must be published first
            return change(*args, batch)
        transaction = self._begin()
        try:
            result = change(*args, transaction)
            transaction.sync()
            return result
        finally:
            transaction.discard()

    def _begin(self) -> Transaction:
        return Transaction(self._tree, self._disk, self._publisher, self._journal)

    def _current(self) -> Transaction | None:
        """Return the transaction of this greenlet in this store; None outside a batch."""
        transaction = _current.get()
        return transaction if transaction is not None and transaction.tree is self._tree else None

    def _checkpoint_later(self) -> None:
        if self._journal is None or not self._journal.is_due or self._is_checkpoint_planned:
            return
        self._is_checkpoint_planned = run_later(_CHECKPOINT_SECONDS, partial(self._checkpoint, self._journal))
        if not self._is_checkpoint_planned:
            self._publisher.remove_replaced()

    def _checkpoint(self, journal: Journal) -> None:
        self._is_checkpoint_planned = False
        with suppress(OSError):  # writers receive the error of a failing disk themselves
            journal.checkpoint()
        self._publisher.remove_replaced()


class ImmediateCommitter:
    """
    Makes the changes of scratch files at once. It ignores their effects: the kernel writes them to the disk within
    seconds, unless the host crashes before.
    """

    #: See :class:`Committer`.
    is_waiting: Final = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def batch(self, run_brief: RunBlocking) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: there is no wait for the disk to share."""
        return nullcontext()

    def add(self, content: Content) -> bool:  # noqa: ARG002 - the signature of Committer
        """Return False, as outside a batch."""
        return False

    def put(self, content: Content) -> None:
        """Publish a content, in a native thread unless it is small."""
        if len(content.content) <= _INLINE_BYTES:
            self._publisher.put([content], self)
        else:
            run_in_thread(self._publisher.put, [content], self)

    def commit(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:  # noqa: ARG002
        """Run a change."""
        return change(*args, self)

    def folder_changed(self, folder: int) -> None:
        """Do nothing."""

    def path_changed(self, path: str) -> None:
        """Do nothing."""


class Transaction:
    """
    Changes that become durable together. It also receives the effects of its changes (:class:`~.publish.Effects`).

    Attributes:
        tree: the tree that it changes.
    """

    def __init__(self, tree: Tree, disk: Disk, publisher: Publisher, journal: Journal | None) -> None:
        self.tree = tree
        self._disk = disk
        self._publisher = publisher
        self._journal = journal
        self._waiting: list[Content] = []
        self._waiting_bytes = 0
        self._folders: dict[tuple[int, int], int] = {}
        self._entries: list[Entry] = []

    @property
    def is_waiting(self) -> bool:
        """True if added contents must be published before the next change."""
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to publish and nothing to sync."""
        return not (self._waiting or self._folders or self._entries)

    @property
    def is_brief(self) -> bool:
        """True if the contents that are not yet published are small and fit into the journal."""
        journal = self._journal
        is_little = not self._entries and self._waiting_bytes <= _BRIEF_BYTES
        return is_little and journal is not None and journal.has_room(2 * _BRIEF_BYTES)

    def add(self, content: Content) -> bool:
        """Add a content; return whether the contents must be published before more are added."""
        self._waiting.append(content)
        self._waiting_bytes += len(content.content)
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_BYTES

    def folder_changed(self, folder: int) -> None:
        """Keep a descriptor of this very folder, even if it is moved, to sync it later."""
        found = os.fstat(folder)
        if (found.st_dev, found.st_ino) not in self._folders:
            self._folders[found.st_dev, found.st_ino] = os.dup(folder)

    def path_changed(self, path: str) -> None:
        """Keep a path for the journal entry that is made after the sync."""
        if self._journal is not None:
            self._entries.append(Entry(time.monotonic_ns(), path))

    def publish(self) -> None:
        """Publish all pending contents; blocks this thread."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self._publisher.put(waiting, self)

    def sync(self) -> None:
        """Sync all changes; blocks this thread."""
        folders = list(self._folders.values())[::-1]
        if self._journal is None:
            self._disk.sync(folders)
        elif self._entries:
            if not self._disk.sync_all_soon():
                self._sync_with_those_above(folders)
            self._journal.record_synced(self._entries)

    def publish_and_end(self) -> None:
        """Publish all pending contents and sync all changes; blocks this thread."""
        try:
            self.publish()
        finally:
            self.end()

    def end(self) -> None:
        """Sync all changes and drop pending contents; blocks this thread."""
        try:
            self.sync()
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop pending contents and pending syncs."""
        self._waiting.clear()
        for fd in self._folders.values():
            close_now(fd)
        self._folders.clear()
        self._entries.clear()

    def _sync_with_those_above(self, folders: list[int]) -> None:
        """Sync the parent folders too, because they may have been created for contents that the journal covers."""
        with ExitStack() as opened:
            above = {"", *(folder for entry in self._entries for folder in folders_above(entry.path))}
            for path in sorted(above, key=len, reverse=True):
                with suppress(OSError):  # removed meanwhile
                    folders.append(opened.enter_context(self.tree.folder(path)))
            for fd in folders:
                os.fsync(fd)


_current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)
