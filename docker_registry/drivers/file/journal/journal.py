"""
A write-ahead journal for small contents: a change waits for the disk once, and only for its own bytes.

To make a small file durable, a file system needs two waits and writes additional metadata: the content must be on the
disk before its name, and then the folder. Instead, contents are first written to a journal. Once the journal is on the
disk, each content is written to its path without any sync, and the file system writes it back later. If the host
crashes before that, the next process that opens the store replays the journal (:mod:`~.journal.recovery`). A PUT of a
manifest is 1.6 to 2.2 times faster for it.

**Order.** The entries of all processes are ordered by the kernel's monotonic clock, and for each path the last entry
counts. It is also the last change, because entries are made while the path's lock is held. A change that bypasses the
journal is synced as usual and makes an entry without content: the state of the file system is correct.

**Checkpoints.** A checkpoint syncs the file system, after which earlier entries are obsolete. No process may be between
an entry and its change at that moment. So changes hold :attr:`Journal.lock` in shared mode and a checkpoint holds it
exclusively. The removal of a folder holds it exclusively too, because puts below that folder lock other paths.

**File.** Each process writes to a file of its own, which has its final length from the start and has been written once.
So appending a record and waiting for it costs the disk only that record and no metadata of the file system. The file
has two halves: records are appended to one half while those in the other are still needed. Records are numbered. In
each half, the first record whose number does not continue the sequence is left from an earlier use; it and everything
after it are ignored.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import struct
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from gevent import monkey

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal.entries import Entry
from docker_registry.drivers.file.journal.head import HEAD_BYTES, make_head
from docker_registry.drivers.file.journal.marks import Marks
from docker_registry.drivers.file.journal.mount_session import Membership, MountSession
from docker_registry.drivers.file.reserved_folder import FairLock
from docker_registry.drivers.file.sync import Disk, sync_folder

#: The size of a half, which also bounds the changes of one process that await write-back.
HALF_BYTES: Final = 4 * 1024 * 1024

#: Larger contents are written only to their path, not to the journal.
MAX_BYTES: Final = HALF_BYTES // 4

#: Space reserved in each half for entries that must not wait for room.
_SPARE_BYTES: Final = 64 * 1024

#: No journal is created when less space is free, so that the rest is available for pushed content.
_MIN_FREE_BYTES: Final = 32 * HALF_BYTES

#: Errors when a quota or limit leaves less space than statvfs reports, and the delay before the next attempt.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_SECONDS: Final = 60.0

#: The name of a journal file.
NAME: Final = re.compile("[0-9a-f]{32}")

#: Number, nanoseconds since the epoch, bytes of the record. A checksum of these and of the record follows, then the
#: record.
RECORD: Final = struct.Struct(">QQI")
BEFORE_RECORD_BYTES: Final = RECORD.size + 4

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would create an encoder per call


class HalfIsFull(Exception):
    """
    A record does not fit into the rest of the half.

    Attributes:
        size: bytes of the record.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Journal:
    """
    The journals of all processes that have a store open, one of them that of this process.

    Attributes:
        lock: held in shared mode while an entry and its change are made, exclusively by what must exclude all changes.
        is_due: whether there are entries since the last checkpoint.
    """

    def __init__(
        self, folder: str, lock: FairLock, disk: Disk, membership: Membership, not_ours: frozenset[str]
    ) -> None:
        """
        Args:
            folder: the existing folder of the journals.
            membership: of this process in the mount session.
            not_ours: names of files in the folder that look like journals of this store and are none.
        """
        self.lock = lock
        self.is_due = False
        self._folder = folder
        self._disk = disk
        self._marks = Marks(folder)
        self._membership = membership
        self._not_ours = not_ours
        self._process = os.getpid()
        self._creating = monkey.get_original("_thread", "allocate_lock")()
        self._no_room_until = 0.0
        self._file: JournalFile | None = None
        self._broken: list[JournalFile] = []

    def begin(self) -> bool:
        """Create the journal of this process if it does not exist; return False if there is too little free space."""
        if self._own() is not None:
            return True
        with self._creating:
            if self._file is not None:
                return True
            found = os.statvfs(self._folder)
            if found.f_bavail * found.f_frsize < _MIN_FREE_BYTES or time.monotonic() < self._no_room_until:
                return False
            try:
                with self.lock.shared():
                    self._file = JournalFile(self._folder, self._session)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._no_room_until = time.monotonic() + _NO_ROOM_SECONDS
                return False
            return True

    def has_room(self, size: int) -> bool:
        """Return whether a record of *size* bytes fits without :meth:`begin` or :meth:`make_room`."""
        file = self._own()
        return file is not None and file.has_room(size)

    def append(self, entries: Sequence[Entry], *, spare: bool = False) -> None:
        """
        Write entries and wait until they are on the disk; blocks this thread.

        The caller has called :meth:`begin`, and holds :attr:`lock` in shared mode and the locks of the paths.

        Args:
            spare: whether to use the reserved space too.

        Raises:
            HalfIsFull: nothing was written; call :meth:`make_room` to make room.
        """
        file = self._own()
        if file is None:  # abandoned by another thread just now
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            file.append(entries, spare=spare)
        except OSError:
            # It is unknown how much of the record is on the disk, so nothing may be appended after it.
            if self._file is file:  # not yet abandoned by another thread
                self._broken.append(file)
                self._file = None
            raise
        finally:
            self.is_due = True

    def record_synced(self, entries: Sequence[Entry]) -> None:
        """
        Record changes that bypassed the journal and have been synced; blocks this thread. The caller does not hold
        :attr:`lock`.

        Args:
            entries: without content, each with the moment of its change.
        """
        if self._own() is None:
            if any(self._journals()):  # a process that puts nothing needs no journal of its own
                self.checkpoint()
            return
        try:
            with self.lock.shared():
                self.append(entries)
        except HalfIsFull:
            self.checkpoint()

    def revoke(self, paths: Sequence[str]) -> None:
        """Revoke entries whose contents could not be put; blocks this thread. The caller still holds :attr:`lock`."""
        self._disk.sync_all()
        moment = time.monotonic_ns()
        with suppress(HalfIsFull):  # full of such entries; the next checkpoint also makes them obsolete
            self.append([Entry(moment, path) for path in paths], spare=True)

    def make_room(self, size: int) -> None:
        """Make room for a record of *size* bytes; blocks this thread. The caller does not hold :attr:`lock`."""
        file = self._own()
        if file is None or file.has_room(size):
            return
        if file.switch_half():
            self.checkpoint()
        else:  # the other half still has needed entries
            self.checkpoint()
            file.switch_half()

    def checkpoint(self) -> None:
        """Sync the file system and discard earlier entries; blocks this thread."""
        with self.lock.exclusive():
            self.is_due = False
            moment = time.monotonic_ns()
            file, broken = self._own(), tuple(self._broken)
        self._disk.sync_all()
        self._marks.raise_to(self._session.id, moment)
        if file is not None:
            file.discard_before(moment)
        self._broken = [one for one in self._broken if one not in broken]
        for one in broken:
            with suppress(FileNotFoundError):
                os.unlink(one.location)
            one.close()

    def close(self) -> None:
        """Release the locks that show other processes that this one is alive; its journal stays as it is."""
        file = self._own()
        if file is not None:
            file.close()
        self._membership.close()

    @property
    def _session(self) -> MountSession:
        return self._membership.session

    def _own(self) -> JournalFile | None:
        if self._process != os.getpid():  # the parent process keeps using its own journal
            self._process, self._file, self._broken = os.getpid(), None, []
        return self._file

    def _journals(self) -> Iterator[str]:
        for name in os.listdir(self._folder):
            if NAME.fullmatch(name) and name not in self._not_ours:
                yield f"{self._folder}/{name}"


class JournalFile:
    """The journal of this process. It holds the lock of the file, so no other process writes to it."""

    def __init__(self, folder: str, session: MountSession, half_bytes: int = HALF_BYTES) -> None:
        """Create the file and wait until it is on the disk; blocks this thread."""
        self.location = f"{folder}/{secrets.token_hex(16)}"
        #: The moment of the last entry in each half; 0 when no entry in the half is needed.
        self._last = [0, 0]
        self._half_bytes = half_bytes
        self._half = 0
        self._written = 0
        self._number = 0
        self._writing = monkey.get_original("_thread", "allocate_lock")()
        self._syncing = monkey.get_original("_thread", "allocate_lock")()
        self._synced = 0
        self._has_failed = False
        # Name the file only once it is complete and locked: a file with such a name and no header is not a journal.
        self._fd = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o644)
        self.close = weakref.finalize(self, close_now, self._fd)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _write(self._fd, [make_head(session, self._fd, folder)], 0)
            for start in range(0, 2 * half_bytes, _SPARE_BYTES):
                _write(self._fd, [bytes(_SPARE_BYTES)], HEAD_BYTES + start)
            os.fsync(self._fd)
            # Python passes AT_SYMLINK_FOLLOW, needed for the link in /proc, only when a folder descriptor is given; its
            # value does not matter for an absolute path.
            os.link(f"/proc/self/fd/{self._fd}", self.location, src_dir_fd=self._fd)
            sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(self.location)
            self.close()
            raise

    def has_room(self, size: int, *, spare: bool = False) -> bool:
        """Return whether a record of *size* bytes fits; with *spare*, into the reserved space too."""
        return self._written + BEFORE_RECORD_BYTES + size <= self._half_bytes - (0 if spare else _SPARE_BYTES)

    def switch_half(self) -> bool:
        """Switch to the other half if none of its entries are needed; return whether it switched."""
        with self._writing:
            if self._last[1 - self._half]:
                return False
            self._half, self._written = 1 - self._half, 0
            return True

    def append(self, entries: Sequence[Entry], *, spare: bool = False) -> None:
        """
        Write entries as one record and wait until it is on the disk; blocks this thread.

        Args:
            entries: ordered by moment.
            spare: whether to use the reserved space too.

        Raises:
            HalfIsFull: the record does not fit; nothing was written.
        """
        record = pack(entries)
        size = sum(map(len, record))
        with self._writing:
            if not self.has_room(size, spare=spare):
                raise HalfIsFull(size)
            self._number += 1
            before = sealed(RECORD.pack(self._number, time.time_ns(), size), record)
            _write(self._fd, (before, *record), HEAD_BYTES + self._half * self._half_bytes + self._written)
            self._written += len(before) + size
            self._last[self._half] = max(self._last[self._half], entries[-1].moment)
            number = self._number
        self._sync(number)

    def discard_before(self, before: int) -> None:
        """Mark entries older than a moment as not needed."""
        with self._writing:
            self._last = [0 if last < before else last for last in self._last]

    def _sync(self, number: int) -> None:
        """Wait until a record is on the disk; one wait covers all records written while another thread waited."""
        with self._syncing:
            if self._synced >= number:
                return
            # The kernel reports a write error to only one caller of fdatasync, whichever record was lost: after an
            # error no record counts as written.
            if self._has_failed:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            with self._writing:
                written = self._number
            try:
                os.fdatasync(self._fd)
            except BaseException:
                self._has_failed = True
                raise
            self._synced = written


def pack(entries: Sequence[Entry]) -> tuple[bytes, ...]:
    """
    Encode entries as a record, in consecutive parts so that the contents are not copied.

    The first part is a line of JSON: ``[[moment, path, bytes of the content or null, trace or null], …]``.
    """
    head = [
        (moment, path, None if content is None else len(content), trace) for moment, path, content, trace, _ in entries
    ]
    contents = (entry.content for entry in entries if entry.content is not None)
    return (_encode(head).encode(), b"\n", *contents)


def sealed(fields: bytes, record: Sequence[bytes] = ()) -> bytes:
    """Return *fields* followed by a checksum of them and of the parts of a record."""
    checksum = zlib.crc32(fields)
    for part in record:
        checksum = zlib.crc32(part, checksum)
    return fields + checksum.to_bytes(BEFORE_RECORD_BYTES - RECORD.size, "big")


def _write(fd: int, parts: Sequence[bytes], offset: int) -> None:
    written = os.pwritev(fd, parts, offset)
    if written == sum(map(len, parts)):
        return
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        offset += written
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]
