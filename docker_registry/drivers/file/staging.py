"""
The staging folder: files that are being written, and files and folders that are being removed.

Each entry has a unique name in one of sixteen subfolders, which ext4 spreads over the disk: otherwise creating files
would take half of the time of a small push (:func:`~.linux.spread_subfolders`). The file system chooses the location of
a subfolder by its name, so each store uses its own random names. Leftovers of dead processes are removed by age.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from collections import deque
from contextlib import suppress
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.base import Bytes

#: The minimum number of subfolders. Two processes that create a store at the same time may make more.
_SUBFOLDERS: Final = 16

#: The length of a subfolder's name; the names of all other entries are longer.
_SUBFOLDER_CHARACTERS: Final = 8
_SUBFOLDER: Final = re.compile(f"[0-9a-f]{{{_SUBFOLDER_CHARACTERS}}}")

#: The names of staged files and folders, in the subfolders or, written by older versions, beside them.
_OURS: Final = re.compile("[0-9a-f]{32}")

#: Files that other servers of the same folder read too, such as nginx or another registry.
SHARED: Final = 0o644

#: Keys and passwords.
SECRET: Final = 0o600

#: The key that signs tokens of API V1; earlier versions created it world-readable.
_KEYS: Final = ("docker/registry/v2/_v1/token-key",)

logger = logging.getLogger(__name__)


class Staging:
    """
    A staging folder in the same file system as the store.

    Attributes:
        subfolders: the subfolders in use.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.subfolders: list[str] = []
        self._deferred: deque[str] = deque()

    def prepare(self) -> None:
        """Find the existing subfolders and create the missing ones."""
        self.subfolders = self._found()
        while len(self.subfolders) < _SUBFOLDERS:
            self.subfolders.append(f"{self.folder}/{secrets.token_hex(_SUBFOLDER_CHARACTERS // 2)}")
            os.mkdir(self.subfolders[-1])

    def new(self) -> str:
        """Return an unused path in one of the subfolders."""
        name = os.urandom(16).hex()
        return f"{self.subfolders[int(name[0], 16)]}/{name}"

    def create(self, mode: int = SHARED) -> tuple[str, int]:
        """Create a file; return its path in the file system and its descriptor."""
        location = self.new()
        return location, os.open(location, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def write(self, content: Bytes, *, mode: int = SHARED) -> tuple[str, os.stat_result]:
        """
        Write a small file; return its path in the file system and its metadata.

        Args:
            mode: permission bits of the file.
        """
        location, fd = self.create(mode)
        try:
            write_whole(fd, content)
            return location, os.fstat(fd)
        except BaseException:
            discard(location)
            raise
        finally:
            close_now(fd)

    def defer_removal(self, location: str) -> None:
        """Queue a file in the staging folder for :meth:`remove_deferred`."""
        self._deferred.append(location)

    def remove_deferred(self) -> None:
        """Remove the files queued by :meth:`defer_removal`; blocks this thread."""
        while self._deferred:
            discard(self._deferred.popleft())

    def remove_leftovers(self, before: float) -> int:
        """
        Remove entries that are older than *before*; return their number.

        Args:
            before: seconds since the epoch.
        """
        removed = 0
        subfolders = self._found()
        for folder in (self.folder, *subfolders):
            with os.scandir(folder) as entries:
                for entry in entries:
                    # Compare the change time: a file that was moved here or linked keeps its old modification time.
                    with suppress(FileNotFoundError):
                        if entry.path in subfolders or entry.stat(follow_symlinks=False).st_ctime >= before:
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
                entry.path
                for entry in entries
                if _SUBFOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry beside the subfolders was made by this driver, in this version or an older one."""
    return bool(_OURS.fullmatch(entry.name)) or entry.is_file(follow_symlinks=False)


def write_whole(fd: int, content: Bytes) -> None:
    """Write all of *content* to a file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def discard(location: str, *, is_staged: bool = True) -> None:
    """Remove a file or folder. Errors in the staging folder are ignored: the entry is removed later as a leftover."""
    try:
        _remove(location)
    except OSError:  # usually already moved to its final path
        if not is_staged:
            raise


def _remove(location: str) -> None:
    # shutil.rmtree would close each folder in a separate turn of gevent's event loop.
    try:
        os.unlink(location)
    except IsADirectoryError:
        with os.scandir(location) as entries:
            for entry in entries:
                _remove(entry.path)
        os.rmdir(location)


def mode_of(path: str) -> int:
    """Return the mode of the file for a path of the store: only its owner may read a secret."""
    return SECRET if path in _KEYS or "/_auth/" in path else SHARED


def restrict_keys(root: str) -> None:
    """Remove group and world permissions from keys that an earlier version created."""
    for path in _KEYS:
        location = f"{root}/{path}"
        try:
            found = os.lstat(location)
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                os.chmod(location, SECRET)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
