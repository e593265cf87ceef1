"""
Recovery: what a process does with the journals that it finds when it opens a store.

Journals of ended processes that belong to the current mount session (:mod:`~.journal.mount_session`) are not needed:
the kernel still has all their changes. They are deleted after the file system was synced. Journals of other sessions
are replayed (:mod:`~.journal.replay`) and then deleted. A journal that was copied here with a tree, a journal of a
newer version, and any other file in the folder are logged and left unchanged.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal import marks, mount_session
from docker_registry.drivers.file.journal.entries import Entry, FileState, Trace
from docker_registry.drivers.file.journal.head import HEAD_BYTES, Head, UnknownVersion, read_head, was_created_in
from docker_registry.drivers.file.journal.journal import BEFORE_RECORD_BYTES, NAME, RECORD, Journal, sealed
from docker_registry.drivers.file.journal.marks import Marks
from docker_registry.drivers.file.journal.mount_session import MountSession
from docker_registry.drivers.file.reserved_folder import FAIR_LOCK_NAMES, FairLock
from docker_registry.drivers.file.sync import Disk

#: Other files of the driver in the folder.
_OWN_NAMES: Final = (*FAIR_LOCK_NAMES, mount_session.NAME)
_OWN_PREFIXES: Final = (marks.PREFIX, mount_session.TEMPORARY_PREFIX)

#: Errors for a symbolic link, a socket, and a file that was just removed.
_NO_FILE: Final = {errno.ELOOP, errno.ENXIO, errno.ENOENT}

logger = logging.getLogger(__name__)

#: Called with the entries that a session left, ordered by moment, and the time at which the session was last active, in
#: nanoseconds since the epoch.
Replay = Callable[[Sequence[Entry], int], None]


class _Left(NamedTuple):
    """A journal whose process has ended."""

    location: str
    fd: int
    session: MountSession


def open_journal(folder: str, disk: Disk, superblock: str | None, replay: Replay) -> Journal:
    """
    Join the mount session, replay journals whose changes the disk may lack, and delete journals of ended processes.

    Call it before any change; blocks this thread.

    Args:
        folder: the existing folder of the journals.
        superblock: the identity of its file system, from :func:`~.mount_session.superblock_id`.

    Returns:
        The journal with which this process makes its changes.
    """
    lock, session_marks = FairLock(folder), Marks(folder)
    with lock.exclusive(), ExitStack() as opened:
        membership = mount_session.join(folder, superblock)
        found = _Search(folder, membership.session.id, opened)
        left, living = found.left, found.living
        sessions = {journal.session.id: journal.session for journal in left}
        gone = sorted((one for one in sessions.values() if one.id not in living), key=lambda one: one.began)
        for session in gone:
            fds = [journal.fd for journal in left if journal.session.id == session.id]
            _replay(fds, session_marks.get(session.id), replay)
        if left:
            moment = time.monotonic_ns()
            disk.sync_all()
            for session_id in sessions:
                session_marks.raise_to(session_id, moment if session_id in living else marks.END)
            for journal in left:
                os.unlink(journal.location)
            disk.sync_all()
        for ended in {*(session.id for session in gone), membership.ended} - {None, *living}:
            session_marks.drop(str(ended))
    return Journal(folder, lock, disk, membership, frozenset(found.not_ours))


class _Search:
    """
    A search for journals.

    Attributes:
        living: IDs of the sessions that have a live process.
        left: journals whose process has ended, each opened and locked.
        not_ours: names of files that are no journals of this store.
    """

    def __init__(self, folder: str, session_id: str, opened: ExitStack) -> None:
        """
        Args:
            folder: the folder of the journals.
            session_id: the session of this process.
            opened: closes the journals.
        """
        self.living = {session_id}
        self.left: list[_Left] = []
        self.not_ours: set[str] = set()
        self._folder = folder
        for name in sorted(os.listdir(folder)):
            if name not in _OWN_NAMES and not name.startswith(_OWN_PREFIXES):
                self._look_at(name, opened)

    def _look_at(self, name: str, opened: ExitStack) -> None:
        location = f"{self._folder}/{name}"
        fd = _open_file(location) if NAME.fullmatch(name) else None
        if fd is None:
            self._leave(name, "is no journal")
            return
        opened.callback(close_now, fd)
        head = self._read_head(name, fd)
        if head is None:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.living.add(head.session.id)
        else:
            self.left.append(_Left(location, fd, head.session))

    def _read_head(self, name: str, fd: int) -> Head | None:
        """
        Return the header of a journal that was written in this folder; None for any other file, which is left
        unchanged.
        """
        try:
            head = read_head(fd)
        except UnknownVersion:
            self._leave(name, "was written by a newer version of the registry")
            return None
        if head is None:
            self._leave(name, "is no journal")
        elif not was_created_in(head, fd, self._folder):
            self._leave(name, "was copied here from another folder, so its entries do not belong to this tree")
            return None
        return head

    def _leave(self, name: str, reason: str) -> None:
        self.not_ours.add(name)
        logger.warning("%s/%s %s; it is left unchanged.", self._folder, name, reason)


def _open_file(location: str) -> int | None:
    """Open a regular file for reading; return None for anything else."""
    try:
        fd = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        close_now(fd)
        return None
    return fd


def _replay(fds: Sequence[int], since: int, replay: Replay) -> None:
    """
    Replay the journals of a session.

    Args:
        since: the moment of the session's last checkpoint.
    """
    entries = [entry for fd in fds for entry in read_entries(fd) if entry.moment >= since]
    if not entries:
        return
    # An interrupted recovery has also changed folders.
    last_active = max(*(entry.entered for entry in entries), *(os.fstat(fd).st_mtime_ns for fd in fds))
    for fd in fds:
        with suppress(PermissionError):  # the journal belongs to another user
            os.utime(fd)
            os.fsync(fd)
    replay(sorted(entries, key=lambda entry: entry.moment), last_active)


def read_entries(fd: int) -> list[Entry]:
    """Return the complete entries of a journal."""
    half_bytes = (os.fstat(fd).st_size - HEAD_BYTES) // 2
    halves = (os.pread(fd, half_bytes, start) for start in (HEAD_BYTES, HEAD_BYTES + half_bytes))
    return [entry for half in halves for entry in _entries(half)]


def _entries(half: bytes) -> Iterator[Entry]:
    position, last = 0, None
    while position + BEFORE_RECORD_BYTES <= len(half):
        fields = half[position : position + RECORD.size]
        number, entered, length = RECORD.unpack(fields)
        start, end = position + BEFORE_RECORD_BYTES, position + BEFORE_RECORD_BYTES + length
        record = half[start:end]
        if not number or last not in (None, number - 1) or half[position:start] != sealed(fields, [record]):
            return
        yield from _unpack(record, entered)
        position, last = end, number


def _unpack(record: bytes, entered: int) -> Iterator[Entry]:
    head, _, contents = record.partition(b"\n")
    for moment, path, length, *told in json.loads(head):
        if length is None:
            yield Entry(moment, path, None, None, entered)
        else:
            trace = Trace(*(state and FileState(*state) for state in told[0])) if told and told[0] else None
            yield Entry(moment, path, contents[:length], trace, entered)
            contents = contents[length:]
