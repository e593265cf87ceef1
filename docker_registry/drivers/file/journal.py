"""
A journal of small contents: a change waits for the disk once, and only for itself.

To make sure of a small file a file system takes two waits, and writes much besides: the content must be there before
its name is, and then the folder. Instead, what will be put is written into a journal
(:mod:`~docker_registry.drivers.file.journal_file`), and once that has reached the disk it is put in its place without
any waiting; the file system writes it when it likes. If the host crashes before that, whoever opens the store next puts
everything again.

**Order.** The entries of all processes are ordered by the kernel's clock, and for each path the last one counts. It
was also the last to happen, as entries are made while the path's lock is held. What is changed without the journal, and
waits for the disk as ever, makes an entry without content: what the file system has there is right.

**Checkpoints.** From time to time everything is synced, and what was entered before is not needed any more. Nobody may
be between an entry and its change then. So changes share a gate that a checkpoint has alone; and so has who removes a
folder, as the locks of what is put below it meanwhile are others.

**Recovery.** When the store is opened, the journals of processes that have ended are of no more use if they were
written in the mount session that still goes on (:mod:`~docker_registry.drivers.file.mount_session`): the kernel has all
that they tell. They are deleted after a checkpoint. Those of other sessions are replayed
(:mod:`~docker_registry.drivers.file.replay`). A journal that was copied here with a tree, a journal of a newer version,
and any other thing in the folder are named in the log and left alone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Final, NamedTuple

from gevent import monkey

from docker_registry.drivers.file import gate, journal_file, marks, mount_session
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.gate import Gate
from docker_registry.drivers.file.journal_file import (
    HALF_BYTES,
    Entry,
    HalfIsFull,
    Head,
    JournalFile,
    Trace,
    UnknownVersion,
)
from docker_registry.drivers.file.marks import Marks
from docker_registry.drivers.file.mount_session import Membership, MountSession
from docker_registry.threads import close_now

#: Where less is free no journal is begun: what is left is for what is pushed.
_MIN_FREE_BYTES: Final = 32 * HALF_BYTES

#: What the system says when there is less than it seemed, for a quota or a limit, and how long it is not asked again.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_SECONDS: Final = 60.0

#: More is not written twice.
MAX_BYTES: Final = HALF_BYTES // 4

#: How a journal is called.
_NAME: Final = re.compile("[0-9a-f]{32}")

#: What else lies in the folder.
_OWN_NAMES: Final = (*gate.NAMES, mount_session.NAME)
_OWN_PREFIXES: Final = (marks.PREFIX, mount_session.TEMPORARY_PREFIX)

#: What the system says of a symbolic link, of a socket, and of what has just been removed.
_NO_FILE: Final = {errno.ELOOP, errno.ENXIO, errno.ENOENT}

logger = logging.getLogger(__name__)

#: Called with the entries that a session has left, ordered by their moments, and when the session was last active, in
#: nanoseconds since the epoch.
Replay = Callable[[Sequence[Entry], int], None]


class _Left(NamedTuple):
    """A journal whose process has ended."""

    place: str
    fd: int
    session: MountSession


class Journal:
    """
    The journals of all processes that have a store open, of which one is that of this process.

    Attributes:
        is_due: whether anything was entered since the last checkpoint.
    """

    def __init__(self, folder: str, disk: Disk, superblock: str | None) -> None:
        """
        Args:
            folder: where they lie; it is there.
            superblock: of its file system, as of :func:`~.mount_session.superblock_id`.
        """
        self.is_due = False
        self._folder = folder
        self._disk = disk
        self._superblock = superblock
        self._gate = Gate(folder)
        self._marks = Marks(folder)
        self._process = os.getpid()
        self._beginning = monkey.get_original("_thread", "allocate_lock")()
        self._no_room_until = 0.0
        self._file: JournalFile | None = None
        self._broken: list[JournalFile] = []
        self._membership: Membership | None = None
        self._not_ours: set[str] = set()

    def begin(self) -> bool:
        """Make the journal of this process, where it is not made yet; False where there is little room left."""
        if self._own() is not None:
            return True
        with self._beginning:
            if self._file is not None:
                return True
            found = os.statvfs(self._folder)
            if found.f_bavail * found.f_frsize < _MIN_FREE_BYTES or time.monotonic() < self._no_room_until:
                return False
            try:
                with self.changing():
                    self._file = JournalFile(self._folder, self._session)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._no_room_until = time.monotonic() + _NO_ROOM_SECONDS
                return False
            return True

    def has_room(self, size: int) -> bool:
        """Tell whether a record of so many bytes can be entered without :meth:`begin` or :meth:`turn`."""
        file = self._own()
        return file is not None and file.has_room(size)

    def changing(self) -> AbstractContextManager[None]:
        """Enter and change something meanwhile, without a checkpoint in between; blocks this thread."""
        return self._gate.shared()

    def alone(self) -> AbstractContextManager[None]:
        """Let nobody else change anything meanwhile; blocks this thread."""
        return self._gate.alone()

    def put(self, contents: Sequence[tuple[str, bytes]], traces: Sequence[Trace]) -> None:
        """
        Enter what will be put, within :meth:`changing` and with the locks of the paths; blocks this thread until it is
        on the disk. The journal of this process has been begun.

        Args:
            traces: one for each content.

        Raises:
            HalfIsFull: nothing was entered; :meth:`turn` makes room.
        """
        moment = time.monotonic_ns()
        changes = zip(contents, traces, strict=True)
        self._append([Entry(moment, path, content, trace) for (path, content), trace in changes])

    def settle(self, entries: Sequence[Entry]) -> None:
        """
        Enter what was changed without the journal and has been synced, not within :meth:`changing`; blocks this thread.

        Args:
            entries: without content, each of the moment of its change.
        """
        if self._own() is None:
            if any(self._journals()):  # a process that puts nothing needs none of its own
                self.checkpoint()
            return
        try:
            with self.changing():
                self._append(entries)
        except HalfIsFull:
            self.checkpoint()

    def take_back(self, paths: Sequence[str]) -> None:
        """Enter that what was to be put could not be, within :meth:`changing`; blocks this thread."""
        self._disk.sync_all()
        moment = time.monotonic_ns()
        with suppress(HalfIsFull):  # by others that could not be put; the next checkpoint says the same
            self._append([Entry(moment, path) for path in paths], spare=True)

    def turn(self, size: int) -> None:
        """Make room for a record of so many bytes, not within :meth:`changing`; blocks this thread."""
        file = self._own()
        if file is None or file.has_room(size):
            return
        if file.turn():
            self.checkpoint()
        else:  # the other half was filled before this one could be forgotten
            self.checkpoint()
            file.turn()

    def checkpoint(self) -> None:
        """Sync everything, and forget what was entered before; blocks this thread."""
        with self.alone():
            self.is_due = False
            moment = time.monotonic_ns()
            file, broken = self._own(), tuple(self._broken)
        self._disk.sync_all()
        self._marks.raise_to(self._session.id, moment)
        if file is not None:
            file.forget(moment)
        self._broken = [one for one in self._broken if one not in broken]
        for one in broken:
            with suppress(FileNotFoundError):
                os.unlink(one.place)
            one.close()

    def recover(self, replay: Replay) -> None:
        """
        Join the mount session, replay what the disk may not have, and delete the journals of ended processes; before
        anything else; blocks this thread.
        """
        with self.alone(), ExitStack() as opened:
            self._membership = mount_session.join(self._folder, self._superblock)
            living, left = self._found(opened)
            sessions = {journal.session.id: journal.session for journal in left}
            gone = sorted((one for one in sessions.values() if one.id not in living), key=lambda one: one.began)
            for session in gone:
                self._replay(session, [journal.fd for journal in left if journal.session.id == session.id], replay)
            if left:
                moment = time.monotonic_ns()
                self._disk.sync_all()
                for session_id in sessions:
                    self._marks.raise_to(session_id, moment if session_id in living else marks.END)
                for journal in left:
                    os.unlink(journal.place)
                self._disk.sync_all()
            for ended in {*(session.id for session in gone), self._membership.ended} - {None, *living}:
                self._marks.drop(str(ended))

    def close(self) -> None:
        """Give up what tells other processes that this one is alive; its journal is left as it is."""
        for held in (self._own(), self._membership):
            if held is not None:
                held.close()

    # ------------------------------------------------------------------------------------------------- steps

    def _append(self, entries: Sequence[Entry], *, spare: bool = False) -> None:
        file = self._own()
        if file is None:  # given up by another thread just now
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            file.append(journal_file.pack(entries), entries[-1].moment, spare=spare)
        except OSError:
            # Nobody knows how much of it is on the disk, so nothing may follow it there.
            if self._file is file:  # not given up by another thread before
                self._broken.append(file)
                self._file = None
            raise
        finally:
            self.is_due = True

    @property
    def _session(self) -> MountSession:
        assert self._membership is not None, "the journal has not been recovered"
        return self._membership.session

    def _own(self) -> JournalFile | None:
        if self._process != os.getpid():  # what this process was forked from goes on with its own
            self._process, self._file, self._broken = os.getpid(), None, []
        return self._file

    def _journals(self) -> Iterator[str]:
        for name in os.listdir(self._folder):
            if _NAME.fullmatch(name) and name not in self._not_ours:
                yield f"{self._folder}/{name}"

    def _found(self, opened: ExitStack) -> tuple[set[str], list[_Left]]:
        """Return the sessions of which some process lives, and the journals of those that have ended."""
        living, left = {self._session.id}, []
        self._not_ours = set()
        for name in sorted(os.listdir(self._folder)):
            if name in _OWN_NAMES or name.startswith(_OWN_PREFIXES):
                continue
            place = f"{self._folder}/{name}"
            fd = _open_file(place) if _NAME.fullmatch(name) else None
            if fd is None:
                self._leave(name, "is no journal")
                continue
            opened.callback(close_now, fd)
            head = self._read_head(name, fd)
            if head is None:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                living.add(head.session.id)
            else:
                left.append(_Left(place, fd, head.session))
        return living, left

    def _read_head(self, name: str, fd: int) -> Head | None:
        """Return the head of a journal that was written here; None for anything else, which is left alone."""
        try:
            head = journal_file.read_head(fd)
        except UnknownVersion:
            self._leave(name, "was written by a newer version of the registry")
            return None
        if head is None:
            self._leave(name, "is no journal")
        elif not journal_file.is_where_it_was_made(head, fd, self._folder):
            self._leave(name, "was copied here from another folder, so its entries do not belong to this tree")
            return None
        return head

    def _leave(self, name: str, reason: str) -> None:
        self._not_ours.add(name)
        logger.warning("%s/%s %s; it is left as it is.", self._folder, name, reason)

    def _replay(self, session: MountSession, fds: Sequence[int], replay: Replay) -> None:
        since = self._marks.get(session.id)
        entries = [entry for fd in fds for entry in journal_file.read_entries(fd) if entry.moment >= since]
        if not entries:
            return
        # A recovery that did not come to its end has changed folders, too.
        last_active = max(*(entry.entered for entry in entries), *(os.fstat(fd).st_mtime_ns for fd in fds))
        for fd in fds:
            with suppress(PermissionError):  # it belongs to another user
                os.utime(fd)
                os.fsync(fd)
        replay(sorted(entries, key=lambda entry: entry.moment), last_active)


def _open_file(place: str) -> int | None:
    """Open a file to be read; None when something else lies there."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        close_now(fd)
        return None
    return fd
