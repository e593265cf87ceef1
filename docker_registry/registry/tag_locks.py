"""
Per-tag locks, for stores without conditional writes.

In such a store, checking whether a client may move a tag and moving it are separate steps. A lock makes the two atomic
among all workers of a server, but not among several hosts that share the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.registry.names import RepositoryName, Tag

#: Time between attempts to take a lock that another process holds. A blocking fcntl call would stop the event loop.
_RETRY_SECONDS: Final = 0.005

#: Number of different byte offsets. Two tags with the same offset share a lock, which costs time but is safe.
_OFFSETS: Final = 2**40


class TagLocks:
    """
    Exclusive locks by repository and tag.

    They are effective within this process and, after :meth:`share`, among all processes that use the same file. The
    kernel releases the file locks of a process that dies.
    """

    def __init__(self) -> None:
        self._locks = KeyedLocks()
        self._path: Path | None = None
        self._file: int | None = None
        self._opened_by = 0

    def share(self, path: Path) -> None:
        """
        Share the locks with other processes through a file.

        Args:
            path: created when the first lock is taken. It stays empty: each lock covers one byte offset beyond its end.
        """
        self._path = path

    @contextmanager
    def hold(self, name: RepositoryName, tags: Iterable[Tag]) -> Iterator[None]:
        """Hold the locks of *tags* during the block, waiting for them if necessary; not reentrant."""
        offsets = sorted({_offset(name, tag) for tag in tags})  # the same order everywhere prevents deadlocks
        with ExitStack() as held:
            for offset in offsets:
                held.enter_context(self._locks.hold(offset))  # fcntl locks do not exclude greenlets of one process
                held.enter_context(self._hold_in_file(offset))
            yield

    @contextmanager
    def _hold_in_file(self, offset: int) -> Iterator[None]:
        if self._path is None:
            yield
            return
        if self._file is None or self._opened_by != os.getpid():
            self._file, self._opened_by = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), os.getpid()
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                break
            except (BlockingIOError, PermissionError):  # held by another process: EAGAIN or EACCES, fcntl(2)
                time.sleep(_RETRY_SECONDS)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)


def _offset(name: RepositoryName, tag: Tag) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}:{tag}".encode()).digest()[:8], "big") % _OFFSETS
