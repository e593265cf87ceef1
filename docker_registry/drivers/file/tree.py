"""
Looks up paths of a store: their metadata, files opened for reading, and the names in folders.

Each lookup records what it found, or that it found nothing, as a dependency of the current response
(:mod:`docker_registry.dependencies`). A file system and other programs put entries of their own into a folder; those
are neither listed nor counted.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now, run_in_thread
from docker_registry.drivers.file.root import DO_NOT_BLOCK, MISSING, RESERVED, Root, gone, open_without_symlinks
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed

#: The name that an NFS client gives to a removed file that is still open ("silly rename").
_SILLY_RENAMED: Final = re.compile(r"\.nfs[0-9a-f]{16,}")

#: A folder that file systems create in their root; often only the user root can read it.
_LOST_AND_FOUND: Final = "lost+found"

#: Longer folders are listed in a native thread: with 32 KiB a folder has 400 to 2000 entries, by file system.
_SHORT_FOLDER_BYTES: Final = 32 * 1024

#: Entries of folders without files that are looked at before a native thread goes on.
_FEW_ENTRIES: Final = 64


class Tree(Root):
    """The root of a store and everything below it."""

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

    def _open_present(self, location: str, path: str, flags: int) -> int | None:
        """Open a file or folder; return None, and record the absence as a dependency, if it does not exist."""
        fd = open_without_symlinks(location, flags | DO_NOT_BLOCK)
        if fd is None:
            try:
                return self._open_checked(location, path, flags)
            except OSError as error:
                self.record_absence(path, error)
                return None
        if fd == MISSING:
            self.check_present(path)
            dependencies.record(location, None)
            return None
        return fd

    def stat(self, path: str) -> os.stat_result:
        """Return the metadata of a path; raises FileNotFoundError if it does not exist."""
        fd = self.open(path, os.O_PATH)
        try:
            found = os.fstat(fd)
        finally:
            close_now(fd)
        dependencies.record(self.locate(path), found)
        return found

    def open_file(self, path: str) -> tuple[int, int]:
        """Open a file and return its descriptor and size; raises PathNotFound for anything else."""
        opened = self.find_file(path)
        if opened is None:
            raise PathNotFound(path=path)
        return opened

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
                raise gone(path)
            names = [name for name in names if name not in (RESERVED, _LOST_AND_FOUND)]
        return filter(_is_ours, names)  # filtered lazily, because a folder may have very many entries

    def holds_files(self, path: str) -> bool:
        """Return whether a folder contains a file at any depth."""
        dependencies.make_uncacheable()
        search = _are_files(self.locate(path))
        if any(islice(search, _FEW_ENTRIES)):
            return True
        found = next(search, None)
        return bool(found) or (found is not None and run_in_thread(any, search))

    # ------------------------------------------------------------------------------------------------ versions

    def check_absent(self, path: str) -> None:
        """Raise PreconditionFailed if the path is a file."""
        found = self.find(path)
        if found is not None and stat.S_ISREG(found.st_mode):
            raise PreconditionFailed(path=path)

    @contextmanager
    def folder_of_version(self, path: str, version: str) -> Iterator[int]:
        """
        Hold the folder of a file open, even if it is removed meanwhile.

        Raises:
            PreconditionFailed: the file has another version, or does not exist.
        """
        above, _, name = path.rpartition("/")
        try:
            with self.folder(above) as folder:
                if version != version_of(folder, name):
                    raise PreconditionFailed(path=path)
                yield folder
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PreconditionFailed(path=path) from None


# ----------------------------------------------------------------------------------- entries of folders, and files


def _is_ours(name: str) -> bool:
    """Return whether a file name can be a component of a path and is not one that NFS uses internally."""
    if _SILLY_RENAMED.fullmatch(name):
        return False
    try:
        check_path(name)
    except PathInvalid:
        return False
    return True


def holds_files(folder: str) -> bool:
    """Return whether a folder contains a file at any depth."""
    return any(_are_files(folder))


def _are_files(folder: str) -> Iterator[bool]:
    """Yield for each entry at any depth whether it is a file."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_file = not entry.is_dir(follow_symlinks=False)
                yield is_file and _is_ours(entry.name)
                if not is_file and _is_ours(entry.name):
                    yield from _are_files(entry.path)
    except FileNotFoundError:  # removed meanwhile; the other entries still count
        return


def version_of(folder: int, name: str) -> str:
    """Return the version of a file in an open folder: the SHA-256 of its content."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(read_whole(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)


def read_whole(fd: int, size: int) -> bytes:
    """Return all *size* bytes of a file."""
    content = os.read(fd, size)
    while len(content) < size and (block := os.read(fd, size - len(content))):  # read(2) returns at most 2 GiB
        content += block
    return content
