"""
Runs durable changes in a native thread and waits until they are on the disk before the caller continues.

Short-lived files bypass this module: they are changed directly and never synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from docker_registry.alone import Brief
from docker_registry.concurrency import run_in_thread, run_later
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file import together
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.journal import Journal
from docker_registry.drivers.file.puts import Puts
from docker_registry.drivers.file.together import Together
from docker_registry.drivers.file.tree import Tree

Result = TypeVar("Result")

#: Delay from a change to the checkpoint that syncs its final location and makes the journal entry obsolete.
_CHECKPOINT_SECONDS: Final = 5.0


class Carrier:
    """Commits changes that must survive a crash of the host."""

    def __init__(self, tree: Tree, disk: Disk, puts: Puts, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._puts = puts
        self._journal = journal
        self._brief = Brief()
        self._is_checkpoint_planned = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit the changes that this greenlet makes in the block as one batch; see :meth:`StorageDriver.batch`."""
        if together.present() is not None:
            yield
            return
        changes = self._begin()
        finish = changes.end  # even after an error: earlier changes are visible, and others may depend on them
        try:
            with together.begun(changes):
                yield
            finish = changes.publish_and_end
        finally:
            with self._tree.errors("", may_miss=False):
                if not changes.is_empty:  # a block that only reads waits for no thread, and its response is cacheable
                    call = self._brief.call if changes.is_brief else run_in_thread
                    call(finish)
                self._checkpoint_later()

    @property
    def is_waiting(self) -> bool:
        """True while the current batch has unpublished contents."""
        changes = together.present()
        return changes is not None and changes.is_waiting

    def add(self, path: str, content: Bytes, if_match: str | None) -> bool:
        """
        Add a small content to the current batch; return False outside a batch.

        Args:
            if_match: the version that the path must have when the batch is published; None for any version.
        """
        changes = together.present()
        if changes is None:
            return False
        changes.add(path, content, if_match)
        if changes.is_full:
            with self._tree.errors(path, may_miss=False):
                run_in_thread(changes.publish)
        return True

    def put(self, path: str, content: Bytes, if_match: str | None) -> None:
        """Put a small content at once, even in a batch."""
        self.carry_out(self._puts.put, path, content, if_match)

    def carry_out(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Run a change, with a :class:`~.together.Touched` as its last argument, and commit it.

        Args:
            is_rename: the change does not wait for the disk, except when its folders are synced. Without a journal it
                may run in this thread as part of a batch.
        """
        around = together.present()
        if is_rename and self._journal is None and around is not None and not around.is_waiting:
            return change(*args, around)
        result = run_in_thread(partial(self._carry_out_and_sync, around, change, args))
        self._checkpoint_later()
        return result

    def _carry_out_and_sync(
        self, around: Together | None, change: Callable[..., Result], args: tuple[Any, ...]
    ) -> Result:
        if around is not None:
            around.publish()  # contents put earlier in the batch must be published first
            return change(*args, around)
        alone = self._begin()
        try:
            result = change(*args, alone)
            alone.sync()
            return result
        finally:
            alone.forget()

    def _begin(self) -> Together:
        return Together(self._tree, self._disk, self._puts.put_all, self._journal)

    def _checkpoint_later(self) -> None:
        if self._journal is None or not self._journal.is_due or self._is_checkpoint_planned:
            return
        self._is_checkpoint_planned = run_later(_CHECKPOINT_SECONDS, partial(self._checkpoint, self._journal))
        if not self._is_checkpoint_planned:
            self._puts.remove_replaced()

    def _checkpoint(self, journal: Journal) -> None:
        self._is_checkpoint_planned = False
        with suppress(OSError):  # writers receive the error of a failing disk themselves
            journal.checkpoint()
        self._puts.remove_replaced()
