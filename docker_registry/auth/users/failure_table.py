"""
Failed logins of all workers of a server, in a table of fixed size.

The table is a file in memory that the workers map, or memory of this process alone. It has buckets of eight entries; a
new name replaces the entry of its bucket whose failures are forgiven first. Names are stored only as hashes that are
keyed with a random secret.
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

#: Maximum number of entries: pairs of network and account, and networks.
MAX_ENTRIES: Final = _BUCKETS * _WAYS

_ENTRY: Final = struct.Struct("<Qd")
_SECRET_BYTES: Final = 32
_SIZE: Final = _SECRET_BYTES + MAX_ENTRIES * _ENTRY.size


class FailureTable:
    """
    For each name (see :class:`.Attempts`), the time at which all its failures are forgiven; 0 for an unknown name.

    Times are those of the caller's clock, which all workers must share.
    """

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
            self._memory[:_SECRET_BYTES] = secrets.token_bytes(_SECRET_BYTES)
        else:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._locked():
                if os.fstat(self._file).st_size != _SIZE:
                    # Reserve the space now: a write to a page without space would kill the worker.
                    os.posix_fallocate(self._file, 0, _SIZE)
                    os.pwrite(self._file, secrets.token_bytes(_SECRET_BYTES), 0)
            self._memory = mmap.mmap(self._file, _SIZE)
        self._secret = bytes(self._memory[:_SECRET_BYTES])

    def get(self, name: str) -> float:
        """Return when all failures of a name are forgiven."""
        name_hash, bucket = self._locate(name)
        return next((forgiven_at for _, stored, forgiven_at in self._bucket(bucket) if stored == name_hash), 0.0)

    def add(self, name: str, now: float, seconds: float, max_seconds: float) -> None:
        """
        Extend the time of a name by *seconds*, starting from *now* if it has passed.

        Args:
            max_seconds: the new time is at most this long after *now*.
        """
        name_hash, bucket = self._locate(name)
        with self._locked():
            entries = list(self._bucket(bucket))
            own = [entry for entry in entries if entry[1] == name_hash]
            offset = own[0][0] if own else min(entries, key=lambda entry: entry[2])[0]
            forgiven_at = own[0][2] if own else 0.0
            extended = min(max(forgiven_at, now) + seconds, now + max_seconds)
            _ENTRY.pack_into(self._memory, offset, name_hash, extended)

    def __len__(self) -> int:
        return sum(stored != 0 for bucket in range(_BUCKETS) for _, stored, _ in self._bucket(bucket))

    def _locate(self, name: str) -> tuple[int, int]:
        """Return the hash of a name, which is never 0, and its bucket."""
        digest = hashlib.blake2b(name.encode("utf-8", "replace"), key=self._secret, digest_size=16).digest()
        return int.from_bytes(digest[:8], "little") | 1, int.from_bytes(digest[8:], "little") % _BUCKETS

    def _bucket(self, bucket: int) -> Iterator[tuple[int, int, float]]:
        """Yield offset, hash and time of each entry of a bucket."""
        first = _SECRET_BYTES + bucket * _WAYS * _ENTRY.size
        for offset in range(first, first + _WAYS * _ENTRY.size, _ENTRY.size):
            yield offset, *_ENTRY.unpack_from(self._memory, offset)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file; callers need it for microseconds."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
