"""
Keeps everything in a folder of the local file system, or of one that hosts share.

**Writing.** A file is written under a name of its own in ``.docker-registry/aside``, synced, renamed to its place, and
the folder synced: at any crash of the process or the host a path holds its old content or its new one. What waits for
the disk is done in a native thread. The single changes are :class:`~.changes.Changes`.

**Syncing** is most of the time that a small change takes. Several that belong together share it (:meth:`together`), and
what lives for minutes only does without (:attr:`short_lived`).

**Locks.** Changes of a path take an flock on one of 16 files in ``.docker-registry/locks``.

What a path is in the file system, and that it never leads out of the root, is :class:`~.tree.Tree`.
"""

from __future__ import annotations

import copy
import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, BinaryIO, ClassVar, Final, TypeVar

from docker_registry import provenance
from docker_registry.drivers.base import NO_FOLDER, Bytes, Stat, StorageDriver, check_path
from docker_registry.drivers.file import together
from docker_registry.drivers.file.aside import Aside, discard
from docker_registry.drivers.file.changes import Changes, write_whole
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.growing import KEPT_BYTES, GrowingFile
from docker_registry.drivers.file.locks import Locks
from docker_registry.drivers.file.reading import PassingFile, read_blocks, read_whole
from docker_registry.drivers.file.together import Together
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.settings import Setting
from docker_registry.threads import close_now, in_thread

Result = TypeVar("Result")

#: So much of a file is written before a thread is worth its price; the kernel only copies it.
_INLINE_BYTES: Final = 256 * 1024


class FileDriver(StorageDriver):
    """A store in a folder."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "./registry-data", help="The folder that keeps everything; `~` is expanded."),
        Setting(
            "storage_page_cache",
            str,
            "pulls",
            help="Which large files stay in the memory of the kernel when they were used: those of `pulls`, `all`, that"
            " is those of pushes too, or `none`, so that they drive out nothing else.",
            choices=("pulls", "all", "none"),
        ),
    )
    supports_if_match: ClassVar[bool] = True
    notes_provenance: ClassVar[bool] = True

    def __init__(self, storage_path: str, storage_page_cache: str = "pulls") -> None:
        """
        Args:
            storage_path: the root; made when it is not there.
            storage_page_cache: ``pulls``, ``all`` or ``none``.

        Raises:
            StorageError: it cannot be made or written to, or is not a folder.
        """
        self._tree = Tree(storage_path)
        self._aside = Aside(f"{self._tree.reserved}/aside")
        locks = Locks(f"{self._tree.reserved}/locks")
        self._changes = Changes(self._tree, self._aside, locks, last=True)
        self._short_locks = Locks(f"{self._tree.reserved}/locks/short-lived")
        self._keeps_pushes = storage_page_cache == "all"
        self._keeps_pulls = storage_page_cache != "none"
        self._lasts = True
        try:
            for folder in (self._aside.folder, self._short_locks.folder):
                os.makedirs(folder, exist_ok=True)
            for folder in (self._tree.root, self._aside.folder, locks.folder, self._short_locks.folder):
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StorageError(f"{self._tree.root} cannot be used: {error.strerror}") from None
        self._disk = Disk(self._tree.root)
        if not os.path.isdir("/proc/self/fd"):
            raise StorageError("The driver `file` needs Linux with /proc mounted, to see where links lead.")

    @cached_property
    def short_lived(self) -> FileDriver:
        """See :class:`StorageDriver`."""
        # Locks of their own: whoever holds one of the others may wait for the disk.
        driver = copy.copy(self)
        changes = Changes(self._tree, self._aside, self._short_locks, last=False)
        vars(driver).update(_lasts=False, _changes=changes, short_lived=driver)
        return driver

    @contextmanager
    def together(self) -> Iterator[None]:
        """See :class:`StorageDriver`."""
        if not self._lasts or together.present() is not None:
            yield
            return
        changes = Together(self._disk, self._changes.bring)
        finish = changes.end  # also what came before an error is seen already, and others may build on it
        try:
            with together.begun(changes):
                yield
            finish = changes.publish_and_end
        finally:
            with self._tree.errors("", may_miss=False):
                in_thread(finish)

    # ----------------------------------------------------------------------------------------------- reading

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
            try:
                return read_whole(fd, size)
            finally:
                close_now(fd)

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        end = size if length is None else min(offset + length, size)
        blocks = read_blocks(self._tree, path, offset, end, fd, stays=self._stays(end))
        next(blocks)
        return blocks

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        return io.FileIO(fd) if self._stays(size) else PassingFile(fd)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            with self._tree.errors(path):
                found = self._tree.look(check_path(path))
                return not stat.S_ISDIR(found.st_mode) or self._tree.holds_files(path)
        except PathNotFound:
            return False

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            found = self._tree.look(check_path(path))
        if not stat.S_ISREG(found.st_mode):
            raise PathNotFound(path=path)
        return Stat(path, found.st_size, found.st_mtime)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            names = self._tree.names(check_path(path, root=True))
        if path and not names:
            raise PathNotFound(path=path)
        prefix = f"{path}/" if path else ""
        return (prefix + name for name in names)

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        place = self._tree.place(check_path(path, root=True))
        try:
            with self._tree.errors(path):
                found = os.stat(place)
        except PathNotFound:
            return NO_FOLDER
        if time.time_ns() - found.st_mtime_ns < provenance.CLOCK_TICK_NANOSECONDS:
            return None
        provenance.note(place, found)
        return f"{found.st_ino}-{found.st_mtime_ns}"

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        try:
            with self._tree.errors(path):
                found = self._tree.look(check_path(path, root=True))
        except PathNotFound:
            return
        yield from self._walk(path, {(found.st_dev, found.st_ino)})

    # ----------------------------------------------------------------------------------------------- writing

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(path))
        with self._tree.errors(path, may_miss=False):
            changes = together.present() if self._lasts and if_match is None else None
            if changes is None:
                self._carry_out(self._changes.put, path, content, if_match)
                return
            self._put_later(path, content, changes)
        if changes.is_full:
            self._publish_waiting(changes)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(path))
        with self._tree.errors(path, may_miss=False):
            aside, fd = self._aside.create()
        try:
            try:
                growing = GrowingFile(fd, keep=self._keeps_pushes)
                # What the source raises goes on as it is, also when it is an OSError of its own.
                for block in blocks:
                    is_small = growing.size + len(block) <= _INLINE_BYTES
                    with self._tree.errors(path, may_miss=False):
                        growing.append(block) if is_small else in_thread(growing.append, block)
                with self._tree.errors(path, may_miss=False):
                    in_thread(os.fsync, fd)
                    self._carry_out(self._changes.bring, aside, path)
            finally:
                close_now(fd)
        except BaseException:
            in_thread(discard, aside)
            raise
        return growing.size

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(target))
        with self._tree.errors(source):
            self._carry_out(self._changes.move, check_path(source), target, is_rename=True)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(target))
        with self._tree.errors(source):
            return self._carry_out(self._changes.link, check_path(source), target, is_rename=True)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self.stat(path)
        with self._tree.errors(path):
            os.utime(self._tree.place(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            self._carry_out(self._changes.remove, check_path(path))

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        with self._tree.errors(""):
            return in_thread(self._aside.remove_leftovers, time.time() - older_than_seconds)

    # ---------------------------------------------------------------------------------------- in this thread

    def _walk(self, path: str, way: set[tuple[int, int]]) -> Iterator[Stat]:
        try:
            children = self.list_directory(path)
        except PathNotFound:
            return
        for child in children:
            try:
                with self._tree.errors(child):
                    found = self._tree.look(child)
            except PathNotFound:  # removed just now
                continue
            folder = (found.st_dev, found.st_ino)
            if stat.S_ISREG(found.st_mode):
                yield Stat(child, found.st_size, found.st_mtime)
            elif stat.S_ISDIR(found.st_mode) and folder not in way:  # a link may lead back up
                yield from self._walk(child, {*way, folder})

    def _carry_out(self, function: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Call what changes something, with a :data:`Sync` as its last argument, and wait for the disk if need be.

        Args:
            is_rename: whether it takes no longer than what only looks, until its folders are synced.
        """
        if not self._lasts:
            return function(*args, together.never)
        around = together.present()
        if is_rename and around is not None and not around.is_waiting:
            return function(*args, around.changed)
        return in_thread(partial(self._carry_out_and_sync, around, function, args))

    def _carry_out_and_sync(
        self, around: Together | None, function: Callable[..., Result], args: tuple[Any, ...]
    ) -> Result:
        if around is not None:
            around.publish()  # what was put before comes first
            return function(*args, around.changed)
        alone = Together(self._disk, self._changes.bring)
        try:
            result = function(*args, alone.changed)
            alone.sync()
            return result
        finally:
            alone.forget()

    def _publish_waiting(self, changes: Together) -> None:
        with self._tree.errors("", may_miss=False):
            in_thread(changes.publish)

    def _stays(self, size: int) -> bool:
        """Tell whether a file of so many bytes stays in the kernel's memory after it was read."""
        return self._keeps_pulls or size <= KEPT_BYTES

    def _put_later(self, path: str, content: Bytes, changes: Together) -> None:
        aside, fd = self._aside.create()
        changes.add(fd, aside, path, is_empty=not content)
        write_whole(fd, content)
