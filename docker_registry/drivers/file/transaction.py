"""
Changes that bypass the journal: how a file is published, and how all changes of a transaction become durable.

These are the changes of large files, of secrets, of stores on file systems without a journal, and all mutations
(:mod:`~.mutations`). A file is synced, renamed to its path, and then the folders are synced: two waits for the disk,
where a small content that goes through the journal needs one (:mod:`~.small_writes`). The changes of a
:class:`Transaction` share the second wait.

A folder that is removed while a file is published in it must not reappear with the new file. With a journal,
:attr:`~.journal.journal.Journal.lock` excludes such removals; without one the folder is held open, so the file is
removed with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import NamedTuple

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal.entries import Entry
from docker_registry.drivers.file.journal.journal import Journal
from docker_registry.drivers.file.reserved_folder import PathLocks, Staging, discard, mode_of, write_whole
from docker_registry.drivers.file.root import rename_unwritten
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.tree import Tree
from docker_registry.drivers.paths import folders_above


class Content(NamedTuple):
    """
    A small content to publish.

    Attributes:
        if_match: the version that the path must have; ``ABSENT`` for no file, None for any version.
    """

    path: str
    content: bytes
    if_match: str | None = None


class Effects:
    """Receives what a change has done. This class ignores it: scratch files are never synced."""

    def folder_changed(self, folder: int) -> None:
        """Record a folder that must be synced, by its descriptor."""

    def path_changed(self, path: str) -> None:
        """Record a path that was changed without the journal, while its lock is held."""


class Transaction(Effects):
    """Changes that become durable together, by :meth:`sync`."""

    def __init__(self, tree: Tree, disk: Disk, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._journal = journal
        self._folders: dict[tuple[int, int], int] = {}
        self._entries: list[Entry] = []

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to sync."""
        return not (self._folders or self._entries)

    def folder_changed(self, folder: int) -> None:
        """Keep a descriptor of this very folder, even if it is moved, to sync it later."""
        found = os.fstat(folder)
        if (found.st_dev, found.st_ino) not in self._folders:
            self._folders[found.st_dev, found.st_ino] = os.dup(folder)

    def path_changed(self, path: str) -> None:
        """Keep a path for the journal entry that is made after the sync."""
        if self._journal is not None:
            self._entries.append(Entry(time.monotonic_ns(), path))

    def sync(self) -> None:
        """Sync all changes; blocks this thread."""
        folders = list(self._folders.values())[::-1]
        if self._journal is None:
            self._disk.sync(folders)
        elif self._entries:
            if not self._disk.sync_all_soon():
                self._sync_with_those_above(folders)
            self._journal.record_synced(self._entries)

    def end(self) -> None:
        """Sync all changes and close the folders; blocks this thread."""
        try:
            self.sync()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the folders, without a sync."""
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
                    folders.append(opened.enter_context(self._tree.folder(path)))
            for fd in folders:
                os.fsync(fd)


class Publisher:
    """Publishes files without the journal, each atomically for readers; all methods block the thread."""

    def __init__(
        self, tree: Tree, staging: Staging, locks: PathLocks, disk: Disk, journal: Journal | None, *, durable: bool
    ) -> None:
        """
        Args:
            journal: whose lock is held during each change; None where there is none.
            durable: whether contents must survive a crash of the host.
        """
        self._tree = tree
        self._staging = staging
        self._locks = locks
        self._disk = disk
        self._journal = journal
        self._durable = durable

    def publish(self, staged: str, path: str, effects: Effects) -> None:
        """Move a staged and synced file to its path."""
        self._publish_if_match(staged, path, None, effects)

    def put(self, contents: Sequence[Content], effects: Effects) -> None:
        """
        Publish small contents, in their order; if they must be durable, their files are synced before.

        Raises:
            PreconditionFailed: a path has another version than expected; the contents before it were published.
        """
        staged: list[tuple[int, str, Content]] = []  # the files that are not published yet
        try:
            for each in contents:
                location, fd = self._staging.create(mode_of(each.path))
                staged.append((fd, location, each))
                write_whole(fd, each.content)
            if self._durable:  # only the folder needs a sync to record an empty file
                self._disk.sync([fd for fd, _, each in staged if each.content])
            while staged:
                fd, location, each = staged[0]
                self._publish_if_match(location, each.path, each.if_match, effects)
                close_now(fd)
                del staged[0]
        finally:
            for fd, location, _ in staged:
                close_now(fd)
                discard(location)

    def _publish_if_match(self, staged: str, path: str, if_match: str | None, effects: Effects) -> None:
        """Give a staged file its path, if that has the expected version."""
        with self._changing(), self._locks.hold(path):
            if if_match:
                self._replace(staged, path, if_match, effects)
            else:
                if if_match is not None:
                    self._tree.check_absent(path)
                if self._tree.move_in(staged, path, effects.folder_changed if self._durable else None):
                    discard(staged)
            effects.path_changed(path)

    def _replace(self, staged: str, path: str, version: str, effects: Effects) -> None:
        """Replace this version of a file by a staged file."""
        with self._tree.folder_of_version(path, version) as folder:
            name = path.rpartition("/")[2]
            if self._durable:
                os.rename(staged, name, dst_dir_fd=folder)
            elif rename_unwritten(staged, name, folder):
                discard(staged)
            effects.folder_changed(folder)

    def _changing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._journal is None else self._journal.lock.shared()
