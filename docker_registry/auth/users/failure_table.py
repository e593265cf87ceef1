"""
Failed logins of all workers of a server, in a table of fixed size.

The table is a file in memory that the workers map, or memory of this process alone. It has buckets of eight entries; a
new entry replaces the one in its bucket that is forgiven first. Names are stored as keyed hashes only.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BUCKETS: Final = 4096
_WAYS: Final = 8

#: Number of accounts and networks that are remembered.
MAX_ENTRIES: Final = _BUCKETS * _WAYS

_ENTRY: Final = struct.Struct("<Qd")
_KEY_BYTES: Final = 32
_SIZE: Final = _KEY_BYTES + MAX_ENTRIES * _ENTRY.size


class FailureTable:
    """Times by text keys; a missing key has the time 0."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: the file that the workers share; None for a table of this process.

        Raises:
            OSError: the file cannot be opened, or there is no space for it.
        """
        self._file: int | None = None
        if path is None:
            self._memory = mmap.mmap(-1, _SIZE)
            self._memory[:_KEY_BYTES] = secrets.token_bytes(_KEY_BYTES)
        else:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._locked():
                if os.fstat(self._file).st_size != _SIZE:
                    os.posix_fallocate(self._file, 0, _SIZE)  # a page that is missing later would kill the worker
                    os.pwrite(self._file, secrets.token_bytes(_KEY_BYTES), 0)
            self._memory = mmap.mmap(self._file, _SIZE)
        self._key = bytes(self._memory[:_KEY_BYTES])

    def get(self, name: str) -> float:
        """Return the time of a key."""
        mark, bucket = self._place(name)
        return next((until for _, found, until in self._bucket(bucket) if found == mark), 0.0)

    def raise_to(self, name: str, now: float, seconds: float, most: float) -> None:
        """
        Add seconds to the time of a key, or to now if that is later.

        Args:
            most: the time is at most this many seconds from now.
        """
        mark, bucket = self._place(name)
        with self._locked():
            entries = list(self._bucket(bucket))
            own = [entry for entry in entries if entry[1] == mark]
            offset = own[0][0] if own else min(entries, key=lambda entry: entry[2])[0]
            known = own[0][2] if own else 0.0
            _ENTRY.pack_into(self._memory, offset, mark, min(max(known, now) + seconds, now + most))

    def __len__(self) -> int:
        return sum(found != 0 for bucket in range(_BUCKETS) for _, found, _ in self._bucket(bucket))

    def _place(self, name: str) -> tuple[int, int]:
        """Return the hash of a key, which is never 0, and its bucket."""
        digest = hashlib.blake2b(name.encode("utf-8", "replace"), key=self._key, digest_size=16).digest()
        return int.from_bytes(digest[:8], "little") | 1, int.from_bytes(digest[8:], "little") % _BUCKETS

    def _bucket(self, bucket: int) -> Iterator[tuple[int, int, float]]:
        """Yield offset, hash and time of each entry of a bucket."""
        first = _KEY_BYTES + bucket * _WAYS * _ENTRY.size
        for offset in range(first, first + _WAYS * _ENTRY.size, _ENTRY.size):
            yield offset, *_ENTRY.unpack_from(self._memory, offset)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the file for some microseconds."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
