"""
Where files lie on their way: those that are being written, and those that are being removed.

Each has a name that nobody else can have, in one of sixteen folders, which may lie apart on the disk
(:mod:`~docker_registry.drivers.file.spreading`). What processes that died have left here is removed by age.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import Bytes
from docker_registry.threads import close_now

#: What the folders are called, and names in them begin with.
_PARTS: Final = "0123456789abcdef"


class Aside:
    """A folder in the same file system as the store."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts = [f"{folder}/{part}" for part in _PARTS]

    def new(self) -> str:
        """Return a place where nothing lies."""
        name = secrets.token_hex(16)
        return f"{self.folder}/{name[0]}/{name}"

    def create(self) -> tuple[str, int]:
        """Begin a file; return its place and its descriptor."""
        place = self.new()
        return place, os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def write(self, content: Bytes, *, sync: bool = False) -> str:
        """
        Write a small file whole; return its place.

        Args:
            sync: wait until its content is on the disk.
        """
        place, fd = self.create()
        try:
            write_whole(fd, content)
            if sync:
                os.fsync(fd)
        except BaseException:
            discard(place)
            raise
        finally:
            close_now(fd)
        return place

    def remove_leftovers(self, before: float) -> int:
        """
        Remove what has lain here for long.

        Args:
            before: seconds since the epoch.
        """
        removed = 0
        for folder in (self.folder, *self.parts):
            with os.scandir(folder) as entries:
                for entry in entries:
                    # Not the time of modification: what is removed or linked was brought here with an old one.
                    with suppress(FileNotFoundError):
                        if entry.path not in self.parts and entry.stat(follow_symlinks=False).st_ctime < before:
                            discard(entry.path)
                            removed += 1
        return removed


def write_whole(fd: int, content: Bytes) -> None:
    """Write a content to a file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def discard(place: str, *, is_aside: bool = True) -> None:
    """Remove a file or a folder; what lies aside and cannot be removed now is a leftover, like those of the dead."""
    try:
        _remove(place)
    except OSError:  # most often it has been brought to its path already
        if not is_aside:
            raise


def _remove(place: str) -> None:
    # Not by shutil.rmtree, which closes each folder by a turn of gevent's event loop.
    try:
        os.unlink(place)
    except IsADirectoryError:
        with os.scandir(place) as entries:
            for entry in entries:
                _remove(entry.path)
        os.rmdir(place)
