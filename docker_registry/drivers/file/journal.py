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

**Crashes** of a process lose nothing that the kernel knows: its journal is deleted after a checkpoint. Only when the
kernel was started since is a journal put again, but for what was changed long after its end, as by another server.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from gevent import monkey

from docker_registry.drivers.base import folders_above
from docker_registry.drivers.file import gate, journal_file, marks
from docker_registry.drivers.file.disk import Disk
from docker_registry.drivers.file.gate import Gate
from docker_registry.drivers.file.journal_file import HALF_BYTES, Boot, Entry, HalfIsFull, JournalFile
from docker_registry.drivers.file.marks import Marks
from docker_registry.threads import close_now

#: Where less is free no journal is begun: what is left is for what is pushed.
_MIN_FREE_BYTES: Final = 32 * HALF_BYTES

#: What the system says when there is less than it seemed, for a quota or a limit, and how long it is not asked again.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_SECONDS: Final = 60.0

#: More is not written twice.
MAX_BYTES: Final = HALF_BYTES // 4

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_ID_LENGTH: Final = 36

#: Called with contents by path, and when the last of all was put, in nanoseconds since the epoch.
Restore = Callable[[Mapping[str, bytes], int], None]


class _Left(NamedTuple):
    """A journal whose process is dead."""

    place: str
    fd: int
    boot: Boot


def this_boot(source: str = _BOOT_ID) -> Boot | None:
    """Tell when the kernel was started; None where it has no name for that."""
    try:
        found = Path(source).read_text().strip()
    except OSError:
        return None
    return Boot(found, time.time_ns() - time.monotonic_ns()) if len(found) == _ID_LENGTH else None


class Journal:
    """
    The journals of all processes that have a store open, of which one is that of this process.

    Attributes:
        is_due: whether anything was entered since the last checkpoint.
    """

    def __init__(self, folder: str, disk: Disk, boot: Boot) -> None:
        """
        Args:
            folder: where they lie; it is there.
        """
        self.is_due = False
        self._folder = folder
        self._disk = disk
        self._boot = boot
        self._gate = Gate(folder)
        self._marks = Marks(folder)
        self._process = os.getpid()
        self._beginning = monkey.get_original("_thread", "allocate_lock")()
        self._no_room_until = 0.0
        self._file: JournalFile | None = None
        self._broken: list[JournalFile] = []

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
                    self._file = JournalFile(self._folder, self._boot)
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

    def put(self, contents: Sequence[tuple[str, bytes]]) -> None:
        """
        Enter what will be put, within :meth:`changing` and with the locks of the paths; blocks this thread until it is
        on the disk. The journal of this process has been begun.

        Raises:
            HalfIsFull: nothing was entered; :meth:`turn` makes room.
        """
        moment = time.monotonic_ns()
        self._append([Entry(moment, path, content) for path, content in contents])

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
        self._marks.raise_to(self._boot.id, moment)
        if file is not None:
            file.forget(moment)
        self._broken = [one for one in self._broken if one not in broken]
        for one in broken:
            with suppress(FileNotFoundError):
                os.unlink(one.place)
            one.close()

    def recover(self, restore: Restore) -> None:
        """Put again what a crash of the host may have taken, and delete the journals of the dead; blocks the thread."""
        if not any(self._journals()):
            return
        with self.alone(), ExitStack() as opened:
            living, left = self._found(opened)
            boots = {journal.boot.id: journal.boot for journal in left}
            gone = sorted((boot for boot in boots.values() if boot.id not in living), key=lambda boot: boot.began)
            for boot in gone:
                self._restore(boot, [journal.fd for journal in left if journal.boot.id == boot.id], restore)
            moment = time.monotonic_ns()
            self._disk.sync_all()
            for boot_id in boots:
                self._marks.raise_to(boot_id, moment if boot_id in living else marks.END)
            for journal in left:
                os.unlink(journal.place)
            self._disk.sync_all()
            for boot in gone:
                self._marks.drop(boot.id)

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

    def _own(self) -> JournalFile | None:
        if self._process != os.getpid():  # what this process was forked from goes on with its own
            self._process, self._file, self._broken = os.getpid(), None, []
        return self._file

    def _journals(self) -> Iterator[str]:
        for name in os.listdir(self._folder):
            if name not in gate.NAMES and not name.startswith(marks.PREFIX):
                yield f"{self._folder}/{name}"

    def _found(self, opened: ExitStack) -> tuple[set[str], list[_Left]]:
        """Return the boots of which some process lives, so that its kernel does, and what the dead have left."""
        living, left = {self._boot.id}, []
        for place in self._journals():
            fd = os.open(place, os.O_RDONLY)
            opened.callback(close_now, fd)
            boot = journal_file.read_boot(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                living.update([boot.id] if boot else [])
            else:  # one that was never whole holds nothing
                left.append(_Left(place, fd, boot or self._boot))
        return living, left

    def _restore(self, boot: Boot, fds: Sequence[int], restore: Restore) -> None:
        since = self._marks.get(boot.id)
        entries = [entry for fd in fds for entry in journal_file.read_entries(fd) if entry.moment >= since]
        entries.sort(key=lambda entry: entry.moment)
        contents: dict[str, bytes] = {}
        settled: set[str] = set()
        for entry in reversed(entries):
            if entry.content is None:
                settled.add(entry.path)
            elif entry.path not in contents and settled.isdisjoint((entry.path, *folders_above(entry.path))):
                contents[entry.path] = entry.content
        if contents:
            restore(contents, max(entry.entered for entry in entries))
