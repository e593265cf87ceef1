"""
Keeps everything in a folder of the local file system, or of one that hosts share.

**Writing.** A file is written under a name of its own in ``.docker-registry/aside``, synced, renamed to its place, and
the folder synced: at any crash of the process or the host a path holds its old content or its new one. All of that is
one hop to a native thread. A folder is removed by renaming it away first, so it disappears at once.

**Conditional puts** compare and rename under an flock on one of 256 files in ``.docker-registry/locks``; other changes
of single files take the same lock, so none slips in between.

**Inside the root.** The path grammar knows no ``..``. What is opened is asked where it really lies, and refused when a
symbolic link has led out of the root. The root itself may be a link.
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
from contextlib import contextmanager
from typing import BinaryIO, ClassVar, Final

from docker_registry.drivers.base import ABSENT, Bytes, Stat, StorageDriver, check_path
from docker_registry.errors import (
    PathInvalid,
    PathNotFound,
    PreconditionFailed,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from docker_registry.settings import Setting
from docker_registry.threads import in_thread

#: Our own things in the root; never listed, never a path.
RESERVED: Final = ".docker-registry"

_BLOCK_BYTES: Final = 1024 * 1024

#: A folder that changed less than this ago may change again without a new time: clocks of kernels tick slowly.
_CLOCK_TICK_NANOSECONDS: Final = 100_000_000

#: How often a writer makes its folder again when removers take it; each time one of them has made progress.
_MAX_TRIES: Final = 1000

_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AWAY: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}


class FileDriver(StorageDriver):
    """A store in a folder."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "./registry-data", help="The folder that keeps everything; `~` is expanded."),
    )
    supports_if_match: ClassVar[bool] = True

    def __init__(self, storage_path: str) -> None:
        """
        Args:
            storage_path: the root; made when it is not there.

        Raises:
            StorageError: it cannot be made, or is not a folder.
        """
        self._root = os.path.realpath(os.path.expanduser(storage_path))
        self._aside = f"{self._root}/{RESERVED}/aside"
        self._locks = f"{self._root}/{RESERVED}/locks"
        try:
            os.makedirs(self._aside, exist_ok=True)
            os.makedirs(self._locks, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._root} cannot be used: {error.strerror}") from None

    # ----------------------------------------------------------------------------------------------- reading

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        with _as_storage_error(path):
            fd = self._open_file(path)
            try:
                return _read_all(fd)
            finally:
                os.close(fd)

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        with _as_storage_error(path):
            fd = self._open_file(path)
            size = os.fstat(fd).st_size
        end = size if length is None else min(offset + length, size)
        return self._blocks(path, fd, offset, end)

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`."""
        with _as_storage_error(path):
            return open(self._open_file(path), "rb", buffering=0)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            with _as_storage_error(path):
                fd = self._open(check_path(path), os.O_PATH)
                try:
                    is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
                finally:
                    os.close(fd)
                return not is_folder or _holds_files(self._place(path))
        except PathNotFound:
            return False

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        with _as_storage_error(path):
            fd = self._open(check_path(path), os.O_PATH)
            try:
                found = os.fstat(fd)
            finally:
                os.close(fd)
            if not stat.S_ISREG(found.st_mode):
                raise PathNotFound(path=path)
            return Stat(path, found.st_size, found.st_mtime)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        with _as_storage_error(path):
            fd = self._open(check_path(path, root=True), os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
        if not path:
            names = [name for name in names if name != RESERVED]
        elif not names:
            raise PathNotFound(path=path)
        prefix = f"{path}/" if path else ""
        return (prefix + name for name in names if _is_readable(name))

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        try:
            found = os.stat(self._place(check_path(path, root=True)))
        except OSError:
            return None
        if time.time_ns() - found.st_mtime_ns < _CLOCK_TICK_NANOSECONDS:
            return None
        return f"{found.st_ino}-{found.st_mtime_ns}"

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        try:
            children = list(self.list_directory(path))
        except PathNotFound:
            return
        for child in children:
            try:
                yield self.stat(child)
            except PathNotFound:  # a folder, or removed just now
                yield from self.walk(child)

    # ----------------------------------------------------------------------------------------------- writing

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        check_path(path)
        in_thread(self._put_content, path, content, if_match)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        self._place(check_path(path))
        aside, fd = self._open_aside(path)
        size = 0
        try:
            try:
                for block in blocks:
                    size += in_thread(_write_all, fd, block, path)
                in_thread(_sync, fd, path)
            finally:
                os.close(fd)
            in_thread(self._publish, aside, path)
        except BaseException:
            _discard(aside)
            raise
        return size

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        in_thread(self._move, check_path(source), check_path(target))

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        return in_thread(self._link, check_path(source), check_path(target))

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self.stat(path)
        with _as_storage_error(path):
            os.utime(self._place(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        in_thread(self._remove, check_path(path))

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        return in_thread(self._remove_leftovers, time.time() - older_than_seconds)

    # ---------------------------------------------------------------------------------------- in this thread

    def _place(self, path: str) -> str:
        """Return where a valid path lies in the file system."""
        if path == RESERVED or path.startswith(f"{RESERVED}/"):
            raise PathInvalid(path=path)
        return f"{self._root}/{path}" if path else self._root

    def _open(self, path: str, flags: int) -> int:
        """Open what lies under a path, unless a link has led out of the root."""
        # A pipe that somebody left in the tree must not block the worker that opens it.
        fd = os.open(self._place(path), flags | os.O_NONBLOCK)
        real = os.readlink(f"/proc/self/fd/{fd}")
        if real != self._root and not real.startswith(f"{self._root}/"):
            os.close(fd)
            raise StorageError("A symbolic link leads out of the store.", path=path)
        return fd

    def _open_file(self, path: str) -> int:
        fd = self._open(check_path(path), os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise PathNotFound(path=path)
        return fd

    def _blocks(self, path: str, fd: int, offset: int, end: int) -> Iterator[bytes]:
        try:
            while offset < end:
                with _as_storage_error(path):
                    block = os.pread(fd, min(_BLOCK_BYTES, end - offset), offset)
                if not block:
                    raise StorageError("The file became shorter while it was read.", path=path)
                offset += len(block)
                yield block
        finally:
            os.close(fd)

    def _open_aside(self, path: str) -> tuple[str, int]:
        with _as_storage_error(path):
            aside = f"{self._aside}/{secrets.token_hex(16)}"
            return aside, os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def _put_content(self, path: str, content: Bytes, if_match: str | None) -> None:
        self._place(path)
        aside, fd = self._open_aside(path)
        try:
            try:
                _write_all(fd, content, path)
                _sync(fd, path)
            finally:
                os.close(fd)
            with self._lock(path):
                if if_match is not None:
                    self._compare(path, if_match)
                self._rename(aside, path)
        except BaseException:
            _discard(aside)
            raise

    def _publish(self, aside: str, path: str) -> None:
        with self._lock(path):
            self._rename(aside, path)

    def _compare(self, path: str, version: str) -> None:
        try:
            stored = hashlib.sha256(self.get_content(path)).hexdigest()
        except PathNotFound:
            stored = ABSENT
        if stored != version:
            raise PreconditionFailed(path=path)

    def _move(self, source: str, target: str) -> None:
        self.stat(source)
        place = self._place(source)
        with self._lock(target):
            self._rename(place, target)
        folder = os.path.dirname(place)
        with _as_storage_error(source):
            try:
                _sync_folder(folder)
            except FileNotFoundError:  # removed since, with all that was in it
                return
        self._prune(folder)

    def _link(self, source: str, target: str) -> bool:
        self.stat(source)
        self._place(target)
        aside = f"{self._aside}/{secrets.token_hex(16)}"
        try:
            os.link(self._place(source), aside)
        except FileNotFoundError:
            raise PathNotFound(path=source) from None
        except OSError:  # a file system without hard links, or one file with too many of them
            return False
        try:
            with self._lock(target):
                self._rename(aside, target)
        finally:
            # A rename does nothing at all when both names are links to one file already.
            _discard(aside)
        return True

    def _rename(self, place: str, path: str) -> None:
        """Move a file to a path, whatever removers do to its folder meanwhile, and sync all folders concerned."""
        target = self._place(path)
        folder = os.path.dirname(target)
        with _as_storage_error(path):
            for _ in range(_MAX_TRIES):
                try:
                    made = self._make_folder(folder)
                    os.rename(place, target)
                except FileNotFoundError:
                    os.stat(place)  # raises when it is the source that is gone
                    continue
                except (IsADirectoryError, NotADirectoryError, FileExistsError):
                    raise StorageError(
                        "A folder lies where a file should be, or the other way round.", path=path
                    ) from None
                for changed in (folder, *made):
                    _sync_folder_if_there(changed)
                return
        raise StorageError("The folder is removed again and again.", path=path)

    def _make_folder(self, folder: str) -> list[str]:
        """Make a folder and those above it; return the folders that have a new entry because of it."""
        if os.path.isdir(folder):
            if os.path.realpath(folder) != folder and not os.path.realpath(folder).startswith(f"{self._root}/"):
                raise StorageError("A symbolic link leads out of the store.")
            return []
        above = os.path.dirname(folder)
        changed = self._make_folder(above)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        return [*changed, above]

    def _remove(self, path: str) -> None:
        place = self._place(path)
        aside = f"{self._aside}/{secrets.token_hex(16)}"
        with _as_storage_error(path), self._lock(path):
            os.close(self._open(path, os.O_PATH))
            # Away at once and whole, then taken apart where nobody looks.
            os.rename(place, aside)
        empty = os.path.isdir(aside) and not _holds_files(aside)
        _take_apart(aside)
        folder = os.path.dirname(place)
        _sync_folder_if_there(folder)
        self._prune(folder)
        if empty:
            raise PathNotFound(path=path)

    def _prune(self, folder: str) -> None:
        """Remove folders that have become empty, from the inside out."""
        while folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:  # not empty, or removed by another
                return
            folder = os.path.dirname(folder)

    def _remove_leftovers(self, before: float) -> int:
        removed = 0
        with os.scandir(self._aside) as entries:
            for entry in entries:
                try:
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        _take_apart(entry.path)
                        removed += 1
                except FileNotFoundError:
                    continue
        return removed

    @contextmanager
    def _lock(self, path: str) -> Iterator[None]:
        """Hold the lock that single changes of a path take; blocks this thread."""
        name = hashlib.sha256(path.encode()).hexdigest()[:2]
        with _as_storage_error(path):
            fd = os.open(f"{self._locks}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with _as_storage_error(path):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextmanager
def _as_storage_error(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _storage_error(path, error) from None


def _storage_error(path: str, error: OSError) -> StorageError:
    if error.errno in _NOT_THERE:
        return PathNotFound(path=path)
    if error.errno in _FULL:
        return StorageFull(path=path)
    if error.errno == errno.ENAMETOOLONG:
        return PathInvalid(path=path)
    if error.errno in _AWAY:
        return StorageUnavailable(path=path)
    return StorageError(f"The store failed: {error.strerror}.", path=path)


def _read_all(fd: int) -> bytes:
    content = os.read(fd, os.fstat(fd).st_size + 1)
    while block := os.read(fd, _BLOCK_BYTES):  # it is longer than one read gives
        content += block
    return content


def _write_all(fd: int, content: Bytes, path: str) -> int:
    view = memoryview(content)
    written = 0
    with _as_storage_error(path):
        while written < len(view):
            written += os.write(fd, view[written:])
    return written


def _sync(fd: int, path: str) -> None:
    with _as_storage_error(path):
        os.fsync(fd)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder_if_there(folder: str) -> None:
    try:
        _sync_folder(folder)
    except FileNotFoundError:  # pruned by another, so its entries are gone for good
        pass


def _holds_files(folder: str) -> bool:
    """Tell whether there is a file at any depth; folders alone are nothing."""
    with os.scandir(folder) as entries:
        return any(not entry.is_dir(follow_symlinks=False) or _holds_files(entry.path) for entry in entries)


def _is_readable(name: str) -> bool:
    """Tell whether a name that somebody gave to a file can be a part of a path."""
    try:
        check_path(name)
    except PathInvalid:
        return False
    return True


def _discard(place: str) -> None:
    try:
        os.unlink(place)
    except FileNotFoundError:  # it has its place already, only syncing has failed
        pass


def _take_apart(place: str) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place, ignore_errors=True)
    else:
        os.unlink(place)
