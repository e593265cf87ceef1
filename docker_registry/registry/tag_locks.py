"""
Locks of tags, for stores without conditional writes.

There the check whether a client may move a tag and the change of the tag are two steps. A lock makes them one for all
workers of a server. Several hosts that share such a store are not protected from each other.
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

from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.names import RepositoryName, Tag

#: How often a lock that another worker holds is tried again: waiting for it would stop the event loop.
_RETRY_SECONDS: Final = 0.005

_POSITIONS: Final = 2**40


class TagLocks:
    """Locks by repository and tag: in this process, and with a shared file in all processes that share it."""

    def __init__(self) -> None:
        self._locks = KeyedLocks()
        self._path: Path | None = None
        self._file: int | None = None
        self._opened_by = 0

    def share(self, path: Path) -> None:
        """Share the locks with other processes through a file, of which each lock is one byte."""
        self._path = path

    @contextmanager
    def hold(self, name: RepositoryName, tags: Iterable[Tag]) -> Iterator[None]:
        """Hold the locks of some tags during the block; not reentrant."""
        positions = sorted({_position(name, tag) for tag in tags})  # in one order, so that there is no deadlock
        with ExitStack() as held:
            for position in positions:
                held.enter_context(self._locks.hold(position))
                held.enter_context(self._shared(position))
            yield

    @contextmanager
    def _shared(self, position: int) -> Iterator[None]:
        if self._path is None:
            yield
            return
        if self._file is None or self._opened_by != os.getpid():
            self._file, self._opened_by = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), os.getpid()
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
                break
            except (BlockingIOError, PermissionError):
                time.sleep(_RETRY_SECONDS)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, position)


def _position(name: RepositoryName, tag: Tag) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}:{tag}".encode()).digest()[:8], "big") % _POSITIONS
