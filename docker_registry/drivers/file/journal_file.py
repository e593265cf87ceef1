"""
The file into which one process writes what it changes, before it does, and how it is read again after a crash.

The file is as long as it will ever be, and all of it has been written once: so to write a record and to wait for it
costs the disk that record alone, and nothing of the file system. It has two halves. Records follow each other in one
of them while those in the other are still needed; each has a number, and where the next number does not follow, the
half ends, whatever older records lie there.
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
from typing import Final, NamedTuple

from gevent import monkey

from docker_registry.threads import close_now

#: A half, and so also all that waits for the disk of the changes of a process, is not longer.
HALF_BYTES: Final = 4 * 1024 * 1024

#: So much of each half is left for entries that must not wait for room.
_SPARE_BYTES: Final = 64 * 1024

_HEAD_BYTES: Final = 4096

#: Magic, id of the kernel's boot, when that was; a checksum follows.
_HEAD: Final = struct.Struct(">8s36sQ")
_HEAD_MAGIC: Final = b"journal1"

#: Number, nanoseconds since the epoch, bytes of the record; a checksum of these and of the record follows, and that.
_RECORD: Final = struct.Struct(">QQI")

_CHECKSUM_BYTES: Final = 4

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # made once
_BEFORE_RECORD_BYTES: Final = _RECORD.size + _CHECKSUM_BYTES


class Entry(NamedTuple):
    """
    A change of one path.

    Attributes:
        moment: when it was made, in nanoseconds of the kernel's monotonic clock.
        content: what was put there; None when what the file system has there, and below, is right.
        entered: when it was written, in nanoseconds since the epoch; 0 before.
    """

    moment: int
    path: str
    content: bytes | None = None
    entered: int = 0


class Boot(NamedTuple):
    """
    The time from one start of the kernel to the next.

    Attributes:
        began: when the kernel's monotonic clock was 0, in nanoseconds since the epoch.
    """

    id: str
    began: int


class HalfIsFull(Exception):
    """
    A record does not fit into what is left of the half.

    Attributes:
        size: bytes of the record.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class JournalFile:
    """The journal of this process; nobody else writes it while it is locked."""

    def __init__(self, folder: str, boot: Boot, half_bytes: int = HALF_BYTES) -> None:
        """Make it, and wait until it is on the disk; blocks this thread."""
        self.place = f"{folder}/{secrets.token_hex(16)}"
        #: The moment of the last entry in each half; 0 where nothing is needed any more.
        self._last = [0, 0]
        self._half_bytes = half_bytes
        self._half = 0
        self._written = 0
        self._number = 0
        self._writing = monkey.get_original("_thread", "allocate_lock")()
        self._syncing = monkey.get_original("_thread", "allocate_lock")()
        self._synced = 0
        self._has_failed = False
        self._fd = os.open(self.place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.close = weakref.finalize(self, close_now, self._fd)
        head = _sealed(_HEAD.pack(_HEAD_MAGIC, boot.id.encode(), boot.began))
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _write(self._fd, [head.ljust(_HEAD_BYTES, b"\0")], 0)
            for start in range(0, 2 * half_bytes, _SPARE_BYTES):
                _write(self._fd, [bytes(_SPARE_BYTES)], _HEAD_BYTES + start)
            os.fsync(self._fd)
            sync_folder(folder)
        except OSError:
            os.unlink(self.place)
            self.close()
            raise

    def has_room(self, size: int, *, spare: bool = False) -> bool:
        """Tell whether a record of so many bytes fits; the last of the room is *spare*."""
        return self._written + _BEFORE_RECORD_BYTES + size <= self._half_bytes - (0 if spare else _SPARE_BYTES)

    def turn(self) -> bool:
        """Go on in the other half, if nothing in there is needed any more; tell whether that was so."""
        with self._writing:
            if self._last[1 - self._half]:
                return False
            self._half, self._written = 1 - self._half, 0
            return True

    def append(self, record: Sequence[bytes], moment: int, *, spare: bool = False) -> None:
        """
        Write a record and wait until it is on the disk; blocks this thread.

        Args:
            record: its parts, as of :func:`pack`.
            moment: of its last entry.
            spare: use the last of the room.

        Raises:
            HalfIsFull: it does not fit; nothing was written.
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

    def forget(self, before: int) -> None:
        """Say that entries of before a moment are not needed any more."""
        with self._writing:
            self._last = [0 if last < before else last for last in self._last]

    def _sync(self, number: int) -> None:
        """Wait until a record is on the disk; once for all who have written one while another waited."""
        with self._syncing:
            if self._synced >= number:
                return
            # The system tells one of us of an error, whoever's record it has lost: after that none counts as written.
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
    """Return a record of entries in parts, which follow each other: the contents are not copied."""
    head = [(moment, path, None if content is None else len(content)) for moment, path, content, _ in entries]
    contents = (entry.content for entry in entries if entry.content is not None)
    return (_encode(head).encode(), b"\n", *contents)


def read_boot(fd: int) -> Boot | None:
    """Return when a journal was written; None when it was never whole."""
    head = os.pread(fd, _HEAD.size + _CHECKSUM_BYTES, 0)
    fields = head[: _HEAD.size]
    if head != _sealed(fields) or len(fields) < _HEAD.size:
        return None
    magic, boot, began = _HEAD.unpack(fields)
    return Boot(boot.decode(), began) if magic == _HEAD_MAGIC else None


def read_entries(fd: int) -> list[Entry]:
    """Return what a journal holds that was whole."""
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
    for moment, path, length in json.loads(head):
        if length is None:
            yield Entry(moment, path, None, entered)
        else:
            yield Entry(moment, path, contents[:length], entered)
            contents = contents[length:]


def _sealed(fields: bytes, record: Sequence[bytes] = ()) -> bytes:
    """Return fields and a checksum of them, and of a record in parts that will follow."""
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
    """Wait until what a folder lists is on the disk; blocks this thread."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        close_now(fd)
