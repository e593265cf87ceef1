"""
Puts of small contents, each atomic for readers.

A content is written to the staging folder and renamed to its path. With a journal it is written to the journal first,
and neither the file nor its folder is synced. Without one the file is synced before the rename, and the folder after
it.

A conditional put compares versions while it holds the path's lock. All other changes hold the same lock, so none can
occur between comparison and rename. A folder that is removed at that moment must not reappear with the new content.
With a journal, :meth:`~.journal.Journal.changing` excludes such removals; without one the folder is held open, so the
content is removed with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.aside import Aside, discard, write_whole
from docker_registry.drivers.file.changes import Changes, version_of
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.folders import SECRET, mode_of
from docker_registry.drivers.file.journal import MAX_BYTES, Journal
from docker_registry.drivers.file.journal_file import FileState, HalfIsFull, Trace
from docker_registry.drivers.file.linux import rename_unwritten
from docker_registry.drivers.file.locks import PathLocks
from docker_registry.drivers.file.together import Content, Touched
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PreconditionFailed


class Puts:
    """Publishes small contents; all methods block the thread."""

    def __init__(self, tree: Tree, aside: Aside, locks: PathLocks, disk: Disk, changes: Changes, *, last: bool) -> None:
        """
        Args:
            changes: the other changes of the same tree.
            last: whether contents must survive a crash of the host.
        """
        self._tree = tree
        self._aside = aside
        self._locks = locks
        self._disk = disk
        self._changes = changes
        self._journal = changes.journal
        self._last = last

    def put(self, path: str, content: Bytes, if_match: str | None, touched: Touched) -> None:
        """
        Publish a small file.

        Args:
            if_match: replace only this version; ``ABSENT`` only creates the file; None replaces any version.

        Raises:
            PreconditionFailed: the path has another version.
        """
        journal = self._journal_for([path], len(content))
        if journal is not None:
            self._enter_and_put(journal, [Content(path, bytes(content), if_match)])
            return
        # Only the folder needs a sync to record an empty file.
        aside = self._aside.write(content, sync=self._last and bool(content), mode=mode_of(path))
        try:
            self._publish(aside, path, if_match, touched)
        except BaseException:
            discard(aside)
            raise

    def _publish(self, aside: str, path: str, if_match: str | None, touched: Touched) -> None:
        """Give a staged file its path, if that has the expected version."""
        if if_match is None:
            self._changes.bring(aside, path, touched)
            return
        with self._changes.changing(), self._locks.hold(path):
            self._replace(aside, path, if_match, touched) if if_match else self._create(aside, path, touched)
            touched.settled(path)

    def put_all(self, contents: Sequence[Content], touched: Touched) -> None:
        """
        Publish small files durably, in their order.

        Raises:
            PreconditionFailed: a path has another version than expected. With a journal nothing was published, without
                one the contents before it were.
        """
        journal = self._journal_for([each.path for each in contents], sum(len(each.content) for each in contents))
        if journal is not None:
            self._enter_and_put(journal, contents)
            return
        waiting: list[tuple[int, str, Content]] = []
        try:
            for each in contents:
                aside, fd = self._aside.create(mode_of(each.path))
                waiting.append((fd, aside, each))
                write_whole(fd, each.content)
            # Only the folder needs a sync to record an empty file.
            self._disk.sync([fd for fd, _, each in waiting if each.content])
            while waiting:
                fd, aside, each = waiting[0]
                self._publish(aside, each.path, each.if_match, touched)
                close_now(fd)
                del waiting[0]
        finally:
            for fd, aside, _ in waiting:
                close_now(fd)
                discard(aside)

    def remove_replaced(self) -> None:
        """Remove replaced files, which a put leaves in the staging folder to return sooner."""
        self._aside.remove_left()

    def _enter_and_put(self, journal: Journal, contents: Sequence[Content]) -> None:
        """Publish small files through the journal, unless one of their paths has another version than expected."""
        paths = [each.path for each in contents]
        entries = [(each.path, each.content) for each in contents]
        waiting: list[tuple[str | None, str]] = []
        after: list[FileState | None] = []
        try:
            for path, content in entries:
                aside, written = self._aside.write_and_stat(content, mode=mode_of(path)) if content else (None, None)
                waiting.append((aside, path))
                after.append(None if written is None else FileState.of(written))
            while True:
                try:
                    with journal.changing(), self._locks.hold(*paths):
                        for each in contents:
                            if each.if_match is not None:
                                self._check(each.path, each.if_match)
                        journal.put(
                            entries, [Trace(self._state(path), put) for path, put in zip(paths, after, strict=True)]
                        )
                        self._bring_entered(journal, waiting, paths)
                    return
                except HalfIsFull as full:
                    needed = full.size
                journal.turn(needed)
        finally:
            for aside, _ in waiting:
                if aside is not None:
                    discard(aside)

    def _bring_entered(self, journal: Journal, waiting: list[tuple[str | None, str]], paths: Sequence[str]) -> None:
        """
        Publish the staged files in *waiting* and remove each from the list; on an error, revoke their journal entries.
        """
        try:
            while waiting:
                aside, path = waiting[0]
                if aside is None and not self._tree.make_empty(path):
                    aside = self._aside.write(b"")
                    waiting[0] = aside, path
                if aside is not None and self._tree.bring(aside, path, None):
                    self._aside.leave(aside)
                del waiting[0]
        except BaseException:
            journal.take_back(paths)
            raise

    def _state(self, path: str) -> FileState | None:
        """Return the current state of the file under a path."""
        try:
            return FileState.of(os.stat(self._tree.place(path)))
        except OSError:
            return None

    def _check(self, path: str, if_match: str) -> None:
        """Raise PreconditionFailed if the path does not have the expected version, or exists although it must not."""
        if not if_match:
            self._check_absent(path)
            return
        with self._matching(path, if_match):
            pass

    def _check_absent(self, path: str) -> None:
        found = self._tree.find(path)
        if found is not None and stat.S_ISREG(found.st_mode):
            raise PreconditionFailed(path=path)

    @contextmanager
    def _matching(self, path: str, version: str) -> Iterator[int]:
        """Hold the folder of a file with this version open, even if it is removed meanwhile."""
        above, _, name = path.rpartition("/")
        try:
            with self._tree.folder(above) as folder:
                if version != version_of(folder, name):
                    raise PreconditionFailed(path=path)
                yield folder
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PreconditionFailed(path=path) from None

    def _create(self, aside: str, path: str, touched: Touched) -> None:
        """Publish a staged file at a path that must not be a file."""
        self._check_absent(path)
        self._changes.place(aside, path, touched)

    def _replace(self, aside: str, path: str, version: str, touched: Touched) -> None:
        with self._matching(path, version) as folder:
            name = path.rpartition("/")[2]
            if self._last:
                os.rename(aside, name, dst_dir_fd=folder)
            elif rename_unwritten(aside, name, folder):
                discard(aside)
            touched.changed(folder)

    def _journal_for(self, paths: Iterable[str], size: int) -> Journal | None:
        """
        Return the journal if there is one and it accepts *size* bytes.

        Secrets are never written to a journal: every user of a store can read it, because each recovers the journals of
        all.
        """
        if any(mode_of(path) == SECRET for path in paths):
            return None
        fits = self._journal is not None and size <= MAX_BYTES and self._journal.begin()
        return self._journal if fits else None
