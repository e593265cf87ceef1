"""
Keeps everything in a folder of the local file system, or of one that hosts share.

**Writing.** A file is written under a name of its own in ``.docker-registry/aside``, synced, renamed to its place, and
the folder synced: at any crash of the process or the host a path holds its old content or its new one. All of that is
done in a native thread. A folder is removed by renaming it away first, so it disappears at once.

**Syncing** is most of the time that a small change takes. Several that belong together share it (:meth:`together`), and
what lives for minutes only does without (:attr:`short_lived`).

**Conditional puts** compare and rename under an flock on one of 256 files in ``.docker-registry/locks``, in a folder
that they hold open; other changes of single files take the same lock, so none slips in between, and who removes the
folder meanwhile takes the new content along.

What a path is in the file system, and that it never leads out of the root, is :class:`~.file_tree.Tree`.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any, BinaryIO, ClassVar, Final, TypeVar

from docker_registry import provenance
from docker_registry.drivers.base import Bytes, Stat, StorageDriver, check_path
from docker_registry.drivers.file import together
from docker_registry.drivers.file.aside import Aside, discard
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.growing import KEPT_BYTES, GrowingFile
from docker_registry.drivers.file.locks import Locks
from docker_registry.drivers.file.together import Sync, Together
from docker_registry.drivers.file.tree import Tree, holds_files
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.settings import Setting
from docker_registry.threads import close_now, in_thread

Result = TypeVar("Result")

_BLOCK_BYTES: Final = 1024 * 1024

#: What file systems without hard links say, or those of one file being as many as it can have.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}


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
        self._locks = Locks(f"{self._tree.reserved}/locks")
        self._short_locks = f"{self._tree.reserved}/locks/short-lived"
        self._keeps_pushes = storage_page_cache == "all"
        self._keeps_pulls = storage_page_cache != "none"
        self._lasts = True
        try:
            for folder in (self._aside.folder, self._short_locks):
                os.makedirs(folder, exist_ok=True)
            for folder in (self._tree.root, self._aside.folder, self._locks.folder, self._short_locks):
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
        vars(driver).update(_lasts=False, _locks=Locks(self._short_locks), short_lived=driver)
        return driver

    @contextmanager
    def together(self) -> Iterator[None]:
        """See :class:`StorageDriver`."""
        if not self._lasts or together.present() is not None:
            yield
            return
        changes = Together(self._disk, self._bring)
        try:
            with together.begun(changes):
                yield
                self._publish_waiting(changes)
        finally:
            # Also what came before an error is seen already, and others may build on it.
            with self._tree.errors("", may_miss=False):
                in_thread(changes.end)

    # ----------------------------------------------------------------------------------------------- reading

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
            try:
                return _read(fd, size)
            finally:
                close_now(fd)

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        blocks = self._blocks(path, fd, offset, size if length is None else min(offset + length, size))
        next(blocks)
        return blocks

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            fd, size = self._tree.open_file(check_path(path))
        return io.FileIO(fd) if self._stays(size) else _PassingFile(fd)

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
            found = os.stat(place)
        except OSError:
            return None
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
                self._carry_out(self._put_content, path, content, if_match)
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
                    with self._tree.errors(path, may_miss=False):
                        in_thread(growing.append, block)
                with self._tree.errors(path, may_miss=False):
                    in_thread(os.fsync, fd)
                    self._carry_out(self._bring, aside, path)
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
            self._carry_out(self._move, check_path(source), target)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(target))
        with self._tree.errors(source):
            return self._carry_out(self._link, check_path(source), target)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self.stat(path)
        with self._tree.errors(path):
            os.utime(self._tree.place(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            self._carry_out(self._remove, check_path(path))

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

    def _blocks(self, path: str, fd: int, offset: int, end: int) -> Iterator[bytes]:
        try:
            # Taken by stream_read: a generator that never began would never close the file.
            yield b""
            while offset < end:
                with self._tree.errors(path):
                    block = os.pread(fd, min(_BLOCK_BYTES, end - offset), offset)
                if not block:
                    raise StorageError("The file became shorter while it was read.", path=path)
                offset += len(block)
                yield block
        finally:
            if not self._stays(end):
                _let_go(fd)
            close_now(fd)

    def _carry_out(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call what changes something, with a :data:`Sync` as its last argument, and wait for the disk if need be."""
        if not self._lasts:
            return function(*args, together.never)
        return in_thread(partial(self._carry_out_and_sync, together.present(), function, args))

    def _carry_out_and_sync(
        self, around: Together | None, function: Callable[..., Result], args: tuple[Any, ...]
    ) -> Result:
        if around is not None:
            around.publish()  # what was put before comes first
            return function(*args, around.changed)
        alone = Together(self._disk, self._bring)
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
        _write(fd, content)

    def _put_content(self, path: str, content: Bytes, if_match: str | None, sync: Sync) -> None:
        aside, fd = self._aside.create()
        try:
            try:
                _write(fd, content)
                if self._lasts and content:  # that an empty file is there is told by its folder
                    os.fsync(fd)
            finally:
                close_now(fd)
            if if_match is None:
                self._bring(aside, path, sync)
            else:
                with self._locks.hold(path):
                    self._replace(aside, path, if_match, sync) if if_match else self._create(aside, path, sync)
        except BaseException:
            discard(aside)
            raise

    def _bring(self, aside: str, path: str, sync: Sync) -> None:
        with self._locks.hold(path):
            self._tree.bring(aside, path, sync)

    def _create(self, aside: str, path: str, sync: Sync) -> None:
        try:
            self.stat(path)
        except PathNotFound:
            self._tree.bring(aside, path, sync)
        else:
            raise PreconditionFailed(path=path)

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

    def _move(self, source: str, target: str, sync: Sync) -> None:
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._locks.hold(source, target):
                self.stat(source)
                if source == target:
                    return
                self._tree.bring(self._tree.place(source), target, sync)
                # A rename does nothing at all when both names are links to one file already.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            sync(folder)
        self._tree.prune(above)

    def _link(self, source: str, target: str, sync: Sync) -> bool:
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
            discard(aside)  # as in _move
        return True

    def _remove(self, path: str, sync: Sync) -> None:
        above, _, name = path.rpartition("/")
        aside = place = self._aside.new()
        with self._tree.folder(above) as folder:
            with self._locks.hold(path):
                self._tree.look(path)
                try:
                    # Away at once and whole, then taken apart where nobody looks.
                    os.rename(name, aside, src_dir_fd=folder)
                except OSError as error:
                    # overlayfs cannot rename a folder that came with a container's image.
                    if error.errno != errno.EXDEV:
                        raise
                    place = f"/proc/self/fd/{folder}/{name}"
            was_nothing = os.path.isdir(place) and not holds_files(place)
            discard(place, is_aside=place == aside)
            sync(folder)
        self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)


class _PassingFile(io.FileIO):
    """A file that leaves the kernel's memory when it was read."""

    def close(self) -> None:
        if not self.closed:
            _let_go(self.fileno())
        super().close()


def _read(fd: int, size: int) -> bytes:
    content = os.read(fd, size)
    while len(content) < size and (block := os.read(fd, size - len(content))):  # a read gives 2 GiB at most
        content += block
    return content


def _version(folder: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        return hashlib.sha256(_read(fd, os.fstat(fd).st_size)).hexdigest()
    finally:
        close_now(fd)


def _write(fd: int, content: Bytes) -> int:
    view = memoryview(content)
    written = 0
    while written < len(view):
        written += os.write(fd, view[written:])
    return written


def _let_go(fd: int) -> None:
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
