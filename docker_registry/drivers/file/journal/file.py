"""
The journal file of one process, and how it is read after a crash.

The file has its final length from the start, and all of it has been written once. So writing a record and waiting for
it costs the disk only that record and no metadata of the file system. The file has two halves: records are appended to
one half while those in the other are still needed. Each record has a number. A half ends where the next number does not
follow, whatever older records come after it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import struct
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from gevent import monkey

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal.mount_session import MountSession
from docker_registry.drivers.file.linux import creation_time

#: The size of a half, which also bounds the changes of one process that await write-back.
HALF_BYTES: Final = 4 * 1024 * 1024

#: Space reserved in each half for entries that must not wait for room.
_SPARE_BYTES: Final = 64 * 1024

_HEAD_BYTES: Final = 4096

#: Magic, ID and start of the mount session (:class:`~.mount_session.MountSession`), then where the journal was created:
#: inode number and creation time of the file and of its folder. A checksum follows.
_HEAD: Final = struct.Struct(">8s32sQQQQQ")
_HEAD_MAGIC: Final = b"journal2"

#: The header of older versions: magic, ID of the kernel's boot, and time of the boot.
_OLD_HEAD: Final = struct.Struct(">8s36sQ")
_OLD_HEAD_MAGIC: Final = b"journal1"

#: The prefix of the magic of any version.
_ANY_MAGIC: Final = b"journal"

#: Number, nanoseconds since the epoch, bytes of the record. A checksum of these and of the record follows, then the
#: record.
_RECORD: Final = struct.Struct(">QQI")

_CHECKSUM_BYTES: Final = 4

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would create an encoder per call
_BEFORE_RECORD_BYTES: Final = _RECORD.size + _CHECKSUM_BYTES


class FileState(NamedTuple):
    """
    Identifies the file under a path: every write creates another inode or modification time.

    Attributes:
        inode: inode number.
        modified: nanoseconds since the epoch.
    """

    inode: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """Return the state of a file."""
        return cls(found.st_ino, found.st_mtime_ns)


class Trace(NamedTuple):
    """
    The states of the file that an entry concerns.

    Attributes:
        before: the file under the path when the entry was made; None if there was none.
        after: the file that was then put there; None if it was not known yet.
    """

    before: FileState | None
    after: FileState | None


class Entry(NamedTuple):
    """
    A change of one path.

    Attributes:
        moment: time of the change, in nanoseconds of the kernel's monotonic clock.
        content: the content that was put; None when the file system's state of the path, and of all paths below it, is
            correct.
        trace: None in journals of older versions and for an entry without content.
        entered: time of writing, in nanoseconds since the epoch; 0 before that.
    """

    moment: int
    path: str
    content: bytes | None = None
    trace: Trace | None = None
    entered: int = 0


class Head(NamedTuple):
    """
    The header of a journal.

    Attributes:
        session: the mount session in which the journal was written; in journals of older versions, the boot of the
            kernel.
        origin: where it was created, from :func:`_origin`; None in journals of older versions.
    """

    session: MountSession
    origin: tuple[int, ...] | None = None


class UnknownVersion(Exception):
    """The journal was written by a newer version of the registry."""


class HalfIsFull(Exception):
    """
    A record does not fit into the rest of the half.

    Attributes:
        size: bytes of the record.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


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
            fields = _HEAD.pack(_HEAD_MAGIC, session.id.encode(), session.began, *_origin(self._fd, folder))
            _write(self._fd, [_sealed(fields).ljust(_HEAD_BYTES, b"\0")], 0)
            for start in range(0, 2 * half_bytes, _SPARE_BYTES):
                _write(self._fd, [bytes(_SPARE_BYTES)], _HEAD_BYTES + start)
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
        return self._written + _BEFORE_RECORD_BYTES + size <= self._half_bytes - (0 if spare else _SPARE_BYTES)

    def switch_half(self) -> bool:
        """Switch to the other half if none of its entries are needed; return whether it switched."""
        with self._writing:
            if self._last[1 - self._half]:
                return False
            self._half, self._written = 1 - self._half, 0
            return True

    def append(self, record: Sequence[bytes], moment: int, *, spare: bool = False) -> None:
        """
        Write a record and wait until it is on the disk; blocks this thread.

        Args:
            record: the parts of the record, from :func:`pack`.
            moment: moment of its last entry.
            spare: whether to use the reserved space too.

        Raises:
            HalfIsFull: the record does not fit; nothing was written.
        """
        size = sum(map(len, record))
        with self._writing:
            if not self.has_room(size, spare=spare):
                raise HalfIsFull(size)
            self._number += 1
            before = _sealed(_RECORD.pack(self._number, time.time_ns(), size), record)
            _write(self._fd, (before, *record), _HEAD_BYTES + self._half * self._half_bytes + self._written)
            self._written += len(before) + size
            self._last[self._half] = max(self._last[self._half], moment)
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


def read_head(fd: int) -> Head | None:
    """
    Return the header of a journal; None if the file is not a journal.

    Raises:
        UnknownVersion: the journal was written by a newer version.
    """
    read = os.pread(fd, _HEAD.size + _CHECKSUM_BYTES, 0)
    if read.startswith(_HEAD_MAGIC) and read == _sealed(read[: _HEAD.size]):
        _, session, began, *origin = _HEAD.unpack_from(read)
        return Head(MountSession(session.decode(), began), tuple(origin))
    old = read[: _OLD_HEAD.size + _CHECKSUM_BYTES]
    if old.startswith(_OLD_HEAD_MAGIC) and old == _sealed(old[: _OLD_HEAD.size]):
        _, boot, began = _OLD_HEAD.unpack_from(old)
        return Head(MountSession(boot.decode(), began))
    magic = read[: len(_HEAD_MAGIC)]
    is_journal = magic.startswith(_ANY_MAGIC) and len(magic) == len(_HEAD_MAGIC)
    if is_journal and magic not in (_HEAD_MAGIC, _OLD_HEAD_MAGIC):
        raise UnknownVersion
    return None


def was_created_in(head: Head, fd: int, folder: str) -> bool:
    """Return whether a journal was created in this folder and is not a copy."""
    return head.origin is None or head.origin == _origin(fd, folder)


def read_entries(fd: int) -> list[Entry]:
    """Return the complete entries of a journal."""
    half_bytes = (os.fstat(fd).st_size - _HEAD_BYTES) // 2
    halves = (os.pread(fd, half_bytes, start) for start in (_HEAD_BYTES, _HEAD_BYTES + half_bytes))
    return [entry for half in halves for entry in _entries(half)]


def _entries(half: bytes) -> Iterator[Entry]:
    position, last = 0, None
    while position + _BEFORE_RECORD_BYTES <= len(half):
        fields = half[position : position + _RECORD.size]
        number, entered, length = _RECORD.unpack(fields)
        start, end = position + _BEFORE_RECORD_BYTES, position + _BEFORE_RECORD_BYTES + length
        record = half[start:end]
        if not number or last not in (None, number - 1) or half[position:start] != _sealed(fields, [record]):
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


def _origin(fd: int, folder: str) -> tuple[int, int, int, int]:
    """Return inode number and creation time of a file and of its folder; a copy never has the same values."""
    with_folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.fstat(fd).st_ino, creation_time(fd), os.fstat(with_folder).st_ino, creation_time(with_folder)
    finally:
        close_now(with_folder)


def _sealed(fields: bytes, record: Sequence[bytes] = ()) -> bytes:
    """Return *fields* followed by a checksum of them and of the parts of a record."""
    checksum = zlib.crc32(fields)
    for part in record:
        checksum = zlib.crc32(part, checksum)
    return fields + checksum.to_bytes(_CHECKSUM_BYTES, "big")


def _write(fd: int, parts: Sequence[bytes], offset: int) -> None:
    written = os.pwritev(fd, parts, offset)
    if written == sum(map(len, parts)):
        return
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        offset += written
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]


def sync_folder(folder: str) -> None:
    """Wait until the entries of a folder are on the disk; blocks this thread."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        close_now(fd)
