"""Locks that single changes of a path take, among threads, processes and hosts that share the file system."""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from docker_registry.threads import close_now


class Locks:
    """
    A folder with 64 files; which of them is a path's follows from its checksum.

    Nobody holds one for long. Many more would only take longer to be made, each when it is first needed.
    """

    def __init__(self, folder: str) -> None:
        self._places = [f"{folder}/{number:02x}" for number in range(64)]

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Hold the locks of these paths; blocks this thread."""
        held: list[int] = []
        try:
            # Always in one order, so that no two wait for each other.
            for place in sorted({self._places[zlib.crc32(path.encode()) & 63] for path in paths}):
                held.append(_open(place))
                fcntl.flock(held[-1], fcntl.LOCK_EX)
            yield
        finally:
            for fd in held:
                close_now(fd)


def _open(place: str) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:  # another user has made it; only NFS must be able to write what it locks
        return os.open(place, os.O_RDONLY)
