"""
The storage driver ``file``, over a folder of a local or shared file system.

**Writing.** A file is written under a unique name in a staging folder, synced and renamed to its path; then the folder
is synced. After a crash of the process or the host, at any moment, a path holds its old or its new content.
:class:`~.transaction.Publisher` publishes files, :class:`~.mutations.Mutations` moves, links and removes them.

**Syncing** takes most of the time of a small change. Changes that belong together share one sync (:meth:`batch`,
:mod:`~.transaction`), and scratch files are not synced (:attr:`scratch`). On the file systems of a single host a small
content is first written to a journal, and the file itself is not synced (:class:`~.journal.journal.Journal`). When the
store is opened and the file system may have lost changes, as after a crash of the host, the journal is replayed.

A small write is committed by :meth:`FileDriver._commit`, in a native thread. ``Publisher.put`` (:mod:`~.transaction`)
writes the file, locks its path, has the content journaled (``Journal.put`` in :mod:`~.journal.journal`,
``JournalFile.append`` in :mod:`~.journal.file`), and renames the file.

**Locks.** A change of a path holds an flock on one of 64 files in ``.docker-registry/locks``.

:class:`~.tree.Tree` maps paths to the file system and ensures that none leads out of the root.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any, ClassVar, Final, TypeVar

from docker_registry.concurrency import close_now, run_in_thread, run_later
from docker_registry.drivers.base import Bytes, Capabilities
from docker_registry.drivers.file.direct_io import GrowingFile
from docker_registry.drivers.file.journal.journal import Journal
from docker_registry.drivers.file.journal.mount_session import superblock_id
from docker_registry.drivers.file.journal.replay import Replay
from docker_registry.drivers.file.linux import spread_subfolders
from docker_registry.drivers.file.locks import PathLocks
from docker_registry.drivers.file.mutations import Mutations
from docker_registry.drivers.file.reading import FileReader
from docker_registry.drivers.file.staging import Staging, discard, restrict_keys
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.transaction import Content, Publisher, Transaction
from docker_registry.drivers.file.tree import Tree
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.settings import Setting

Result = TypeVar("Result")

#: Up to this size a file is written without a thread, because the kernel only copies the bytes.
_INLINE_BYTES: Final = 256 * 1024

#: Folders below the driver's own one. The names must not change: processes of older versions may use the same store.
_STAGING_FOLDER: Final = "aside"
_SCRATCH_FOLDER: Final = "short-lived"

#: Delay from a change to the checkpoint that syncs its final location and makes the journal entry obsolete.
_CHECKPOINT_SECONDS: Final = 5.0


class FileDriver(FileReader):
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
        super().__init__(Tree(storage_path), keeps_pulls=storage_page_cache != "none")
        self._keeps_pushes = storage_page_cache == "all"
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
        self._is_checkpoint_planned = False
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

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See :class:`StorageDriver`."""
        if self._batch() is not None:
            yield
            return
        transaction = self._begin()
        finish = transaction.end  # even after an error: earlier changes are visible, and others may depend on them
        token = _current.set(transaction)
        try:
            yield
            finish = transaction.publish_and_end
        finally:
            _current.reset(token)
            with self._tree.errors("", may_miss=False):
                if not transaction.is_empty:  # a block that only reads waits for no thread, and stays cacheable
                    call = self.run_brief if transaction.is_brief else run_in_thread
                    call(finish)
                self._checkpoint_later()

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
        batch = self._batch() if may_wait else None
        with self._tree.errors(content.path, may_miss=False):
            if batch is None:
                self._commit(self._publisher.put, [content])
            elif batch.add(content):
                run_in_thread(batch.publish)

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
                    self._commit(self._publisher.publish, staged, path)
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
            self._commit(self._mutations.move, check_path(source), target, is_rename=True)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`."""
        self._tree.locate(check_path(target))
        with self._tree.errors(source):
            return self._commit(self._mutations.link, check_path(source), target, is_rename=True)

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
            self._commit(self._mutations.remove, check_path(path))

    def discard(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        # A content of the current batch may not be published yet: only the removal itself publishes it.
        batch = self._batch()
        if (batch is None or not batch.is_waiting) and self._tree.find(check_path(path)) is None:
            return False
        return super().discard(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            with self._tree.errors(path):
                self._commit(self._mutations.remove_version, check_path(path), version)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        with self._tree.errors(""):
            before = time.time() - older_than_seconds
            return sum(
                run_in_thread(staging.remove_leftovers, before) for staging in (self._staging, self._scratch_staging)
            )

    # ------------------------------------------------------------------------------------------------ commits

    def _commit(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Run a change, with an :class:`~.transaction.Effects` as its last argument, and make it durable.

        It becomes durable at the end of the current batch if there is one. At any time a greenlet has at most one.

        Args:
            is_rename: the change does not wait for the disk, except when its folders are synced. Without a journal it
                may run in this thread as part of a batch.
        """
        batch = self._batch()
        if is_rename and self._journal is None and batch is not None and not batch.is_waiting:
            return change(*args, batch)
        result = run_in_thread(partial(self._run_and_sync, batch, change, args))
        self._checkpoint_later()
        return result

    def _run_and_sync(self, batch: Transaction | None, change: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        if batch is not None:
            batch.publish()  # contents put earlier in the batch must be published first
            return change(*args, batch)
        transaction = self._begin()
        try:
            result = change(*args, transaction)
            transaction.sync()
            return result
        finally:
            transaction.discard()

    def _begin(self) -> Transaction:
        return Transaction(self._tree, self._disk, self._publisher, self._journal)

    def _batch(self) -> Transaction | None:
        """Return the transaction of this greenlet's batch in this store; None outside a batch."""
        transaction = _current.get()
        return transaction if transaction is not None and transaction.tree is self._tree else None

    def _checkpoint_later(self) -> None:
        if self._journal is None or not self._journal.is_due or self._is_checkpoint_planned:
            return
        self._is_checkpoint_planned = run_later(_CHECKPOINT_SECONDS, partial(self._checkpoint, self._journal))
        if not self._is_checkpoint_planned:
            self._staging.remove_deferred()

    def _checkpoint(self, journal: Journal) -> None:
        self._is_checkpoint_planned = False
        with suppress(OSError):  # writers receive the error of a failing disk themselves
            journal.checkpoint()
        self._staging.remove_deferred()


class _ScratchDriver(FileDriver):
    """
    The files of a store that need not survive a crash of the host; see :attr:`StorageDriver.scratch`.

    They are changed directly and never synced: the kernel writes them to the disk within seconds, unless the host
    crashes before.
    """

    def __init__(self, tree: Tree, disk: Disk, staging: Staging, *, keeps_pushes: bool, keeps_pulls: bool) -> None:
        """
        Args:
            tree: the tree of the durable driver.
            disk: its file system.
            staging: where scratch files are written.
            keeps_pushes: whether large pushed files stay in the page cache.
            keeps_pulls: whether large pulled files do.
        """
        FileReader.__init__(self, tree, keeps_pulls=keeps_pulls)
        self._disk = disk
        self._keeps_pushes = keeps_pushes
        self._staging = self._scratch_staging = staging
        # Use separate locks: a holder of the other locks may be waiting for the disk.
        locks = PathLocks(f"{self._tree.reserved}/locks/{_SCRATCH_FOLDER}")
        self._publisher, self._mutations = self._writers(locks, None, durable=False)

    @property
    def scratch(self) -> FileDriver:
        """This driver itself."""
        return self

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Do nothing: there is no wait for the disk to share."""
        yield

    def _put(self, content: Content, *, may_wait: bool) -> None:  # noqa: ARG002 - the signature of FileDriver
        self._tree.locate(content.path)
        put = partial(self._publisher.put, [content], _NO_EFFECTS)
        with self._tree.errors(content.path, may_miss=False):
            put() if len(content.content) <= _INLINE_BYTES else run_in_thread(put)

    def _batch(self) -> None:
        return None

    def _commit(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:  # noqa: ARG002
        return change(*args, _NO_EFFECTS)


class _NoEffects:
    """Ignores the effects of changes; see :class:`~.transaction.Effects`."""

    def folder_changed(self, folder: int) -> None:
        """Do nothing."""

    def path_changed(self, path: str) -> None:
        """Do nothing."""


_NO_EFFECTS: Final = _NoEffects()

_current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)
