"""
Small contents that are put to their paths, each atomically for whoever reads.

A content is written under a name of its own aside and renamed to its place. Where there is a journal it is entered
there first, and then nothing has to be synced; elsewhere it is synced before it is renamed, and its folder after that.

What is compared before it is replaced is compared under the path's lock; other changes take the same lock, so none
slips in between. A folder that is removed at that moment must not come back with the new content: those who enter into
the journal keep such removals away, the others hold the folder open, and it takes the content along.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.aside import Aside, discard, write_whole
from docker_registry.drivers.file.changes import Changes, version_of
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.journal import MAX_BYTES, Journal
from docker_registry.drivers.file.journal_file import FileState, HalfIsFull, Trace
from docker_registry.drivers.file.locks import Locks
from docker_registry.drivers.file.modes import SECRET, mode_of
from docker_registry.drivers.file.renaming import rename_unwritten
from docker_registry.drivers.file.together import Touched
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PreconditionFailed
from docker_registry.threads import close_now


class Puts:
    """Who puts contents; everything blocks the thread."""

    def __init__(self, tree: Tree, aside: Aside, locks: Locks, disk: Disk, changes: Changes, *, last: bool) -> None:
        """
        Args:
            changes: of the same paths.
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
            if_match: replace only this version, or create only; None for whatever is there.

        Raises:
            PreconditionFailed: something else lies there.
        """
        journal = self._journal_for([path], len(content))
        if journal is not None:
            self._enter_and_put(journal, [(path, bytes(content))], if_match)
            return
        # That an empty file is there is told by its folder.
        aside = self._aside.write(content, sync=self._last and bool(content), mode=mode_of(path))
        try:
            if if_match is None:
                self._changes.bring(aside, path, touched)
            else:
                with self._changes.changing(), self._locks.hold(path):
                    self._replace(aside, path, if_match, touched) if if_match else self._create(aside, path, touched)
                    touched.settled(path)
        except BaseException:
            discard(aside)
            raise

    def put_all(self, contents: Sequence[tuple[str, bytes]], touched: Touched) -> None:
        """Publish small files in their order, which must survive a crash of the host."""
        journal = self._journal_for([path for path, _ in contents], sum(len(content) for _, content in contents))
        if journal is not None:
            self._enter_and_put(journal, contents)
            return
        waiting: list[tuple[int, str, str]] = []
        try:
            for path, content in contents:
                aside, fd = self._aside.create(mode_of(path))
                waiting.append((fd, aside, path))
                write_whole(fd, content)
            # That an empty file is there is told by its folder.
            self._disk.sync([fd for (fd, _, _), (_, content) in zip(waiting, contents, strict=True) if content])
            while waiting:
                fd, aside, path = waiting[0]
                self._changes.bring(aside, path, touched)
                close_now(fd)
                del waiting[0]
        finally:
            for fd, aside, _ in waiting:
                close_now(fd)
                discard(aside)

    def remove_replaced(self) -> None:
        """Remove what contents have replaced; those who put them have not waited for that."""
        self._aside.remove_left()

    def _enter_and_put(
        self, journal: Journal, contents: Sequence[tuple[str, bytes]], if_match: str | None = None
    ) -> None:
        """Publish small files by the journal."""
        paths = [path for path, _ in contents]
        waiting: list[tuple[str | None, str]] = []
        after: list[FileState | None] = []
        try:
            for path, content in contents:
                aside, written = self._aside.write_and_stat(content, mode=mode_of(path)) if content else (None, None)
                waiting.append((aside, path))
                after.append(None if written is None else FileState.of(written))
            while True:
                try:
                    with journal.changing(), self._locks.hold(*paths):
                        if if_match is not None:
                            self._check(paths[0], if_match)
                        journal.put(
                            contents, [Trace(self._state(path), put) for path, put in zip(paths, after, strict=True)]
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
        """Move to its path all that waits, which then waits no more, or enter that it is not there."""
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
        """Return which file lies under a path now."""
        try:
            return FileState.of(os.stat(self._tree.place(path)))
        except OSError:
            return None

    def _check(self, path: str, if_match: str) -> None:
        """Refuse what is not the version that is expected, or none."""
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
        """Hold open the folder of what is this version, whoever removes it meanwhile."""
        above, _, name = path.rpartition("/")
        try:
            with self._tree.folder(above) as folder:
                if version != version_of(folder, name):
                    raise PreconditionFailed(path=path)
                yield folder
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PreconditionFailed(path=path) from None

    def _create(self, aside: str, path: str, touched: Touched) -> None:
        """Bring a content to a path where no file is."""
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
        Return the journal, if there is one that takes so many bytes.

        It takes no secrets: all users of a store can read it, as each recovers what another had entered.
        """
        if any(mode_of(path) == SECRET for path in paths):
            return None
        fits = self._journal is not None and size <= MAX_BYTES and self._journal.begin()
        return self._journal if fits else None
