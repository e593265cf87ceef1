"""
Replay of a journal: restores what a file system may have lost, and nothing else.

For each path the last entry counts. Its content is restored only if the path is in a state that the journal knows to be
older: the file that existed when an entry was made, or the file that an entry put there, whose content may not have
reached the disk. A file is identified by its inode and modification time, so clocks need not be correct or precise. A
file that was touched later is identified by its inode alone, if it holds what the journal put there or what a crash
left of that. Any other file was written after the journal, by another server or from a backup, and stays.

A missing file may have been lost, or removed later by another program. It was removed if the journal never saw the path
empty, or if the folder was changed well after the journal was last written.

Replay is idempotent, even after an interruption: contents are on the disk before they get their names.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from docker_registry import dependencies
from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal.entries import Entry, FileState
from docker_registry.drivers.file.journal.journal import MAX_BYTES
from docker_registry.drivers.file.reserved_folder import Staging, discard, mode_of
from docker_registry.drivers.file.root import NOT_THERE
from docker_registry.drivers.file.sync import Disk
from docker_registry.drivers.file.tree import Tree, read_whole
from docker_registry.drivers.paths import folders_above
from docker_registry.errors import PathNotFound, StorageError

#: Period after its last entry in which a session may still have been putting entered contents.
_BUSY_NANOSECONDS: Final = 10 * 10**9

#: A crash leaves each sector of the disk as it was written, or as zeros if it was not.
_SECTOR_BYTES: Final = 512

logger = logging.getLogger(__name__)


@dataclass
class _Change:
    """
    The journal's knowledge of one path.

    Attributes:
        content: content of the last entry.
        entered: when that entry was written, in nanoseconds since the epoch.
        known: states of the path that are older than the content, or have it.
        written: contents that the entries put there, by inode of the file.
        may_be_absent: whether the missing file is one of these states.
        is_traced: whether the entries contain states; those of older versions do not.
    """

    content: bytes
    entered: int
    known: set[FileState] = field(default_factory=set)
    written: dict[int, bytes] = field(default_factory=dict)
    may_be_absent: bool = False
    is_traced: bool = True


class _Found(Enum):
    """The state of a path compared with its change."""

    OLDER = auto()
    SAME = auto()
    NEWER = auto()


class Replay:
    """Replays the entries of a session; blocks the thread. Nothing else may change the tree meanwhile."""

    def __init__(self, tree: Tree, staging: Staging, disk: Disk) -> None:
        self._tree = tree
        self._staging = staging
        self._disk = disk

    def __call__(self, entries: Sequence[Entry], last_active: int) -> None:
        """
        Restore contents that may have been lost.

        Args:
            entries: ordered by moment.
            last_active: when the session is last known to have been active, in nanoseconds since the epoch.
        """
        busy_until = last_active + _BUSY_NANOSECONDS
        older: list[tuple[str, bytes]] = []
        newer: list[str] = []
        for path, change in _changes(entries):
            found = self._compare(path, change, busy_until)
            if found is _Found.OLDER:
                older.append((path, change.content))
            elif found is _Found.NEWER:
                newer.append(path)
        if older:
            self._put(older)
            logger.warning("The journal restored %d files that were not on the disk.", len(older))
        if newer:
            logger.warning("The journal left %d files that were changed after it: %s", len(newer), _some(newer))

    def _compare(self, path: str, change: _Change, busy_until: int) -> _Found:
        if self._is_blocked(path, busy_until):
            return _Found.NEWER
        try:
            fd, size = self._tree.open_file(path)
        except (OSError, PathNotFound):
            return self._compare_absent(path, change, busy_until)
        except StorageError:  # a symbolic link leads out of the store
            return _Found.NEWER
        try:
            found = os.fstat(fd)
            content = read_whole(fd, size) if size <= MAX_BYTES else None
        finally:
            close_now(fd)
        if content == change.content:
            return _Found.SAME
        written = change.written.get(found.st_ino) if change.is_traced else change.content
        is_older = _is_older(found, change) or _is_left_of(content, written)
        return _Found.OLDER if is_older else _Found.NEWER

    def _compare_absent(self, path: str, change: _Change, busy_until: int) -> _Found:
        is_lost = change.may_be_absent and self._folder_changed(path) <= busy_until
        return _Found.OLDER if is_lost or not change.is_traced else _Found.NEWER

    def _folder_changed(self, path: str) -> int:
        """Return when an entry was last added to or removed from the innermost existing folder above a path."""
        for folder in (*reversed(list(folders_above(path))), ""):
            try:
                return os.stat(self._tree.locate(folder)).st_mtime_ns
            except OSError as error:
                if error.errno not in NOT_THERE:
                    raise
        return 0

    def _is_blocked(self, path: str, busy_until: int) -> bool:
        """
        Return whether a file or folder of the wrong kind, newer than the journal, is in the way.

        A crash of a file system without a journal of its own also leaves such entries; they are older and are removed.
        """
        locations = [location for location, is_wrong in self._in_the_way(path) if is_wrong]
        return any(os.lstat(location).st_mtime_ns > busy_until for location in locations)

    def _in_the_way(self, path: str) -> Iterator[tuple[str, bool]]:
        """Yield the locations of a path and of the folders above it, and whether each is of the wrong kind."""
        for folder in folders_above(path):
            location = self._tree.locate(folder)
            yield location, os.path.lexists(location) and not os.path.isdir(location)
        location = self._tree.locate(path)
        yield location, os.path.isdir(location)

    def _put(self, contents: Sequence[tuple[str, bytes]]) -> None:
        waiting = [(self._staging.write(content, mode=mode_of(path))[0], path) for path, content in contents]
        self._disk.sync_all()
        for staged, path in waiting:
            for location, is_wrong in self._in_the_way(path):
                if is_wrong:
                    os.rename(location, removed := self._staging.new())
                    discard(removed)
            if self._tree.move_in(staged, path, None):
                discard(staged)


def _changes(entries: Sequence[Entry]) -> Iterable[tuple[str, _Change]]:
    """Return each path with the last content to compare, unless a later entry says that the file system is correct."""
    changes: dict[str, _Change] = {}
    settled: set[str] = set()
    for entry in reversed(entries):
        if entry.content is None:
            settled.add(entry.path)
            continue
        if not settled.isdisjoint((entry.path, *folders_above(entry.path))):
            continue
        change = changes.setdefault(entry.path, _Change(entry.content, entry.entered))
        if entry.trace is None:
            change.is_traced = False
        else:
            change.known.update(state for state in entry.trace if state is not None)
            change.may_be_absent = change.may_be_absent or entry.trace.before is None
            if entry.trace.after is not None:
                change.written.setdefault(entry.trace.after.inode, entry.content)
    return changes.items()


def _is_older(found: os.stat_result, change: _Change) -> bool:
    """Tell whether a file is older than the last content of its path, or has lost it."""
    if not change.is_traced:
        # A content is written to a file before it is entered, and so has an older time.
        return found.st_mtime_ns <= change.entered + dependencies.CLOCK_TICK_NANOSECONDS
    state = FileState(found.st_ino, found.st_mtime_ns)
    if state in change.known:
        return True
    # An earlier time of a known inode: the file was touched before its state became known, and the crash undid that. A
    # program can set back the modification time too, but not the change time. Where times have whole seconds, the file
    # may have been written until the end of its second.
    until = state.modified + (10**9 - 1 if state.modified % 10**9 == 0 else 0)
    if found.st_ctime_ns <= change.entered + _BUSY_NANOSECONDS and any(
        state.inode == known.inode and until < known.modified for known in change.known
    ):
        return True
    is_clock_right = change.entered <= time.time_ns()
    return is_clock_right and found.st_ctime_ns + dependencies.WHOLE_SECONDS_TICK_NANOSECONDS < change.entered


def _is_left_of(left: bytes | None, written: bytes | None) -> bool:
    """Return whether a file holds what the journal wrote to it, or what a crash left of that."""
    if left is None or written is None or len(left) > len(written):
        return False
    sectors = ((left[start:end], written[start:end]) for start, end in _sectors(len(left)))
    return all(found == expected or not any(found) for found, expected in sectors)


def _sectors(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _SECTOR_BYTES, size)) for start in range(0, size, _SECTOR_BYTES))


def _some(paths: Sequence[str]) -> str:
    return ", ".join([*paths[:3], *(["…"] if len(paths) > 3 else [])])
