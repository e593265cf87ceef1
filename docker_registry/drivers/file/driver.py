"""
The storage driver ``file``, over a folder of a local or shared file system.

**Writing.** A file is written under a unique name in a staging folder and renamed to its path, so that a path holds its
old or its new content at any moment, also after a crash of the process or the host. What makes it durable depends:

* A small content goes through the journal: :mod:`~.small_writes` describes the steps.
* Other changes are synced. :class:`~.mutations.Mutations` publishes, moves, links and removes files, and their
  :class:`~.mutations.Transaction` waits for the disk, once for each batch.
* Scratch files are not synced (:attr:`FileDriver.scratch`).

When the store is opened and the file system may have lost changes, as after a crash of the host, the journal is
replayed (:mod:`~.journal.recovery`).

**Reading** is in :mod:`~.tree`, which finds paths in the file system; :class:`~.root.Root` ensures that none leads out
of the store. What the driver itself keeps is in :mod:`~.reserved_folder`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any, ClassVar, Final, TypeVar

from docker_registry.concurrency import close_now, run_in_thread
from docker_registry.drivers.base import Bytes, Capabilities
from docker_registry.drivers.file.journal.mount_session import superblock_id
from docker_registry.drivers.file.journal.recovery import open_journal
from docker_registry.drivers.file.journal.replay import Replay
from docker_registry.drivers.file.large_files import GrowingFile
from docker_registry.drivers.file.leftovers import remove_leftovers, restrict_keys
from docker_registry.drivers.file.linux import spread_subfolders
from docker_registry.drivers.file.mutations import Content, Effects
from docker_registry.drivers.file.reserved_folder import (
    JOURNALS,
    LOCKS,
    SCRATCH,
    STAGING,
    PathLocks,
    Staging,
    discard,
)
from docker_registry.drivers.file.small_writes import Batch, SmallWriter
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.tree import Tree
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.settings import Setting

Result = TypeVar("Result")

#: Up to this size a file is written without a thread, because the kernel only copies the bytes.
_INLINE_BYTES: Final = 256 * 1024


class FileDriver(SmallWriter):
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
        tree = Tree(storage_path)
        staging, scratch_staging = (Staging(f"{tree.reserved}/{name}") for name in (STAGING, SCRATCH))
        locks, journals = f"{tree.reserved}/{LOCKS}", f"{tree.reserved}/{JOURNALS}"
        _make_folders(tree, (staging, scratch_staging), (locks, f"{locks}/{SCRATCH}", journals))
        restrict_keys(tree.root)
        if not os.path.isdir("/proc/self/fd"):
            raise StorageError("The driver `file` needs Linux with /proc mounted, to resolve symbolic links.")
        disk, journal = Disk(tree.root), None
        if disk.syncs_whole:
            with tree.errors("", may_miss=False):
                journal = open_journal(journals, disk, superblock_id(journals), Replay(tree, staging, disk))
        keeps_pulls = storage_page_cache != "none"
        path_locks = PathLocks(locks, None if journal is None else journal.lock)
        super().__init__(tree, staging, path_locks, disk, journal, durable=True, keeps_pulls=keeps_pulls)
        self._keeps_pushes = storage_page_cache == "all"
        self._scratch_staging = scratch_staging

    @cached_property
    def scratch(self) -> FileDriver:
        """See :class:`StorageDriver`."""
        return _ScratchDriver(
            self._tree,
            self._scratch_staging,
            self._disk,
            keeps_pushes=self._keeps_pushes,
            keeps_pulls=self._keeps_pulls,
        )

    # ----------------------------------------------------------------------------------------- large files

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
                    self._change(self._mutations.publish, staged, path)
            finally:
                close_now(fd)
        except BaseException:
            run_in_thread(discard, staged)
            raise
        return growing.size

    # ------------------------------------------------------------------------------------------- mutations

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(target))
        with self._tree.errors(source):
            self._change(self._mutations.move, check_path(source), target, is_rename=True)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(target))
        with self._tree.errors(source):
            return self._change(self._mutations.link, check_path(source), target, is_rename=True)

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
        self._tree.locate(check_path(path))
        try:
            self._change(self._mutations.remove, path)
        except OSError as error:
            self._tree.record_absence(path, error)
            raise PathNotFound(path=path) from None

    def discard(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        # A content of the current batch may not be published yet: only the removal itself publishes it.
        batch = self._batch()
        if (batch is None or not batch.contents) and self._tree.find(check_path(path)) is None:
            return False
        return super().discard(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            with self._tree.errors(path):
                self._change(self._mutations.remove_version, check_path(path), version)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        with self._tree.errors(""):
            before = time.time() - older_than_seconds
            return sum(
                run_in_thread(remove_leftovers, staging, before) for staging in (self._staging, self._scratch_staging)
            )

    def _change(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Make a change that bypasses the journal, and make it durable, at the end of the current batch if there is one.

        Args:
            change: called with *args* and the transaction, in a native thread.
            is_rename: the change does not wait for the disk, except when its folders are synced. Without a journal it
                may run in this thread as part of a batch.
        """
        batch = self._batch()
        if is_rename and self._journal is None and batch is not None and not batch.contents:
            return self._change_now(batch, change, args)
        result = run_in_thread(partial(self._change_now, batch, change, args))
        self._checkpoint_later()
        return result

    def _change_now(self, batch: Batch | None, change: Callable[..., Result], args: Sequence[Any]) -> Result:
        if batch is not None:
            self._publish_waiting(batch)  # the order of the changes is kept
        with self._transaction(batch) as transaction:
            return change(*args, transaction)


class _ScratchDriver(FileDriver):
    """
    The files of a store that need not survive a crash of the host; see :attr:`StorageDriver.scratch`.

    They are changed directly and never synced: the kernel writes them to the disk within seconds, unless the host
    crashes before.
    """

    def __init__(self, tree: Tree, staging: Staging, disk: Disk, *, keeps_pushes: bool, keeps_pulls: bool) -> None:
        """
        Args:
            tree: the tree of the durable driver.
            staging: where scratch files are written.
            disk: the file system.
            keeps_pushes: whether large pushed files stay in the page cache.
            keeps_pulls: whether large pulled files do.
        """
        # Use separate locks: a holder of the other locks may be waiting for the disk.
        locks = PathLocks(f"{tree.reserved}/{LOCKS}/{SCRATCH}")
        SmallWriter.__init__(self, tree, staging, locks, disk, None, durable=False, keeps_pulls=keeps_pulls)
        self._keeps_pushes = keeps_pushes
        self._scratch_staging = staging

    @property
    def scratch(self) -> FileDriver:
        """This driver itself."""
        return self

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Do nothing: there is no wait for the disk to share."""
        yield

    def _put(self, content: Content, *, may_wait: bool) -> None:  # noqa: ARG002 - the signature of SmallWriter
        self._tree.locate(content.path)
        try:
            if len(content.content) <= _INLINE_BYTES:
                self._mutations.put([content], Effects())
            else:
                run_in_thread(self._mutations.put, [content], Effects())
        except OSError as error:
            raise self._tree.failure(content.path, error) from None

    def discard_file(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with suppress(PathNotFound):  # removing it costs as much as looking for it
            self.remove(path)

    def _batch(self) -> None:
        return None

    def _change(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:  # noqa: ARG002
        return change(*args, Effects())


def _make_folders(tree: Tree, stagings: Sequence[Staging], others: Sequence[str]) -> None:
    """
    Create the folders of a store that do not exist.

    Raises:
        StorageError: one of them cannot be created or written to.
    """
    try:
        for top in (tree.root, tree.reserved, *(staging.folder for staging in stagings)):
            if not os.path.isdir(top):  # do not change the flags of a folder that someone else created
                os.makedirs(top, exist_ok=True)
                spread_subfolders(top)
        for staging in stagings:
            staging.prepare()
        subfolders = (subfolder for staging in stagings for subfolder in staging.subfolders)
        for folder in (tree.root, *subfolders, *others):
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
                reason = errno.EROFS if is_read_only else errno.EACCES
                raise OSError(reason, os.strerror(reason), folder)
    except OSError as error:
        problem = f"storage_path: {error.filename or tree.root} cannot be used: {error.strerror}"
        if error.errno == errno.EACCES:
            problem += f"; the store must belong to the user of the server, here the user {os.geteuid()}"
        raise StorageError(problem) from None
