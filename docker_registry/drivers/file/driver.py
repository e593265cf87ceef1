"""
The storage driver ``file``, over a folder of a local or shared file system.

**Writing.** A file is written under a unique name in a staging folder, synced and renamed to its path; then the folder
is synced. After a crash of the process or the host, at any moment, a path holds its old or its new content.
:class:`~.publish.Publisher` publishes files, :class:`~.mutations.Mutations` moves, links and removes them.

**Syncing** takes most of the time of a small change. Changes that belong together share one sync (:meth:`batch`,
:mod:`~.transaction`), and scratch files are not synced (:attr:`scratch`). On the file systems of a single host a small
content is first written to a journal, and the file itself is not synced (:class:`~.journal.journal.Journal`). When the
store is opened and the file system may have lost changes, as after a crash of the host, the journal is replayed.

A small write runs through five modules: :meth:`FileDriver.put_content`, ``Committer.put`` (:mod:`~.transaction`),
``Publisher.put`` (:mod:`~.publish`), ``Journal.put`` (:mod:`~.journal.journal`) and ``JournalFile.append``
(:mod:`~.journal.file`). The others do what their names say: :class:`~.staging.Staging`, :class:`~.locks.PathLocks`.

**Locks.** A change of a path holds an flock on one of 64 files in ``.docker-registry/locks``.

:class:`~.tree.Tree` maps paths to the file system and ensures that none leads out of the root.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import BinaryIO, ClassVar, Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now, run_in_thread
from docker_registry.drivers.base import NO_FOLDER, Bytes, Capabilities, Stat, StorageDriver, Versioned, check_path
from docker_registry.drivers.file.direct_io import KEPT_BYTES, GrowingFile
from docker_registry.drivers.file.folders import translated
from docker_registry.drivers.file.journal.journal import Journal
from docker_registry.drivers.file.journal.mount_session import superblock_id
from docker_registry.drivers.file.journal.replay import Replay
from docker_registry.drivers.file.linux import spread_subfolders
from docker_registry.drivers.file.locks import PathLocks
from docker_registry.drivers.file.mutations import Mutations
from docker_registry.drivers.file.publish import Content, Publisher
from docker_registry.drivers.file.reading import EvictedFile, read_blocks, read_whole
from docker_registry.drivers.file.staging import Staging, discard, restrict_keys
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.transaction import Committer, ImmediateCommitter
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.settings import Setting

#: A walk lists so many folders without finding a file before it leaves the event loop to other greenlets.
_FEW_FOLDERS: Final = 32

#: Up to this size a file is written without a thread, because the kernel only copies the bytes.
_INLINE_BYTES: Final = 256 * 1024

#: Folders below the driver's own one. The names must not change: processes of older versions may use the same store.
_STAGING_FOLDER: Final = "aside"
_SCRATCH_FOLDER: Final = "short-lived"


class FileDriver(StorageDriver):
    """Stores files under paths in a folder."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "./registry-data", help="Root folder of the store; `~` is expanded."),
        Setting(
            "storage_page_cache",
            str,
            "pulls",
            help="Large files that stay in the page cache after use: pulled ones (`pulls`), pulled and pushed ones"
            " (`all`), or `none`.",
            choices=("pulls", "all", "none"),
        ),
    )
    capabilities = Capabilities(if_match=True, remove_if_match=True, folder_versions=True, tracks_dependencies=True)

    def __init__(self, storage_path: str, storage_page_cache: str = "pulls") -> None:
        """
        Args:
            storage_path: the root folder; created if it does not exist.
            storage_page_cache: ``pulls``, ``all`` or ``none``.

        Raises:
            StorageError: the folder cannot be created or written to, or is not a folder.
        """
        self._tree = Tree(storage_path)
        self._keeps_pushes = storage_page_cache == "all"
        self._keeps_pulls = storage_page_cache != "none"
        self._staging = Staging(f"{self._tree.reserved}/{_STAGING_FOLDER}")
        self._scratch_staging = Staging(f"{self._tree.reserved}/{_SCRATCH_FOLDER}")
        locks, journals = f"{self._tree.reserved}/locks", f"{self._tree.reserved}/journals"
        self._make_folders(locks, f"{locks}/{_SCRATCH_FOLDER}", journals)
        restrict_keys(self._tree.root)
        if not os.path.isdir("/proc/self/fd"):
            raise StorageError("The driver `file` needs Linux with /proc mounted, to resolve symbolic links.")
        self._disk = Disk(self._tree.root)
        self._journal = Journal(journals, self._disk, superblock_id(journals)) if self._disk.syncs_whole else None
        self._publisher, self._mutations = self._writers(PathLocks(locks), self._journal, durable=True)
        self._committer: Committer | ImmediateCommitter = Committer(
            self._tree, self._disk, self._publisher, self._journal
        )
        if self._journal is not None:
            with self._tree.errors("", may_miss=False):
                self._journal.recover(Replay(self._tree, self._staging, self._disk))

    def _make_folders(self, *folders: str) -> None:
        try:
            for top in (self._tree.root, self._tree.reserved, self._staging.folder, self._scratch_staging.folder):
                if not os.path.isdir(top):  # do not change the flags of a folder that someone else created
                    os.makedirs(top, exist_ok=True)
                    spread_subfolders(top)
            self._staging.prepare()
            self._scratch_staging.prepare()
            for folder in (self._tree.root, *self._staging.subfolders, *self._scratch_staging.subfolders, *folders):
                os.makedirs(folder, exist_ok=True)
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        except OSError as error:
            raise StorageError(f"{error.filename or self._tree.root} cannot be used: {error.strerror}") from None

    def _writers(self, locks: PathLocks, journal: Journal | None, *, durable: bool) -> tuple[Publisher, Mutations]:
        """Return what changes files, for changes that must survive a crash of the host or need not."""
        publisher = Publisher(self._tree, self._staging, locks, self._disk, journal, durable=durable)
        return publisher, Mutations(self._tree, self._staging, locks, journal, publisher, durable=durable)

    @cached_property
    def scratch(self) -> FileDriver:
        """See :class:`StorageDriver`."""
        return _ScratchDriver(
            self._tree,
            self._disk,
            self._scratch_staging,
            keeps_pushes=self._keeps_pushes,
            keeps_pulls=self._keeps_pulls,
        )

    def batch(self) -> AbstractContextManager[None]:
        """See :class:`StorageDriver`."""
        return self._committer.batch(self.run_brief)

    # ----------------------------------------------------------------------------------------------- reading

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
        blocks = read_blocks(self._tree, path, offset, end, fd, stays=self._stays(end))
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

    # ----------------------------------------------------------------------------------------------- writing

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        may_wait = if_match is None  # the caller learns at once whether the path had the expected version
        self._put(Content(check_path(path), bytes(content), if_match), may_wait=may_wait)

    def replace_content(self, path: str, content: Bytes, version: str) -> None:
        """See :class:`StorageDriver`."""
        self._put(Content(check_path(path), bytes(content), version), may_wait=True)

    def _put(self, content: Content, *, may_wait: bool) -> None:
        """Put a small content, at the end of the current batch if there is one and the content may wait for it."""
        self._tree.locate(content.path)
        if not (may_wait and self._committer.add(content)):
            with self._tree.errors(content.path, may_miss=False):
                self._committer.put(content)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(path))
        with self._tree.errors(path, may_miss=False):
            staged, fd = self._staging.create()
        try:
            try:
                growing = GrowingFile(fd, keep=self._keeps_pushes)
                # Errors of the source propagate unchanged, including an OSError.
                for block in blocks:
                    is_small = growing.size + len(block) <= _INLINE_BYTES
                    with self._tree.errors(path, may_miss=False):
                        growing.append(block) if is_small else run_in_thread(growing.append, block)
                with self._tree.errors(path, may_miss=False):
                    run_in_thread(os.fsync, fd)
                    self._committer.commit(self._publisher.publish, staged, path)
            finally:
                close_now(fd)
        except BaseException:
            run_in_thread(discard, staged)
            raise
        return growing.size

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(target))
        with self._tree.errors(source):
            self._committer.commit(self._mutations.move, check_path(source), target, is_rename=True)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(target))
        with self._tree.errors(source):
            return self._committer.commit(self._mutations.link, check_path(source), target, is_rename=True)

    def is_shared(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        found = self._find_file(path)
        return found is not None and found.st_nlink > 1

    def repair(self, path: str, blocks: Iterable[Bytes]) -> None:
        """
        See :class:`StorageDriver`. A file with several hard links is overwritten, so that all of them change.
        """
        try:
            fd = self._tree.open(check_path(path), os.O_WRONLY) if self.is_shared(path) else None
        except OSError:  # removed just now, or not writable for this user although its folder is
            fd = None
        if fd is None:
            self.stream_write(path, blocks)
            return
        try:
            growing = GrowingFile(fd, keep=self._keeps_pushes)
            for block in blocks:
                with self._tree.errors(path, may_miss=False):
                    run_in_thread(growing.append, block)
            with self._tree.errors(path, may_miss=False):
                os.ftruncate(fd, growing.size)
                run_in_thread(os.fsync, fd)
        finally:
            close_now(fd)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self.stat(path)
        with self._tree.errors(path):
            os.utime(self._tree.locate(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._tree.errors(path):
            self._committer.commit(self._mutations.remove, check_path(path))

    def discard(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        # A content of the current batch may not be published yet: only the removal itself publishes it.
        if not self._committer.is_waiting and self._tree.find(check_path(path)) is None:
            return False
        return super().discard(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            with self._tree.errors(path):
                self._committer.commit(self._mutations.remove_version, check_path(path), version)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        with self._tree.errors(""):
            before = time.time() - older_than_seconds
            return sum(
                run_in_thread(staging.remove_leftovers, before) for staging in (self._staging, self._scratch_staging)
            )

    # ---------------------------------------------------------------------------------------- in this thread

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


class _ScratchDriver(FileDriver):
    """The files of a store that need not survive a crash of the host; see :attr:`StorageDriver.scratch`."""

    def __init__(self, tree: Tree, disk: Disk, staging: Staging, *, keeps_pushes: bool, keeps_pulls: bool) -> None:
        """
        Args:
            tree: the tree of the durable driver.
            disk: its file system.
            staging: where scratch files are written.
            keeps_pushes: whether large pushed files stay in the page cache.
            keeps_pulls: whether large pulled files do.
        """
        self._tree = tree
        self._disk = disk
        self._keeps_pushes = keeps_pushes
        self._keeps_pulls = keeps_pulls
        self._staging = self._scratch_staging = staging
        # Use separate locks: a holder of the other locks may be waiting for the disk.
        locks = PathLocks(f"{self._tree.reserved}/locks/{_SCRATCH_FOLDER}")
        self._publisher, self._mutations = self._writers(locks, None, durable=False)
        self._committer = ImmediateCommitter(self._publisher)

    @property
    def scratch(self) -> FileDriver:
        """This driver itself."""
        return self
