"""
Single changes of the tree, each atomic for whoever reads: a content that is put, a file that is moved or linked, a path
that is removed.

A content is written under a name of its own aside and renamed to its place. What is compared before it is replaced is
compared under the path's lock, in a folder that is held open; other changes take the same lock, so none slips in
between, and who removes the folder meanwhile takes the new content along. A folder is removed by renaming it away
first, so it disappears at once.

All of it blocks the thread. The last argument of each change is told of the folders that have changed
(:data:`~docker_registry.drivers.file.together.Sync`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.aside import Aside, discard
from docker_registry.drivers.file.locks import Locks
from docker_registry.drivers.file.reading import read_whole
from docker_registry.drivers.file.together import Sync
from docker_registry.drivers.file.tree import Tree, holds_files
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.threads import close_now, leave_to_thread

#: What file systems without hard links say, or those of one file being as many as it can have.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}

#: A file of so many bytes is removed as fast as it is renamed; of a larger one each extent takes a while.
_SOON_FREED_BYTES: Final = 1024 * 1024


class Changes:
    """What can be done to the paths of a tree."""

    def __init__(self, tree: Tree, aside: Aside, locks: Locks, *, last: bool) -> None:
        """
        Args:
            last: whether changes must survive a crash of the host.
        """
        self._tree = tree
        self._aside = aside
        self._locks = locks
        self._last = last

    def put(self, path: str, content: Bytes, if_match: str | None, sync: Sync) -> None:
        """
        Publish a small file.

        Args:
            if_match: replace only this version, or create only; None for whatever is there.

        Raises:
            PreconditionFailed: something else lies there.
        """
        aside, fd = self._aside.create()
        try:
            try:
                write_whole(fd, content)
                if self._last and content:  # that an empty file is there is told by its folder
                    os.fsync(fd)
            finally:
                close_now(fd)
            if if_match is None:
                self.bring(aside, path, sync)
            else:
                with self._locks.hold(path):
                    self._replace(aside, path, if_match, sync) if if_match else self._create(aside, path, sync)
        except BaseException:
            discard(aside)
            raise

    def bring(self, aside: str, path: str, sync: Sync) -> None:
        """Move to its path what was written aside."""
        with self._locks.hold(path):
            self._tree.bring(aside, path, sync)

    def move(self, source: str, target: str, sync: Sync) -> None:
        """Give a file another path."""
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._locks.hold(source, target):
                if not stat.S_ISREG(self._tree.look(source).st_mode):
                    raise PathNotFound(path=source)
                if source == target:
                    return
                self._tree.bring(self._tree.place(source), target, sync)
                # A rename does nothing at all when both names are links to one file already.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            sync(folder)
        self._tree.prune(above)

    def link(self, source: str, target: str, sync: Sync) -> bool:
        """Give a file a second path; False where the file system has no such thing."""
        aside = self._aside.new()
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
            with self._locks.hold(target):
                self._tree.bring(aside, target, sync)
        finally:
            discard(aside)  # as in move
        return True

    def remove(self, path: str, sync: Sync) -> None:
        """
        Remove a file, or a folder with all that lies below it.

        Raises:
            PathNotFound: nothing was there but folders.
        """
        above, _, name = path.rpartition("/")
        place, was_nothing = None, False
        with self._tree.folder(above) as folder:
            with self._locks.hold(path):
                found = self._tree.look(path)
                if stat.S_ISREG(found.st_mode) and found.st_size <= _SOON_FREED_BYTES:
                    os.unlink(name, dir_fd=folder)
                else:
                    place = self._put_away(folder, name)
            if place is not None:
                was_nothing = os.path.isdir(place) and not holds_files(place)
                self._take_apart(place)
            sync(folder)
        if self._last:  # where things come and go all the time the folder of them may stay
            self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)

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

    def _create(self, aside: str, path: str, sync: Sync) -> None:
        """Bring a content to a path where no file is."""
        try:
            with self._tree.errors(path):
                is_there = stat.S_ISREG(self._tree.look(path).st_mode)
        except PathNotFound:
            is_there = False
        if is_there:
            raise PreconditionFailed(path=path)
        self._tree.bring(aside, path, sync)

    def _replace(self, aside: str, path: str, version: str, sync: Sync) -> None:
        above, _, name = path.rpartition("/")
        try:
            with self._tree.folder(above) as folder:
                if version != _version(folder, name):
                    raise PreconditionFailed(path=path)
                os.rename(aside, name, dst_dir_fd=folder)
                sync(folder)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PreconditionFailed(path=path) from None


def write_whole(fd: int, content: Bytes) -> None:
    """Write a content to a file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _version(folder: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(read_whole(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)
