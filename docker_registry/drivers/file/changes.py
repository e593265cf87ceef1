"""
Single changes of the tree, each atomic for whoever reads: a file that is brought to its path, moved or linked, a path
that is removed. A folder is removed by renaming it away first, so it disappears at once.

None goes through the journal, where there is one; each says instead that what it leaves behind is right. All of it
blocks the thread. The last argument of each change is told what was touched (:class:`~.together.Touched`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final

from docker_registry.drivers.file.aside import Aside, discard
from docker_registry.drivers.file.folders import holds_files
from docker_registry.drivers.file.journal import Journal
from docker_registry.drivers.file.locks import Locks
from docker_registry.drivers.file.reading import read_whole
from docker_registry.drivers.file.together import Touched
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.threads import close_now, leave_to_thread

#: What file systems without hard links say, or those of one file being as many as it can have.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}

#: A file of so many bytes is removed as fast as it is renamed; of a larger one each extent takes a while.
_SOON_FREED_BYTES: Final = 1024 * 1024


class Changes:
    """
    What can be done to the paths of a tree, beside putting small contents there.

    Attributes:
        journal: of those who put small contents; None where there is none.
    """

    def __init__(self, tree: Tree, aside: Aside, locks: Locks, journal: Journal | None, *, last: bool) -> None:
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
        """Move to its path what was written aside, and synced."""
        with self.changing(), self._locks.hold(path):
            self.place(aside, path, touched)
            touched.settled(path)

    def place(self, aside: str, path: str, touched: Touched) -> None:
        """Move to its path what was written aside, while the path's lock is held."""
        if self._tree.bring(aside, path, touched.changed if self._last else None):
            discard(aside)

    def move(self, source: str, target: str, touched: Touched) -> None:
        """Give a file another path."""
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self.changing(), self._locks.hold(source, target):
                if not stat.S_ISREG(self._tree.look(source).st_mode):
                    raise PathNotFound(path=source)
                if source == target:
                    return
                self._sync_content(source)
                self._tree.bring(self._tree.place(source), target, touched.changed)
                # A rename does nothing at all when both names are links to one file already.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                touched.settled(source)
                touched.settled(target)
            touched.changed(folder)
        self._tree.prune(above)

    def link(self, source: str, target: str, touched: Touched) -> bool:
        """Give a file a second path; False where the file system has no such thing."""
        aside = self._aside.new()
        self._sync_content(source)
        fd, _ = self._tree.open_file(source)
        try:
            # The file itself, also where somebody has put a symbolic link in its place. Python follows the link in
            # /proc only when some descriptor is given, whose worth does not count beside a path from the root.
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
            discard(aside)  # as in move
        return True

    def remove(self, path: str, touched: Touched) -> None:
        """
        Remove a file, or a folder with all that lies below it.

        Raises:
            PathNotFound: nothing was there but folders.
        """
        above, _, name = path.rpartition("/")
        place, was_nothing = None, False
        with self._tree.folder(above) as folder:
            with self._alone(), self._locks.hold(path):
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
        if self._last:  # where things come and go all the time the folder of them may stay
            self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)

    def remove_version(self, path: str, version: str, touched: Touched) -> None:
        """
        Remove a file only if it is still a given version.

        Raises:
            PathNotFound, OSError: no file lies there.
            PreconditionFailed: it is another version.
        """
        above, _, name = path.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._alone(), self._locks.hold(path):
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
        """Change something meanwhile; blocks this thread."""
        return nullcontext() if self.journal is None else self.journal.changing()

    def _alone(self) -> AbstractContextManager[None]:
        return nullcontext() if self.journal is None else self.journal.alone()

    def _sync_content(self, path: str) -> None:
        """Make sure of a file before it gets another name, if the journal has put it under this one."""
        if self.journal is not None:
            fd, _ = self._tree.open_file(path)
            try:
                os.fsync(fd)
            finally:
                close_now(fd)

    def _put_away(self, folder: int, name: str) -> str:
        """Remove something at once and whole, to where nobody looks; return where it is now."""
        aside = self._aside.new()
        try:
            os.rename(name, aside, src_dir_fd=folder)
        except OSError as error:
            # overlayfs cannot rename a folder that came with a container's image.
            if error.errno != errno.EXDEV:
                raise
            return f"/proc/self/fd/{folder}/{name}"
        return aside

    def _take_apart(self, place: str) -> None:
        is_aside = place.startswith(self._aside.folder)
        if self._last or not is_aside:
            discard(place, is_aside=is_aside)
        else:
            leave_to_thread(discard, place)


def version_of(folder: int, name: str) -> str:
    """Return the version of a file in an open folder, which is the hash of its content."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(read_whole(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)
