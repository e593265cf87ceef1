"""
Moving, linking and removing files, each atomically for readers.

A folder is removed by renaming it away first, so that it disappears at once. These changes write no content to the
journal. Where there is a journal, each makes an entry without content instead, which says that the state of the file
system is correct.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final

from docker_registry.concurrency import close_now, run_in_background
from docker_registry.drivers.file.folders import holds_files
from docker_registry.drivers.file.journal.journal import Journal
from docker_registry.drivers.file.reserved_folder import PathLocks, Staging, discard
from docker_registry.drivers.file.transaction import Effects, Publisher
from docker_registry.drivers.file.tree import Tree, version_of
from docker_registry.errors import PathNotFound, PreconditionFailed

#: Errors of file systems without hard links, and of a file that has the maximum number of links.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}

#: Up to this size removing a file is as fast as renaming it; for a larger file each extent takes time.
_SOON_FREED_BYTES: Final = 1024 * 1024


class Mutations:
    """Moves, links and removes files of a tree; all methods block the thread."""

    def __init__(
        self,
        tree: Tree,
        staging: Staging,
        locks: PathLocks,
        journal: Journal | None,
        publisher: Publisher,
        *,
        durable: bool,
    ) -> None:
        """
        Args:
            journal: the journal for small contents; None where there is none.
            durable: whether changes must survive a crash of the host.
        """
        self._tree = tree
        self._staging = staging
        self._locks = locks
        self._journal = journal
        self._publisher = publisher
        self._durable = durable

    def move(self, source: str, target: str, effects: Effects) -> None:
        """Rename a file."""
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._changing(), self._locks.hold(source, target):
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
            self._publisher.publish(staged, target, effects)
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
            with self._exclusive(), self._locks.hold(path):
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
            with self._exclusive(), self._locks.hold(path):
                if not stat.S_ISREG(self._tree.stat(path).st_mode):
                    raise PathNotFound(path=path)
                if version_of(folder, name) != version:
                    raise PreconditionFailed(path=path)
                os.unlink(name, dir_fd=folder)
                effects.path_changed(path)
            effects.folder_changed(folder)
        if self._durable:
            self._tree.prune(above)

    def _changing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._journal is None else self._journal.lock.shared()

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self._journal is None else self._journal.lock.exclusive()

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
