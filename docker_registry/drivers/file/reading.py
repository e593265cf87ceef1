"""
Reading the files of a store: whole, in blocks, or through the kernel; and listing its folders.

Large files can be read so that they do not stay in the page cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now
from docker_registry.drivers.base import NO_FOLDER, Stat, StorageDriver, Versioned
from docker_registry.drivers.file.direct_io import KEPT_BYTES
from docker_registry.drivers.file.root import translated
from docker_registry.drivers.file.tree import Tree, read_whole
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathNotFound, StorageError

_BLOCK_BYTES: Final = 1024 * 1024

#: A walk lists so many folders without finding a file before it leaves the event loop to other greenlets.
_FEW_FOLDERS: Final = 32


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
        blocks = _read_blocks(self._tree, path, offset, end, fd, stays=self._stays(end))
        next(blocks)
        return blocks

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        return io.FileIO(fd) if self._stays(size) else _EvictedFile(fd)

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
        """See :class:`StorageDriver`."""
        found = self._tree.find(check_path(path, root=True))
        if found is None:
            return
        yield from self._walk(path, {(found.st_dev, found.st_ino)}, _Progress())

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
            found = self._tree.find(child)
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
    """

    fruitless_folders: int = 0


def _read_blocks(tree: Tree, path: str, offset: int, end: int, fd: int, *, stays: bool) -> Iterator[bytes]:
    """
    Yield an empty block once, then the bytes of a file from *offset* to *end*; finally close its descriptor.

    Args:
        stays: whether the file may stay in the page cache.

    Raises:
        StorageError: the file became shorter or cannot be read.
    """
    try:
        # The opener consumes this block: a generator that was never started would not close the descriptor.
        yield b""
        while offset < end:
            with tree.errors(path):
                block = os.pread(fd, min(_BLOCK_BYTES, end - offset), offset)
            if not block:
                raise StorageError("The file became shorter while it was read.", path=path)
            offset += len(block)
            yield block
    finally:
        if not stays:
            _evict(fd)
        close_now(fd)


class _EvictedFile(io.FileIO):
    """A file that is evicted from the page cache when it is closed."""

    def close(self) -> None:
        """Evict the file from the page cache and close it."""
        if not self.closed:
            _evict(self.fileno())
        super().close()


def _evict(fd: int) -> None:
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
