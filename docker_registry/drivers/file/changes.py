"""
Single changes of the tree, each atomic for readers: publishing a staged file at its path, moving, linking and removing.
A folder is removed by renaming it away first, so that it disappears at once.

These changes do not write contents to the journal. Where there is a journal, each change instead makes an entry without
content, which says that the state of the file system is correct. All functions block the thread. Each change reports
what it touched to its last argument (:class:`~.together.Touched`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final

from docker_registry.concurrency import close_now, run_in_background
from docker_registry.drivers.file.aside import Aside, discard
from docker_registry.drivers.file.folders import holds_files
from docker_registry.drivers.file.journal import Journal
from docker_registry.drivers.file.locks import PathLocks
from docker_registry.drivers.file.reading import read_whole
from docker_registry.drivers.file.together import Touched
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PathNotFound, PreconditionFailed

#: Errors of file systems without hard links, and of a file that has the maximum number of links.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}

#: Up to this size removing a file is as fast as renaming it; for a larger file each extent takes time.
_SOON_FREED_BYTES: Final = 1024 * 1024


class Changes:
    """
    Moves, links and removes files of a tree.

    Attributes:
        journal: the journal for small contents; None where there is none.
    """

    def __init__(self, tree: Tree, aside: Aside, locks: PathLocks, journal: Journal | None, *, last: bool) -> None:
        """
        Args:
            journal: see above.
            last: whether changes must survive a crash of the host.
        """
        self._tree = tree
        self._aside = aside
        self._locks = locks
        self.journal = journal
        self._last = last

    def bring(self, aside: str, path: str, touched: Touched) -> None:
        """Move a staged and synced file to its path."""
        with self.changing(), self._locks.hold(path):
            self.place(aside, path, touched)
            touched.settled(path)

    def place(self, aside: str, path: str, touched: Touched) -> None:
        """Move a staged file to its path; the caller holds the path's lock."""
        if self._tree.bring(aside, path, touched.changed if self._last else None):
            discard(aside)

    def move(self, source: str, target: str, touched: Touched) -> None:
        """Rename a file."""
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self.changing(), self._locks.hold(source, target):
                if not stat.S_ISREG(self._tree.look(source).st_mode):
                    raise PathNotFound(path=source)
                if source == target:
                    return
                self._sync_content(source)
                self._tree.bring(self._tree.place(source), target, touched.changed)
                # rename(2) does nothing when both names are already links to the same file.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                touched.settled(source)
                touched.settled(target)
            touched.changed(folder)
        self._tree.prune(above)

    def link(self, source: str, target: str, touched: Touched) -> bool:
        """Add a hard link to a file; return False where the file system does not support that."""
        aside = self._aside.new()
        self._sync_content(source)
        fd, _ = self._tree.open_file(source)
        try:
            # Link the opened file itself, even if a symbolic link has replaced it. Python passes AT_SYMLINK_FOLLOW,
            # needed for the link in /proc, only when a folder descriptor is given; its value does not matter for an
            # absolute path.
            os.link(f"/proc/self/fd/{fd}", aside, src_dir_fd=fd)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        finally:
            close_now(fd)
        try:
            self.bring(aside, target, touched)
        finally:
            discard(aside)  # the rename did nothing if both names are links to the same file, as in move
        return True

    def remove(self, path: str, touched: Touched) -> None:
        """
        Remove a file, or a folder with all its content.

        Raises:
            PathNotFound: the path does not exist or contains only folders.
        """
        above, _, name = path.rpartition("/")
        place, was_nothing = None, False
        with self._tree.folder(above) as folder:
            with self._exclusive(), self._locks.hold(path):
                found = self._tree.look(path)
                if stat.S_ISREG(found.st_mode) and found.st_size <= _SOON_FREED_BYTES:
                    os.unlink(name, dir_fd=folder)
                else:
                    place = self._put_away(folder, name)
                touched.settled(path)
            if place is not None:
                was_nothing = os.path.isdir(place) and not holds_files(place)
                self._take_apart(place)
            touched.changed(folder)
        if self._last:  # short-lived folders are reused all the time, so an empty one may stay
            self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)

    def remove_version(self, path: str, version: str, touched: Touched) -> None:
        """
        Remove a file only if it still has the given version.

        Raises:
            PathNotFound, OSError: the path is not a file.
            PreconditionFailed: it has another version.
        """
        above, _, name = path.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._exclusive(), self._locks.hold(path):
                if not stat.S_ISREG(self._tree.look(path).st_mode):
                    raise PathNotFound(path=path)
                if version_of(folder, name) != version:
                    raise PreconditionFailed(path=path)
                os.unlink(name, dir_fd=folder)
                touched.settled(path)
            touched.changed(folder)
        if self._last:
            self._tree.prune(above)

    def changing(self) -> AbstractContextManager[None]:
        """Hold the journal's shared lock during a change; blocks this thread."""
        return nullcontext() if self.journal is None else self.journal.changing()

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self.journal is None else self.journal.exclusive()

    def _sync_content(self, path: str) -> None:
        """Sync a file before it gets another name: the journal entry protects it only under its old one."""
        if self.journal is not None:
            fd, _ = self._tree.open_file(path)
            try:
                os.fsync(fd)
            finally:
                close_now(fd)

    def _put_away(self, folder: int, name: str) -> str:
        """Remove an entry atomically by renaming it into the staging folder; return its new path in the file system."""
        aside = self._aside.new()
        try:
            os.rename(name, aside, src_dir_fd=folder)
        except OSError as error:
            # overlayfs cannot rename a folder that belongs to a lower layer, such as one from a container's image.
            if error.errno != errno.EXDEV:
                raise
            return f"/proc/self/fd/{folder}/{name}"
        return aside

    def _take_apart(self, place: str) -> None:
        is_aside = place.startswith(self._aside.folder)
        if self._last or not is_aside:
            discard(place, is_aside=is_aside)
        else:
            run_in_background(discard, place)


def version_of(folder: int, name: str) -> str:
    """Return the version of a file in an open folder: the SHA-256 of its content."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(read_whole(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)
