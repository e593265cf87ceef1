"""
Maps paths to a folder of the local file system, keeps them inside it, and creates and removes folders as needed.

**Containment.** The path grammar excludes ``..``. The real path of each opened file is checked, and the file is
rejected if a symbolic link has led out of the root. Files are created, replaced and removed through descriptors of
checked folders, because a name may lead elsewhere later. Only empty folders are removed by name.

**Folders.** Publishing a file creates the folders above it, and removing the last file prunes them. Processes do this
without coordination: a writer that finds a folder missing creates it again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now, run_in_thread
from docker_registry.drivers.file.folders import NOT_THERE, are_files, is_ours, remove_folders, translated
from docker_registry.drivers.file.linux import MISSING, NoSymlinkOpener, rename_unwritten
from docker_registry.errors import PathInvalid, PathNotFound, StorageError, StorageUnavailable

#: Called with the descriptor of a changed folder.
Sync = Callable[[int], None]

#: The driver's own folder in the root; never listed and never part of a path.
RESERVED: Final = ".docker-registry"

#: A folder that file systems create in their root; often only the user root can read it.
_LOST_AND_FOUND: Final = "lost+found"

#: How often a folder that others remove is created again. Each attempt means that another process has made progress.
_MAX_TRIES: Final = 1000

#: Longer folders are listed in a native thread: with 32 KiB a folder has 400 to 2000 entries, by file system.
_SHORT_FOLDER_BYTES: Final = 32 * 1024

#: Entries of folders without files that are looked at before a native thread goes on.
_FEW_ENTRIES: Final = 64

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY

#: Opening a pipe in the tree must not block the worker.
_DO_NOT_BLOCK: Final = os.O_NONBLOCK

_IN_THE_WAY: Final = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY}


class Tree:
    """The root of a store and everything below it. Methods raise :class:`OSError`, which :meth:`errors` translates."""

    def __init__(self, root: str) -> None:
        """
        Args:
            root: a folder, or a symbolic link to one; ``~`` is expanded.
        """
        self.root = os.path.realpath(os.path.expanduser(root))
        self.reserved = f"{self.root}/{RESERVED}"
        self._reserved_as_folder = f"{self.reserved}/."
        self._opener = NoSymlinkOpener()

    def locate(self, path: str) -> str:
        """
        Return the location of a valid path in the file system.

        Raises:
            PathInvalid: the path is reserved for the driver.
        """
        if path == RESERVED or path.startswith(f"{RESERVED}/"):
            raise PathInvalid(path=path)
        return f"{self.root}/{path}" if path else self.root

    def open(self, path: str, flags: int) -> int:
        """
        Open a file or folder.

        Raises:
            StorageError: a symbolic link leads out of the root.
        """
        location = self.locate(path)
        fd = self._opener.open(location, flags | _DO_NOT_BLOCK)
        if fd is None:
            return self._open_checked(location, path, flags)
        if fd == MISSING:
            raise _missing(location)
        return fd

    def _open_present(self, location: str, path: str, flags: int) -> int | None:
        """Open a file or folder; return None, and record the absence as a dependency, if it does not exist."""
        fd = self._opener.open(location, flags | _DO_NOT_BLOCK)
        if fd is None:
            try:
                return self._open_checked(location, path, flags)
            except OSError as error:
                self.record_absence(path, error)
                return None
        if fd == MISSING:
            self._record_missing(path, location)
            return None
        return fd

    def _open_checked(self, location: str, path: str, flags: int) -> int:
        """Open a file or folder whose path may contain symbolic links, and check that they stay in the root."""
        fd = os.open(location, flags | _DO_NOT_BLOCK)
        try:
            real = os.readlink(f"/proc/self/fd/{fd}")
            if real != self.root and not real.startswith(f"{self.root}/"):
                raise StorageError("A symbolic link leads out of the store.", path=path)
        except BaseException:
            close_now(fd)
            raise
        return fd

    def open_file(self, path: str) -> tuple[int, int]:
        """Open a file and return its descriptor and size; raises PathNotFound for anything else."""
        opened = self.find_file(path)
        if opened is None:
            raise PathNotFound(path=path)
        return opened

    def find_file(self, path: str) -> tuple[int, int] | None:
        """
        Open a file and return its descriptor and size; None if the path does not exist or is no file.

        Raises:
            StorageError: it cannot be opened.
        """
        location = self.locate(path)
        fd = self._open_present(location, path, os.O_RDONLY)
        if fd is None:
            return None
        try:
            found = os.fstat(fd)
            dependencies.record(location, found)
        except BaseException:
            close_now(fd)
            raise
        if not stat.S_ISREG(found.st_mode):
            close_now(fd)
            return None
        return fd, found.st_size

    def stat(self, path: str) -> os.stat_result:
        """Return the metadata of a path; raises FileNotFoundError if it does not exist."""
        fd = self.open(path, os.O_PATH)
        try:
            found = os.fstat(fd)
        finally:
            close_now(fd)
        dependencies.record(self.locate(path), found)
        return found

    def find(self, path: str) -> os.stat_result | None:
        """
        Return the metadata of a path; None if it does not exist.

        Raises:
            StorageError: this cannot be determined.
        """
        location = self.locate(path)
        fd = self._open_present(location, path, os.O_PATH)
        if fd is None:
            return None
        found = os.fstat(fd)
        close_now(fd)
        dependencies.record(location, found)
        return found

    def names(self, path: str, *, in_thread: bool = False) -> Iterator[str]:
        """
        Yield the names of a folder's entries that can be components of a path.

        Args:
            in_thread: whether even a short folder is listed in a native thread, while other greenlets run.

        Raises:
            StorageUnavailable: the folder is the root, and does not contain a store.
        """
        with self.folder(path) as fd:
            is_short = not in_thread and os.fstat(fd).st_size <= _SHORT_FOLDER_BYTES
            names = os.listdir(fd) if is_short else run_in_thread(os.listdir, fd)
        dependencies.make_uncacheable()
        if not path:
            if RESERVED not in names:
                raise self._gone(path)
            names = [name for name in names if name not in (RESERVED, _LOST_AND_FOUND)]
        return filter(is_ours, names)  # filtered lazily, because a folder may have very many entries

    def holds_files(self, path: str) -> bool:
        """Return whether a folder contains a file at any depth."""
        dependencies.make_uncacheable()
        search = are_files(self.locate(path))
        if any(islice(search, _FEW_ENTRIES)):
            return True
        found = next(search, None)
        return bool(found) or (found is not None and run_in_thread(any, search))

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """Hold a folder open; the descriptor refers to this very folder even if it is moved."""
        fd = self.open(path, _FOLDER)
        try:
            yield fd
        finally:
            close_now(fd)

    def _open_folder(self, path: str, opened: list[int]) -> None:
        """
        Open a folder, creating it and the folders above it as needed.

        Args:
            opened: receives the descriptor of the folder, after those of the folders in which another one was created.
        """
        location = self.locate(path)
        fd = self._opener.open(location, _FOLDER)
        if fd is None:
            try:
                fd = self._open_checked(location, path, _FOLDER)
            except FileNotFoundError:
                fd = MISSING
        if fd != MISSING:
            opened.append(fd)
            return
        if not path:
            raise _missing(location)
        parent, _, name = path.rpartition("/")
        self._open_folder(parent, opened)
        try:
            os.mkdir(name, dir_fd=opened[-1])
        except FileExistsError:  # created just now by another process, which may not have synced it yet
            pass
        opened.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))

    def move_in(self, source: str, path: str, sync: Sync | None) -> bool:
        """
        Move a file to a path, even while other processes remove its folder.

        Args:
            source: a location in the same file system.
            sync: called with each changed folder, the innermost first; None when the change need not reach the disk
                soon and *source* is an unlisted location.

        Returns:
            Whether the replaced file is now at *source* and must be removed; always False with *sync*.
        """
        above, _, name = path.rpartition("/")
        for _ in range(_MAX_TRIES):
            opened: list[int] = []
            try:
                self._open_folder(above, opened)
                if sync is None and len(opened) == 1:  # a folder that was just created contains no file to replace
                    return rename_unwritten(source, name, opened[-1])
                os.rename(source, name, dst_dir_fd=opened[-1])
                if sync is not None:
                    for fd in reversed(opened):
                        sync(fd)
                return False
            except FileNotFoundError:
                os.lstat(source)  # raises if *source* is missing
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
        raise StorageError("The folder was removed repeatedly during the operation.", path=path)

    def prune(self, path: str) -> None:
        """Remove empty folders, from *path* upwards."""
        while path:
            try:
                os.rmdir(self.locate(path))
            except OSError:  # not empty, or removed by another
                return
            path = path.rpartition("/")[0]

    @contextmanager
    def errors(self, path: str, *, may_miss: bool = True) -> Iterator[None]:
        """
        Translate errors of the file system.

        Args:
            may_miss: whether a missing path raises PathNotFound instead of being an error like any other.
        """
        try:
            yield
        except OSError as error:
            if not may_miss:
                if error.errno in NOT_THERE:
                    self._check_root(path)
                raise translated(path, error) from None
            self.record_absence(path, error)
            raise PathNotFound(path=path) from None

    def record_absence(self, path: str, error: OSError) -> None:
        """
        Record as a dependency that a path does not exist, as *error* says.

        Raises:
            StorageError: *error* says something else.
        """
        if error.errno not in NOT_THERE:
            raise translated(path, error) from None
        self._record_missing(path, self.locate(path))

    def _record_missing(self, path: str, location: str) -> None:
        self._check_root(path)
        dependencies.record(location, None)

    def _check_root(self, path: str) -> None:
        if not os.access(self._reserved_as_folder, os.F_OK):
            raise self._gone(path) from None

    def _clear(self, path: str) -> None:
        """Remove a folder that contains only folders, left by a writer that died."""
        try:
            remove_folders(self.locate(path))
        except FileNotFoundError:
            pass
        except OSError:
            raise self._in_the_way(path) from None

    def _gone(self, path: str) -> StorageError:
        # An unmounted disk must not look like an empty store.
        return StorageUnavailable("The folder of the store is gone.", path=path)

    def _in_the_way(self, path: str) -> StorageError:
        return StorageError("A folder lies where a file should be, or the other way round.", path=path)


def _missing(location: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location)
