"""
The root folder of a store: the location of each path, and how a file gets there.

**Containment.** The path grammar excludes ``..``. The real path of each opened file is checked, and the file is
rejected if a symbolic link has led out of the root. Files are created, replaced and removed through descriptors of
checked folders, because a name may lead elsewhere later. Only empty folders are removed by name.

**Folders.** Publishing a file creates the folders above it, and removing the last file prunes them. Processes do this
without coordination: a writer that finds a folder missing creates it again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now
from docker_registry.drivers.file import links, linux
from docker_registry.errors import PathInvalid, PathNotFound, StorageError, StorageFull, StorageUnavailable

#: Called with the descriptor of a changed folder.
Sync = Callable[[int], None]

#: The driver's own folder in the root; never listed and never part of a path.
RESERVED: Final = ".docker-registry"

#: Returned by :func:`open_without_symlinks` instead of a descriptor: the path does not exist.
MISSING: Final = -1

#: The encoding of paths, as :func:`os.fsencode` uses it.
_ENCODING: Final = sys.getfilesystemencoding()

#: How often a folder that others remove is created again. Each attempt means that another process has made progress.
_MAX_TRIES: Final = 1000

#: The number of locations that are kept: a request opens a path and the folder above it several times.
_LOCATIONS: Final = 1024

#: Opens a folder.
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY

#: Opening a pipe in the tree must not block the worker.
DO_NOT_BLOCK: Final = os.O_NONBLOCK

#: The path does not exist or is of another kind than expected.
NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AWAY: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}
_IN_THE_WAY: Final = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY}


class Root:
    """
    The folder that contains a store. Methods raise :class:`OSError`, which :meth:`errors` translates.

    Attributes:
        locate: returns the location of a valid path in the file system, as :meth:`_locate` does.
    """

    def __init__(self, root: str) -> None:
        """
        Args:
            root: a folder, or a symbolic link to one; ``~`` is expanded.
        """
        self.root = os.path.realpath(os.path.expanduser(root))
        self.reserved = f"{self.root}/{RESERVED}"
        self._reserved_as_folder = f"{self.reserved}/."
        self.locate: Callable[[str], str] = lru_cache(maxsize=_LOCATIONS)(self._locate)
        for system_call in (linux.openat2, linux.renameat2):  # find them now, not in the first request
            system_call()

    def _locate(self, path: str) -> str:
        """
        Return the location of a valid path in the file system.

        Raises:
            PathInvalid: the path is reserved for the driver.
        """
        if path.startswith(RESERVED) and (path == RESERVED or path.startswith(f"{RESERVED}/")):
            raise PathInvalid(path=path)
        return f"{self.root}/{path}" if path else self.root

    def open(self, path: str, flags: int) -> int:
        """
        Open a file or folder.

        Raises:
            LinkBroken: a symbolic link leads out of the root, or to nothing.
        """
        location = self.locate(path)
        fd = open_without_symlinks(location, flags | DO_NOT_BLOCK)
        if fd is None:
            return self._open_checked(location, path, flags)
        if fd == MISSING:
            raise _missing(location)
        return fd

    def _open_checked(self, location: str, path: str, flags: int) -> int:
        """Open a file or folder whose path may contain symbolic links, and check that they stay in the root."""
        try:
            fd = os.open(location, flags | DO_NOT_BLOCK)
        except FileNotFoundError:
            links.check_missing(path, self.locate)
            raise
        try:
            links.check_inside(fd, path, self.root)
        except BaseException:
            close_now(fd)
            raise
        return fd

    def folder(self, path: str) -> AbstractContextManager[int]:
        """Open a folder for a block; the descriptor refers to this very folder even if it is moved."""
        return _Descriptor(self.open(path, FOLDER))

    # ---------------------------------------------------------------------------------------------- publishing

    def move_in(self, source: str, path: str, sync: Sync | None) -> bool:
        """
        Move a file to a path, even while other processes remove its folder.

        Args:
            source: a location in the same file system.
            sync: called with each changed folder, the innermost first. None if the change need not be synced; then
                *source* must be an unlisted location, because the replaced file may be there for a moment.

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
                    raise _in_the_way(path) from None
                raise
            finally:
                for fd in opened:
                    close_now(fd)
        raise StorageError("The folder was removed repeatedly during the operation.", path=path)

    def open_folder(self, path: str) -> tuple[int, bool]:
        """
        Open a folder, creating it and the folders above it as needed.

        Returns:
            Its descriptor, and whether it is new, so that it contains no file.
        """
        opened: list[int] = []
        try:
            self._open_folder(path, opened)
            return opened.pop(), bool(opened)
        finally:
            for fd in opened:
                close_now(fd)

    def _open_folder(self, path: str, opened: list[int]) -> None:
        """
        Open a folder, creating it and the folders above it as needed.

        Args:
            opened: receives the descriptor of the folder, after those of the folders in which another one was created.
        """
        location = self.locate(path)
        fd = open_without_symlinks(location, FOLDER)
        if fd is None:
            try:
                fd = self._open_checked(location, path, FOLDER)
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
        opened.append(os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))

    def prune(self, path: str) -> None:
        """Remove empty folders, from *path* upwards."""
        while path:
            try:
                os.rmdir(self.locate(path))
            except OSError:  # not empty, or removed by another
                return
            path = path.rpartition("/")[0]

    def _clear(self, path: str) -> None:
        """Remove a folder that contains only folders, left by a writer that died."""
        try:
            _remove_folders(self.locate(path))
        except FileNotFoundError:
            pass
        except OSError:
            raise _in_the_way(path) from None

    # -------------------------------------------------------------------------------------------------- errors

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
                raise self.failure(path, error) from None
            self.record_absence(path, error)
            raise PathNotFound(path=path) from None

    def failure(self, path: str, error: OSError) -> StorageError:
        """Return the error of the store that corresponds to an error of a change, which needs no existing path."""
        if error.errno in NOT_THERE:
            self.check_present(path)
        return translated(path, error)

    def record_absence(self, path: str, error: OSError) -> None:
        """
        Record as a dependency that a path does not exist, as *error* says.

        Raises:
            StorageError: *error* says something else.
        """
        if error.errno not in NOT_THERE:
            raise translated(path, error) from None
        self.check_present(path)
        dependencies.record(self.locate(path), None)

    def check_present(self, path: str) -> None:
        """
        Check that the root still contains a store: an unmounted disk must not look like an empty store.

        Raises:
            StorageUnavailable: it does not.
        """
        if not os.access(self._reserved_as_folder, os.F_OK):
            raise gone(path) from None


class _Descriptor(AbstractContextManager[int]):
    """An open descriptor, which is closed at the end of a block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        close_now(self._fd)


# --------------------------------------------------------------------------------------- files in the file system


def open_without_symlinks(location: str, flags: int) -> int | None:
    """
    Open an absolute path if no component is a symbolic link (openat2(2), available from Linux 5.6).

    The kernel checks this while it opens the file, at half the cost of opening the file and then reading its real path.

    Args:
        flags: as for :func:`os.open`; a new file gets the mode 0644.

    Returns:
        A descriptor; :data:`MISSING` if the path does not exist, or the folder of a file to be created does not; None
        if the path contains a link, or if this cannot be determined: then open the file with :func:`os.open` and check
        its real path.
    """
    openat2 = linux.openat2()
    if openat2 is None:
        return None
    name = location.encode(_ENCODING, "surrogateescape")
    fd = openat2(linux.OPENAT2, linux.AT_FDCWD, name, linux.open_how(flags), linux.OPEN_HOW_BYTES)
    if fd >= 0:
        return fd
    return MISSING if ctypes.get_errno() == errno.ENOENT else None


def rename_unwritten(source: str, name: str, folder: int, *, replaces: bool | None = None) -> bool:
    """
    Rename a file as :func:`os.rename` does, atomically for readers, and leave the write-back to the kernel.

    When a rename replaces a file, ext4 starts to write the new content to the disk during the rename, for programs that
    forget to sync it (``auto_da_alloc`` in ext4(5)). This takes ten times as long as the rename, and is useless if a
    journal has the content or if the content need not survive a crash of the host. ext4 does not do this when two files
    exchange their names (``RENAME_EXCHANGE`` of renameat2(2), available from Linux 3.15), and the old file can be
    removed later. A PUT of a manifest is 1.05 to 1.2 times faster for it.

    Args:
        source: an unlisted path, because another file may be there for a moment.
        name: the new name in the folder of descriptor *folder*.
        replaces: whether there is a file of this name; None if the caller does not know.

    Returns:
        Whether the replaced file is now at *source* and must be removed.
    """
    if replaces is None:
        replaces = _is_file(name, folder)
    if not replaces or not _exchange(source, name, folder):
        os.rename(source, name, dst_dir_fd=folder)
        return False
    if stat.S_ISDIR(os.lstat(source).st_mode):  # replaced by a folder just before the exchange
        _exchange(source, name, folder)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    return True


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exchange(source: str, name: str, folder: int) -> bool:
    """Exchange the names of two files; return False where that is not possible."""
    renameat2 = linux.renameat2()
    if renameat2 is None:
        return False
    return renameat2(linux.AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), linux.RENAME_EXCHANGE) == 0


def _remove_folders(folder: str) -> None:
    """
    Remove a folder and its subfolders.

    Raises:
        OSError: one of them contains a file; some may already have been removed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_folders(entry.path)
    os.rmdir(folder)


# ----------------------------------------------------------------------------------------------------------- errors


def translated(path: str, error: OSError) -> StorageError:
    """Return the error of the store that corresponds to an operating system error for *path*."""
    if error.errno in _FULL:
        return StorageFull(path=path)
    if error.errno == errno.ENAMETOOLONG:
        return PathInvalid(path=path)
    if error.errno in _AWAY:
        return StorageUnavailable(path=path)
    if error.errno == errno.EXDEV:
        return StorageError("The folder of the store must be one file system, with no other mounted in it.", path=path)
    return StorageError(f"The store failed: {error.strerror}.", path=path)


def gone(path: str) -> StorageError:
    """Return the error to raise when the root does not contain a store."""
    return StorageUnavailable("The folder of the store is gone.", path=path)


def _in_the_way(path: str) -> StorageError:
    return StorageError("A folder lies where a file should be, or the other way round.", path=path)


def _missing(location: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location)
