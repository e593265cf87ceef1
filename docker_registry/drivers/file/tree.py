"""
The tree of a store: its paths are looked up by :class:`Tree`, its files read and its folders listed by
:class:`FileReader`.

Each lookup records what it found, or that it found nothing, as a dependency of the current response
(:mod:`docker_registry.dependencies`). A file system and other programs put entries of their own into a folder; those
are neither listed nor counted.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import BinaryIO, Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now, run_in_thread
from docker_registry.drivers.base import NO_FOLDER, Stat, StorageDriver, Versioned
from docker_registry.drivers.file import links
from docker_registry.drivers.file.entries import are_files, is_ours
from docker_registry.drivers.file.large_files import KEPT_BYTES, EvictedFile, read_blocks
from docker_registry.drivers.file.root import (
    DO_NOT_BLOCK,
    FOLDER,
    MISSING,
    RESERVED,
    Root,
    gone,
    open_without_symlinks,
    translated,
)
from docker_registry.drivers.paths import check_path
from docker_registry.errors import LinkBroken, PathNotFound, PreconditionFailed

#: A folder that file systems create in their root; often only the user root can read it.
_LOST_AND_FOUND: Final = "lost+found"

#: Longer folders are listed in a native thread: with 32 KiB a folder has 400 to 2000 entries, by file system.
_SHORT_FOLDER_BYTES: Final = 32 * 1024

#: Entries of folders without files that are looked at before a native thread goes on.
_FEW_ENTRIES: Final = 64

#: A walk lists so many folders without finding a file before it leaves the event loop to other greenlets.
_FEW_FOLDERS: Final = 32


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
        return filter(is_ours, names)  # filtered lazily, because a folder may have very many entries

    def holds_files(self, path: str) -> bool:
        """Return whether a folder contains a file at any depth."""
        dependencies.make_uncacheable()
        search = are_files(self.locate(path))
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

    def open_folder_of_version(self, path: str, version: str) -> int:
        """
        Open the folder of a file that has a version.

        Returns:
            A descriptor of this very folder, even if it is moved.

        Raises:
            PreconditionFailed: the file has another version, or does not exist.
        """
        above, _, name = path.rpartition("/")
        try:
            folder = self.open(above, FOLDER)
            try:
                if version_of(folder, name) == version:
                    return folder
            except BaseException:
                close_now(folder)
                raise
            close_now(folder)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            pass
        raise PreconditionFailed(path=path)


class FileReader(StorageDriver):
    """The methods of :class:`~.driver.FileDriver` that read."""

    def __init__(self, tree: Tree, *, keeps_pulls: bool) -> None:
        """
        Args:
            keeps_pulls: whether large files stay in the page cache after they were read.
        """
        self._tree = tree
        self._keeps_pulls = keeps_pulls

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        content = self.find(path)
        if content is None:
            raise PathNotFound(path=path)
        return content

    def find(self, path: str) -> bytes | None:
        """See :class:`StorageDriver`."""
        opened = self._tree.find_file(check_path(path))
        if opened is None:
            return None
        fd, size = opened
        try:
            return read_whole(fd, size)
        except OSError as error:
            raise translated(path, error) from None
        finally:
            close_now(fd)

    def find_versioned(self, path: str) -> Versioned | None:
        """See :class:`StorageDriver`."""
        content = self.find(path)
        return None if content is None else Versioned(content, hashlib.sha256(content).hexdigest())

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        end = size if length is None else min(offset + length, size)
        blocks = read_blocks(fd, path, offset, end, self._tree.errors, stays=self._stays(end))
        next(blocks)
        return blocks

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        return io.FileIO(fd) if self._stays(size) else EvictedFile(fd)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        found = self._tree.find(check_path(path))
        if found is None or not stat.S_ISDIR(found.st_mode):
            return found is not None
        try:
            with self._tree.errors(path):
                return self._tree.holds_files(path)
        except PathNotFound:
            return False

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        found = self._find_file(path)
        if found is None:
            raise PathNotFound(path=path)
        return Stat(path, found.st_size, found.st_mtime)

    def find_size(self, path: str) -> int | None:
        """See :class:`StorageDriver`."""
        found = self._find_file(path)
        return None if found is None else found.st_size

    def has_file(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        return self._find_file(path) is not None

    def find_sizes(self, paths: Sequence[str]) -> list[int | None]:
        """See :class:`StorageDriver`."""
        return [None if found is None else found.st_size for found in map(self._find_file, paths)]

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        return self._list(path)

    def _list(self, path: str, *, in_thread: bool = False) -> Iterator[str]:
        with self._tree.errors(path):
            names = self._tree.names(check_path(path, root=True), in_thread=in_thread)
        first = next(names, None)
        if path and first is None:
            raise PathNotFound(path=path)
        prefix = f"{path}/" if path else ""
        return (prefix + name for name in chain(() if first is None else (first,), names))

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        found = self._tree.find(check_path(path, root=True))
        if found is None:
            return NO_FOLDER
        if dependencies.may_change_unnoticed(found):
            return None
        # Programs that copy trees set the modification time, but cannot set the change time.
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_ctime_ns}"

    def walk(self, path: str = "") -> Iterator[Stat]:
        """
        See :class:`StorageDriver`.

        Raises:
            LinkBroken: it has found broken symbolic links; raised after all files were yielded.
        """
        found = self._tree.find(check_path(path, root=True))
        if found is None:
            return
        progress = _Progress()
        yield from self._walk(path, {(found.st_dev, found.st_ino)}, progress)
        links.raise_all(progress.broken)

    def is_shared(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        found = self._find_file(path)
        return found is not None and found.st_nlink > 1

    # ------------------------------------------------------------------------------------------------- steps

    def _find_file(self, path: str) -> os.stat_result | None:
        """Return the metadata of a file; None if the path does not exist or is a folder."""
        found = self._tree.find(check_path(path))
        return found if found is not None and stat.S_ISREG(found.st_mode) else None

    def _walk(self, path: str, way: set[tuple[int, int]], progress: _Progress) -> Iterator[Stat]:
        """
        Args:
            way: identities of the folders that lead to this one.
            progress: of the whole walk; while it finds no file, it lists folders in a native thread.
        """
        progress.fruitless_folders += 1
        try:
            children = self._list(path, in_thread=progress.fruitless_folders > _FEW_FOLDERS)
        except PathNotFound:
            return
        for child in children:
            try:
                found = self._tree.find(child)
            except LinkBroken as error:
                progress.broken.append(error)
                continue
            if found is None:  # removed just now
                continue
            folder = (found.st_dev, found.st_ino)
            if stat.S_ISREG(found.st_mode):
                progress.fruitless_folders = 0
                yield Stat(child, found.st_size, found.st_mtime)
            elif stat.S_ISDIR(found.st_mode) and folder not in way:  # a symbolic link may form a cycle
                yield from self._walk(child, {*way, folder}, progress)

    def _stays(self, size: int) -> bool:
        """Return whether a file of *size* bytes stays in the page cache after it was read."""
        return self._keeps_pulls or size <= KEPT_BYTES


@dataclass
class _Progress:
    """
    Progress of a walk.

    Attributes:
        fruitless_folders: folders that were listed since it has found a file.
        broken: the symbolic links that it could not follow.
    """

    fruitless_folders: int = 0
    broken: list[LinkBroken] = field(default_factory=list)


# ----------------------------------------------------------------------------------- entries of folders, and files


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
