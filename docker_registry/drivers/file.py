"""
Keeps everything in a folder of the local file system, or of one that hosts share.

**Writing.** A file is written under a name of its own in ``.docker-registry/aside``, synced, renamed to its place, and
the folder synced: at any crash of the process or the host a path holds its old content or its new one. All of that is
done in a native thread. A folder is removed by renaming it away first, so it disappears at once.

**Conditional puts** compare and rename under an flock on one of 256 files in ``.docker-registry/locks``, in a folder
that they hold open; other changes of single files take the same lock, so none slips in between, and who removes the
folder meanwhile takes the new content along.

What a path is in the file system, and that it never leads out of the root, is :class:`~.file_tree.Tree`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, ClassVar, Final

from docker_registry import provenance
from docker_registry.drivers.base import ABSENT, Bytes, Stat, StorageDriver, check_path
from docker_registry.drivers.file_tree import Tree, holds_files
from docker_registry.drivers.write_back import WriteBack
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.settings import Setting
from docker_registry.threads import close_now, in_thread

_BLOCK_BYTES: Final = 1024 * 1024

#: What file systems without hard links say, or those of one file being as many as it can have.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}


class FileDriver(StorageDriver):
    """A store in a folder."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "./registry-data", help="The folder that keeps everything; `~` is expanded."),
    )
    supports_if_match: ClassVar[bool] = True
    notes_provenance: ClassVar[bool] = True

    def __init__(self, storage_path: str) -> None:
        """
        Args:
            storage_path: the root; made when it is not there.

        Raises:
            StorageError: it cannot be made or written to, or is not a folder.
        """
        self._tree = Tree(storage_path)
        self._aside = f"{self._tree.reserved}/aside"
        self._locks = f"{self._tree.reserved}/locks"
        try:
            for folder in (self._aside, self._locks):
                os.makedirs(folder, exist_ok=True)
            for folder in (self._tree.root, self._aside, self._locks):
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StorageError(f"{self._tree.root} cannot be used: {error.strerror}") from None
        if not os.path.isdir("/proc/self/fd"):
            raise StorageError("The driver `file` needs Linux with /proc mounted, to see where links lead.")

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
            return open(self._tree.open_file(check_path(path))[0], "rb", buffering=0)

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
            in_thread(self._put_content, path, content, if_match)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(path))
        with self._tree.errors(path, may_miss=False):
            aside, fd = self._open_aside()
        size = 0
        write_back = WriteBack(fd)
        try:
            try:
                # What the source raises goes on as it is, also when it is an OSError of its own.
                for block in blocks:
                    with self._tree.errors(path, may_miss=False):
                        size += in_thread(_append, fd, block, write_back)
                with self._tree.errors(path, may_miss=False):
                    in_thread(self._publish, fd, aside, path, None)
            finally:
                close_now(fd)
        except BaseException:
            in_thread(_discard, aside)
            raise
        return size

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(target))
        with self._tree.errors(source):
            in_thread(self._move, check_path(source), target)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.place(check_path(target))
        with self._tree.errors(source):
            return in_thread(self._link, check_path(source), target)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self.stat(path)
        with self._tree.errors(path):
            os.utime(self._tree.place(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            in_thread(self._remove, check_path(path))

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        with self._tree.errors(""):
            return in_thread(self._remove_leftovers, time.time() - older_than_seconds)

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
            close_now(fd)

    def _new_aside(self) -> str:
        return f"{self._aside}/{secrets.token_hex(16)}"

    def _open_aside(self) -> tuple[str, int]:
        aside = self._new_aside()
        return aside, os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def _put_content(self, path: str, content: Bytes, if_match: str | None) -> None:
        aside, fd = self._open_aside()
        try:
            try:
                _write(fd, content)
                self._publish(fd, aside, path, if_match)
            finally:
                close_now(fd)
        except BaseException:
            _discard(aside)
            raise

    def _publish(self, fd: int, aside: str, path: str, if_match: str | None) -> None:
        os.fsync(fd)
        with self._lock(path):
            if if_match is None:
                self._tree.bring(aside, path)
            elif if_match == ABSENT:
                self._create(aside, path)
            else:
                self._replace(aside, path, if_match)

    def _create(self, aside: str, path: str) -> None:
        try:
            self.stat(path)
        except PathNotFound:
            self._tree.bring(aside, path)
        else:
            raise PreconditionFailed(path=path)

    def _replace(self, aside: str, path: str, version: str) -> None:
        above, _, name = path.rpartition("/")
        try:
            with self._tree.folder(above) as folder:
                if version != _version(folder, name):
                    raise PreconditionFailed(path=path)
                os.rename(aside, name, dst_dir_fd=folder)
                os.fsync(folder)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PreconditionFailed(path=path) from None

    def _move(self, source: str, target: str) -> None:
        above, _, name = source.rpartition("/")
        with self._tree.folder(above) as folder:
            with self._lock(source, target):
                self.stat(source)
                if source == target:
                    return
                self._tree.bring(self._tree.place(source), target)
                # A rename does nothing at all when both names are links to one file already.
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            os.fsync(folder)
        self._tree.prune(above)

    def _link(self, source: str, target: str) -> bool:
        aside = self._new_aside()
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
            with self._lock(target):
                self._tree.bring(aside, target)
        finally:
            _discard(aside)  # as in _move
        return True

    def _remove(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        aside = place = self._new_aside()
        with self._tree.folder(above) as folder:
            with self._lock(path):
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
            _discard(place, is_aside=place == aside)
            os.fsync(folder)
        self._tree.prune(above)
        if was_nothing:
            raise PathNotFound(path=path)

    def _remove_leftovers(self, before: float) -> int:
        removed = 0
        with os.scandir(self._aside) as entries:
            for entry in entries:
                # Not the time of modification: what is being removed or linked has been brought here with an old one.
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_ctime < before:
                        _discard(entry.path)
                        removed += 1
        return removed

    @contextmanager
    def _lock(self, *paths: str) -> Iterator[None]:
        """Hold the locks that single changes of these paths take; blocks this thread."""
        with ExitStack() as held:
            # Always in one order, so that no two wait for each other.
            for name in sorted({hashlib.sha256(path.encode()).hexdigest()[:2] for path in paths}):
                fd = os.open(f"{self._locks}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
                held.callback(close_now, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield


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


def _append(fd: int, block: Bytes, write_back: WriteBack) -> int:
    written = _write(fd, block)
    write_back.wrote(written)
    return written


def _discard(place: str, *, is_aside: bool = True) -> None:
    """Remove a file or a folder; what lies aside and cannot be removed now is a leftover, like those of the dead."""
    try:
        os.unlink(place)
    except IsADirectoryError:
        shutil.rmtree(place, ignore_errors=is_aside)
    except OSError:  # most often it has been brought to its path already
        if not is_aside:
            raise
