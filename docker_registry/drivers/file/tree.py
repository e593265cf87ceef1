"""
A folder of the local file system out of which no path leads, and in which folders come and go with their files.

**Inside.** The path grammar knows no ``..``; what is opened is asked where it really lies, and refused when a symbolic
link has led out. Folders are changed by descriptors that were asked so, never by names that may lead elsewhere since.

**Coming and going.** Whoever brings a file makes the folders above it, and whoever takes the last one prunes them.
Both are processes that know nothing of each other: who finds a folder gone makes it again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Final

from docker_registry import provenance
from docker_registry.drivers.file.folders import holds_files, is_ours, remove_folders
from docker_registry.drivers.file.os_errors import NOT_THERE, translated
from docker_registry.drivers.file.renaming import rename_unwritten
from docker_registry.drivers.file.straight import open_straight
from docker_registry.errors import PathInvalid, PathNotFound, StorageError, StorageUnavailable
from docker_registry.threads import close_now

#: Called with the descriptor of a folder that has changed.
Sync = Callable[[int], None]

#: What the driver keeps for itself in the root; never listed, never a path.
RESERVED: Final = ".docker-registry"

#: What file systems keep in every root of theirs; often only root may look into it.
_LOST_AND_FOUND: Final = "lost+found"

#: How often a folder is made again when removers take it; each time one of them has made progress.
_MAX_TRIES: Final = 1000

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY

_IN_THE_WAY: Final = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY}


class Tree:
    """The root of a store and all below it; raises :class:`OSError`, which :meth:`errors` translates."""

    def __init__(self, root: str) -> None:
        """
        Args:
            root: a folder, or a link to one; ``~`` is expanded.
        """
        self.root = os.path.realpath(os.path.expanduser(root))
        self.reserved = f"{self.root}/{RESERVED}"

    @cached_property
    def _device(self) -> int:
        return os.stat(self.reserved).st_dev

    def place(self, path: str) -> str:
        """
        Return where a valid path lies in the file system.

        Raises:
            PathInvalid: it is what the driver keeps for itself.
        """
        if path == RESERVED or path.startswith(f"{RESERVED}/"):
            raise PathInvalid(path=path)
        return f"{self.root}/{path}" if path else self.root

    def open(self, path: str, flags: int) -> int:
        """
        Open what lies under a path.

        Raises:
            StorageError: a link has led out of the root.
        """
        place = self.place(path)
        flags |= os.O_NONBLOCK  # a pipe that somebody left in the tree must not block the worker that opens it
        fd = open_straight(place, flags)
        if fd is not None:
            return fd
        fd = os.open(place, flags)
        try:
            real = os.readlink(f"/proc/self/fd/{fd}")
            if real != self.root and not real.startswith(f"{self.root}/"):
                raise StorageError("A symbolic link leads out of the store.", path=path)
        except BaseException:
            close_now(fd)
            raise
        return fd

    def open_file(self, path: str) -> tuple[int, int]:
        """Open a file and return its descriptor and its size; anything else is PathNotFound."""
        fd = self.open(path, os.O_RDONLY)
        try:
            found = os.fstat(fd)
            provenance.note(self.place(path), found)
            if not stat.S_ISREG(found.st_mode):
                raise PathNotFound(path=path)
        except BaseException:
            close_now(fd)
            raise
        return fd, found.st_size

    def look(self, path: str) -> os.stat_result:
        """Describe what lies under a path."""
        fd = self.open(path, os.O_PATH)
        try:
            found = os.fstat(fd)
        finally:
            close_now(fd)
        provenance.note(self.place(path), found)
        return found

    def find(self, path: str) -> os.stat_result | None:
        """
        Describe what lies under a path; None when nothing does.

        Raises:
            StorageError: nobody can tell.
        """
        try:
            return self.look(path)
        except OSError as error:
            self.note_absence(path, error)
            return None

    def names(self, path: str) -> Iterator[str]:
        """
        Yield the names of what lies in a folder, as far as they can be part of a path.

        Raises:
            StorageUnavailable: it is the root, and not that of a store.
        """
        with self.folder(path) as fd:
            names = os.listdir(fd)
        provenance.spoil()
        if not path:
            if RESERVED not in names:
                raise self._gone(path)
            names = [name for name in names if name not in (RESERVED, _LOST_AND_FOUND)]
        return filter(is_ours, names)  # one by one, as there may be very many

    def holds_files(self, path: str) -> bool:
        """Tell whether there is a file at any depth below a folder."""
        provenance.spoil()
        return holds_files(self.place(path))

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """Hold a folder open; it stays this very one, wherever others move it."""
        fd = self.open(path, _FOLDER)
        try:
            yield fd
        finally:
            close_now(fd)

    def _open_folder(self, path: str, opened: list[int]) -> None:
        """
        Open a folder, made with those above it where it is not there.

        Args:
            opened: gets it, after those in which another one was made.
        """
        try:
            opened.append(self.open(path, _FOLDER))
            return
        except FileNotFoundError:
            if not path:
                raise
        parent, _, name = path.rpartition("/")
        self._open_folder(parent, opened)
        with suppress(FileExistsError):  # made by another just now, who may not have synced it
            os.mkdir(name, dir_fd=opened[-1])
        opened.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))

    def bring(self, source: str, path: str, sync: Sync | None) -> bool:
        """
        Move a file to a path, whatever removers do to its folder meanwhile.

        Args:
            source: a place in the same file system.
            sync: is told of the folders that have changed, the innermost first; None when nothing of it has to reach
                the disk soon, and *source* is a place where nobody looks.

        Returns:
            Whether the file that was there lies at *source* now, to be removed; never with *sync*.
        """
        above, _, name = path.rpartition("/")
        for _ in range(_MAX_TRIES):
            opened: list[int] = []
            try:
                self._open_folder(above, opened)
                if sync is None and len(opened) == 1:  # in a folder just made is nothing that could be replaced
                    return rename_unwritten(source, name, opened[-1])
                os.rename(source, name, dst_dir_fd=opened[-1])
                if sync is not None:
                    for fd in reversed(opened):
                        sync(fd)
                return False
            except FileNotFoundError:
                os.lstat(source)  # raises when it is the source that is gone
            except IsADirectoryError:
                self._clear(path)
            except OSError as error:
                self.prune(above)
                if error.errno in _IN_THE_WAY:
                    raise self._in_the_way(path) from None
                raise
            finally:
                for fd in opened:
                    close_now(fd)
        raise StorageError("The folder is removed again and again.", path=path)

    def make_empty(self, path: str) -> bool:
        """
        Make an empty file at a path where nothing is: it is whole as soon as it is there, and needs no rename.

        Returns:
            Whether it was made; :meth:`bring` can do more, or says what is wrong.
        """
        place = self.place(path)
        try:
            fd = open_straight(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:  # its folder is not there
            return False
        if fd is None:
            return False
        is_here = os.fstat(fd).st_dev == self._device
        close_now(fd)
        if not is_here:  # what lies aside would not come there either
            os.unlink(place)
        return is_here

    def prune(self, path: str) -> None:
        """Remove folders that have become empty, from the inside out."""
        while path:
            try:
                os.rmdir(self.place(path))
            except OSError:  # not empty, or removed by another
                return
            path = path.rpartition("/")[0]

    @contextmanager
    def errors(self, path: str, *, may_miss: bool = True) -> Iterator[None]:
        """
        Translate what the file system raises.

        Args:
            may_miss: whether that nothing is there is an answer, or trouble like any other.
        """
        try:
            yield
        except OSError as error:
            if not may_miss:
                self._check_root(path, error)
                raise translated(path, error) from None
            self.note_absence(path, error)
            raise PathNotFound(path=path) from None

    def note_absence(self, path: str, error: OSError) -> None:
        """
        Note that nothing lies under a path, which is what an error says.

        Raises:
            StorageError: it says something else.
        """
        self._check_root(path, error)
        if error.errno not in NOT_THERE:
            raise translated(path, error) from None
        provenance.note(self.place(path), None)

    def _check_root(self, path: str, error: OSError) -> None:
        if error.errno in NOT_THERE and not os.path.isdir(self.reserved):
            raise self._gone(path) from None

    def _clear(self, path: str) -> None:
        """Remove a folder in which nothing is but folders: what a writer that died has left."""
        try:
            remove_folders(self.place(path))
        except FileNotFoundError:
            pass
        except OSError:
            raise self._in_the_way(path) from None

    def _gone(self, path: str) -> StorageError:
        # A disk that is no longer mounted is not an empty store.
        return StorageUnavailable("The folder of the store is gone.", path=path)

    def _in_the_way(self, path: str) -> StorageError:
        return StorageError("A folder lies where a file should be, or the other way round.", path=path)
