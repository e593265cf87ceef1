"""
How changes are carried out: in a native thread, and so that they are on the disk before anybody hears of them.

Who changes files for good has a carrier. What lives shortly is changed at once, by whoever wants it, and told nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from docker_registry.alone import Brief
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file import together
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.journal import Journal
from docker_registry.drivers.file.puts import Puts
from docker_registry.drivers.file.together import Together
from docker_registry.drivers.file.tree import Tree
from docker_registry.threads import in_thread, run_later

Result = TypeVar("Result")

#: So long after a change its place in the file system is synced as well, and the journal not needed for it.
_CHECKPOINT_SECONDS: Final = 5.0


class Carrier:
    """Carries out what must survive a crash of the host."""

    def __init__(self, tree: Tree, disk: Disk, puts: Puts, journal: Journal | None) -> None:
        self._tree = tree
        self._disk = disk
        self._puts = puts
        self._journal = journal
        self._brief = Brief()
        self._is_checkpoint_planned = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Carry out what this greenlet changes meanwhile in one; see :meth:`StorageDriver.together`."""
        if together.present() is not None:
            yield
            return
        changes = self._begin()
        finish = changes.end  # also what came before an error is seen already, and others may build on it
        try:
            with together.begun(changes):
                yield
            finish = changes.publish_and_end
        finally:
            call = self._brief.call if changes.is_brief else in_thread
            with self._tree.errors("", may_miss=False):
                call(finish)
                self._checkpoint_later()

    def put(self, path: str, content: Bytes, if_match: str | None) -> None:
        """Put a small content, now or together with what else is changed."""
        changes = together.present() if if_match is None else None
        if changes is None:
            self.carry_out(self._puts.put, path, content, if_match)
            return
        changes.add(path, content)
        if changes.is_full:
            in_thread(changes.publish)

    def carry_out(self, change: Callable[..., Result], *args: Any, is_rename: bool = False) -> Result:
        """
        Call what changes something, with a :class:`~.together.Touched` as its last argument.

        Args:
            is_rename: whether it takes no longer than what only looks, until its folders are synced.
        """
        around = together.present()
        if is_rename and self._journal is None and around is not None and not around.is_waiting:
            return change(*args, around)
        result = in_thread(partial(self._carry_out_and_sync, around, change, args))
        self._checkpoint_later()
        return result

    def _carry_out_and_sync(
        self, around: Together | None, change: Callable[..., Result], args: tuple[Any, ...]
    ) -> Result:
        if around is not None:
            around.publish()  # what was put before comes first
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
        with suppress(OSError):  # of a disk that fails those who write hear
            journal.checkpoint()
        self._puts.remove_replaced()
