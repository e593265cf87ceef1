"""
Changes that bypass the journal, each atomic for readers, and the transactions that make them durable together.

These are the changes of large files, of secrets and of stores on file systems without a journal, and each move, link
and removal. A published file is synced and renamed to its path; a folder is removed by renaming it away first. Then the
changed folders are synced: for a file these are two waits for the disk, where a small content that goes through the
journal needs one (:mod:`~.small_writes`). The changes of a :class:`Transaction` share the second wait. Where there is a
journal, each makes an entry without content, which says that the state of the file system is correct.

A folder that is removed while a file is published in it must not reappear with the new file. With a journal,
:attr:`~.journal.journal.Journal.lock` excludes such removals; without one the folder is held open, so the file is
removed with it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from docker_registry.concurrency import close_now, run_in_background
from docker_registry.drivers.file.entries import holds_files
from docker_registry.drivers.file.journal.entries import Entry
from docker_registry.drivers.file.journal.journal import Journal
from docker_registry.drivers.file.reserved_folder import PathLocks, Staging, discard, mode_of, write_whole
from docker_registry.drivers.file.root import rename_unwritten
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.tree import Tree, version_of
from docker_registry.drivers.paths import folders_above
from docker_registry.errors import PathNotFound, PreconditionFailed

#: Errors of file systems without hard links, and of a file that has the maximum number of links.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}

#: Up to this size removing a file is as fast as renaming it; for a larger file each extent takes time.
_SOON_FREED_BYTES: Final = 1024 * 1024


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


class Mutations:
    """Publishes, moves, links and removes files of a tree; all methods block the thread."""

    def __init__(
        self, tree: Tree, staging: Staging, locks: PathLocks, disk: Disk, journal: Journal | None, *, durable: bool
    ) -> None:
        """
        Args:
            journal: the journal for small contents, whose lock is held during each change; None where there is none.
            durable: whether changes must survive a crash of the host.
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

    def move(self, source: str, target: str, effects: Effects) -> None:
        """Rename a file."""
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._locks.hold(source, target):
                if not stat.S_ISREG(self._tree.stat(source).st_mode):
                    raise PathNotFound(path=source)
                if source == target:
                    return
                self._sync_content(source)
                self._tree.move_in(self._tree.locate(source), target, effects.folder_changed)
                # rename(2) does nothing when both names are already links to the same file.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                effects.path_changed(source)
                effects.path_changed(target)
            effects.folder_changed(folder)
        self._tree.prune(above)

    def link(self, source: str, target: str, effects: Effects) -> bool:
        """Add a hard link to a file; return False where the file system does not support that."""
        staged = self._staging.new()
        self._sync_content(source)
        fd, _ = self._tree.open_file(source)
        try:
            # Link the opened file itself, even if a symbolic link has replaced it. Python passes AT_SYMLINK_FOLLOW,
            # needed for the link in /proc, only when a folder descriptor is given; its value does not matter for an
            # absolute path.
            os.link(f"/proc/self/fd/{fd}", staged, src_dir_fd=fd)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        finally:
            close_now(fd)
        try:
            self.publish(staged, target, effects)
        finally:
            discard(staged)  # the rename did nothing if both names are links to the same file, as in move
        return True

    def remove(self, path: str, effects: Effects) -> None:
        """
        Remove a file, or a folder with all its content.

        Raises:
            PathNotFound: the path does not exist or contains only folders.
        """
        above, _, name = path.rpartition("/")
        location, was_nothing = None, False
        with self._tree.folder(above) as folder:
            with self._locks.hold(path, excludes_others=True):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    found = self._tree.stat(path)
                if stat.S_ISREG(found.st_mode) and found.st_size <= _SOON_FREED_BYTES:
                    os.unlink(name, dir_fd=folder)
                else:
                    location = self._rename_away(folder, name)
                effects.path_changed(path)
            if location is not None:
                was_nothing = os.path.isdir(location) and not holds_files(location)
                self._discard(location)
            effects.folder_changed(folder)
        if self._durable:  # folders of scratch files are reused all the time, so an empty one may stay
            self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)

    def remove_version(self, path: str, version: str, effects: Effects) -> None:
        """
        Remove a file only if it still has the given version.

        Raises:
            PathNotFound, OSError: the path is not a file.
            PreconditionFailed: it has another version.
        """
        above, _, name = path.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._locks.hold(path, excludes_others=True):
                if not stat.S_ISREG(self._tree.stat(path).st_mode):
                    raise PathNotFound(path=path)
                if version_of(folder, name) != version:
                    raise PreconditionFailed(path=path)
                os.unlink(name, dir_fd=folder)
                effects.path_changed(path)
            effects.folder_changed(folder)
        if self._durable:
            self._tree.prune(above)

    # ------------------------------------------------------------------------------------------------- steps

    def _publish_if_match(self, staged: str, path: str, if_match: str | None, effects: Effects) -> None:
        """Give a staged file its path, if that has the expected version."""
        with self._locks.hold(path):
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
        folder = self._tree.open_folder_of_version(path, version)
        try:
            name = path.rpartition("/")[2]
            if self._durable:
                os.rename(staged, name, dst_dir_fd=folder)
            elif rename_unwritten(staged, name, folder, replaces=True):
                discard(staged)
            effects.folder_changed(folder)
        except (FileNotFoundError, IsADirectoryError):  # changed just now by another program, which takes no lock
            raise PreconditionFailed(path=path) from None
        finally:
            close_now(folder)

    def _sync_content(self, path: str) -> None:
        """Sync a file before it gets another name: the journal entry protects it only under its old one."""
        if self._journal is not None:
            fd, _ = self._tree.open_file(path)
            try:
                os.fsync(fd)
            finally:
                close_now(fd)

    def _rename_away(self, folder: int, name: str) -> str:
        """Remove an entry atomically by renaming it into the staging folder; return its new location."""
        location = self._staging.new()
        try:
            os.rename(name, location, src_dir_fd=folder)
        except OSError as error:
            # overlayfs cannot rename a folder that belongs to a lower layer, such as one from a container's image.
            if error.errno != errno.EXDEV:
                raise
            return f"/proc/self/fd/{folder}/{name}"
        return location

    def _discard(self, location: str) -> None:
        is_staged = location.startswith(self._staging.folder)
        if self._durable or not is_staged:
            discard(location, is_staged=is_staged)
        else:
            run_in_background(discard, location)
