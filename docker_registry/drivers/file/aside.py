"""
Where files lie on their way: those that are being written, and those that are being removed.

Each has a name that nobody else can have, in one of sixteen folders, which may lie apart on the disk
(:mod:`~docker_registry.drivers.file.spreading`). Where a folder lies follows from its name, so each store has names of
its own for them. Where many files were just removed it can take ten times as long to make one, so a file is made in one
of those folders where that was quick the last time. What processes that died have left here is removed by age.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections import deque
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.modes import SHARED
from docker_registry.threads import close_now

#: How many folders there are at least; two processes that begin a store at once may make more.
_PARTS: Final = 16

#: Characters of their names; those of everything else are longer.
_PART_CHARACTERS: Final = 8
_PART: Final = re.compile(f"[0-9a-f]{{{_PART_CHARACTERS}}}")

#: How what is written or removed is called, in those folders or, by older versions, beside them.
_OURS: Final = re.compile("[0-9a-f]{32}")

#: So many folders are drawn for a file, and the quickest is taken.
_DRAWN: Final = 4

logger = logging.getLogger(__name__)


class Aside:
    """
    A folder in the same file system as the store.

    Attributes:
        parts: the folders in it that are used.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts: list[str] = []
        self._seconds: dict[str, float] = {}  # that it took to make a file, the last time
        self._left: deque[str] = deque()

    def prepare(self) -> None:
        """Find the folders in it, or make them."""
        self.parts = self._found()
        while len(self.parts) < _PARTS:
            self.parts.append(f"{self.folder}/{secrets.token_hex(_PART_CHARACTERS // 2)}")
            os.mkdir(self.parts[-1])

    def new(self) -> str:
        """Return a place where nothing lies."""
        name = secrets.token_hex(16)
        drawn = [self.parts[int(digit, 16)] for digit in name[:_DRAWN]]
        return f"{min(drawn, key=lambda part: self._seconds.get(part, 0.0))}/{name}"

    def create(self, mode: int = SHARED) -> tuple[str, int]:
        """Begin a file; return its place and its descriptor."""
        place = self.new()
        began = time.perf_counter()
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        self._seconds[place.rpartition("/")[0]] = time.perf_counter() - began
        return place, fd

    def write(self, content: Bytes, *, sync: bool = False, mode: int = SHARED) -> str:
        """
        Write a small file whole; return its place.

        Args:
            mode: of the file.
            sync: wait until its content is on the disk.
        """
        return self.write_and_stat(content, sync=sync, mode=mode)[0]

    def write_and_stat(self, content: Bytes, *, sync: bool = False, mode: int = SHARED) -> tuple[str, os.stat_result]:
        """Write a small file whole as :meth:`write` does; return its place and what it is."""
        place, fd = self.create(mode)
        try:
            write_whole(fd, content)
            if sync:
                os.fsync(fd)
            return place, os.fstat(fd)
        except BaseException:
            discard(place)
            raise
        finally:
            close_now(fd)

    def leave(self, place: str) -> None:
        """Leave a file here until there is time to remove it."""
        self._left.append(place)

    def remove_left(self) -> None:
        """Remove what was left here; blocks this thread."""
        while self._left:
            discard(self._left.popleft())

    def remove_leftovers(self, before: float) -> int:
        """
        Remove what has lain here for long.

        Args:
            before: seconds since the epoch.
        """
        removed = 0
        parts = self._found()
        for folder in (self.folder, *parts):
            with os.scandir(folder) as entries:
                for entry in entries:
                    # Not the time of modification: what is removed or linked was brought here with an old one.
                    with suppress(FileNotFoundError):
                        if entry.path in parts or entry.stat(follow_symlinks=False).st_ctime >= before:
                            continue
                        if folder == self.folder and not _is_ours(entry):
                            logger.warning("%s is not the registry's own; it is left as it is.", entry.path)
                            continue
                        discard(entry.path)
                        removed += 1
        return removed

    def _found(self) -> list[str]:
        with os.scandir(self.folder) as entries:
            return [
                entry.path for entry in entries if _PART.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Tell whether what lies beside the folders was put there by the driver, of this version or an older one."""
    return bool(_OURS.fullmatch(entry.name)) or entry.is_file(follow_symlinks=False)


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
