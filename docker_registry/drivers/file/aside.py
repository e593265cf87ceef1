"""
The staging folder: files that are being written, and files and folders that are being removed.

Each entry has a unique name in one of sixteen subfolders, which may lie far apart on the disk
(:mod:`~docker_registry.drivers.file.spreading`). The file system chooses the location of a subfolder by its name, so
each store uses its own random names. Leftovers of dead processes are removed by age.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections import deque
from contextlib import suppress
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.file.folders import SHARED

#: The minimum number of subfolders. Two processes that create a store at the same time may make more.
_PARTS: Final = 16

#: The length of a subfolder's name; the names of all other entries are longer.
_PART_CHARACTERS: Final = 8
_PART: Final = re.compile(f"[0-9a-f]{{{_PART_CHARACTERS}}}")

#: The names of staged files and folders, in the subfolders or, written by older versions, beside them.
_OURS: Final = re.compile("[0-9a-f]{32}")

logger = logging.getLogger(__name__)


class Aside:
    """
    A staging folder in the same file system as the store.

    Attributes:
        parts: the subfolders in use.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts: list[str] = []
        self._left: deque[str] = deque()

    def prepare(self) -> None:
        """Find the existing subfolders and create the missing ones."""
        self.parts = self._found()
        while len(self.parts) < _PARTS:
            self.parts.append(f"{self.folder}/{secrets.token_hex(_PART_CHARACTERS // 2)}")
            os.mkdir(self.parts[-1])

    def new(self) -> str:
        """Return an unused path in one of the subfolders."""
        name = secrets.token_hex(16)
        return f"{self.parts[int(name[0], 16)]}/{name}"

    def create(self, mode: int = SHARED) -> tuple[str, int]:
        """Create a file; return its path in the file system and its descriptor."""
        place = self.new()
        return place, os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def write(self, content: Bytes, *, sync: bool = False, mode: int = SHARED) -> str:
        """
        Write a small file; return its path in the file system.

        Args:
            mode: permission bits of the file.
            sync: wait until its content is on the disk.
        """
        return self.write_and_stat(content, sync=sync, mode=mode)[0]

    def write_and_stat(self, content: Bytes, *, sync: bool = False, mode: int = SHARED) -> tuple[str, os.stat_result]:
        """Write a small file as :meth:`write` does; return its path in the file system and its metadata."""
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
        """Queue a file in the staging folder for :meth:`remove_left`."""
        self._left.append(place)

    def remove_left(self) -> None:
        """Remove the files queued by :meth:`leave`; blocks this thread."""
        while self._left:
            discard(self._left.popleft())

    def remove_leftovers(self, before: float) -> int:
        """
        Remove entries that are older than *before*; return their number.

        Args:
            before: seconds since the epoch.
        """
        removed = 0
        parts = self._found()
        for folder in (self.folder, *parts):
            with os.scandir(folder) as entries:
                for entry in entries:
                    # Compare the change time: a file that was moved here or linked keeps its old modification time.
                    with suppress(FileNotFoundError):
                        if entry.path in parts or entry.stat(follow_symlinks=False).st_ctime >= before:
                            continue
                        if folder == self.folder and not _is_ours(entry):
                            logger.warning("%s is not a file of the registry; it is left unchanged.", entry.path)
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
    """Return whether an entry beside the subfolders was made by this driver, in this version or an older one."""
    return bool(_OURS.fullmatch(entry.name)) or entry.is_file(follow_symlinks=False)


def write_whole(fd: int, content: Bytes) -> None:
    """Write all of *content* to a file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def discard(place: str, *, is_aside: bool = True) -> None:
    """Remove a file or folder. Errors in the staging folder are ignored: the entry is removed later as a leftover."""
    try:
        _remove(place)
    except OSError:  # usually already moved to its final path
        if not is_aside:
            raise


def _remove(place: str) -> None:
    # shutil.rmtree would close each folder in a separate turn of gevent's event loop.
    try:
        os.unlink(place)
    except IsADirectoryError:
        with os.scandir(place) as entries:
            for entry in entries:
                _remove(entry.path)
        os.rmdir(place)
