"""
What reaches the disk before a change counts.

One fsync after the other waits for the disk each time. Linux can write everything that waits in a file system at once
(syncfs(2)), which takes as long as one fsync, if there is not much else that waits.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from docker_registry.drivers.file import libc
from docker_registry.threads import close_now

#: File systems whose syncfs promises what their fsync does; elsewhere, as in user space, it may be less.
_KNOWN: Final = {"btrfs", "ext2", "ext3", "ext4", "xfs"}

#: One file alone is synced as fast by itself.
_MIN_FILES: Final = 2

#: When more than this waits to be written, whoever it belongs to, nobody waits for all of it.
_MAX_WAITING_BYTES: Final = 16 * 1024 * 1024

#: Two neighbours in what the kernel tells of its memory (proc(5)).
_WAITING: Final = re.compile(rb"^Dirty: +(\d+) kB\nWriteback: +(\d+) kB$", re.MULTILINE)

#: What the kernel tells of a descriptor (proc(5)).
_MOUNT: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Disk:
    """
    The file system in which a store lies.

    Attributes:
        syncs_whole: whether all of it can be synced at once.
    """

    def __init__(self, folder: str, mounts: str = "/proc/self/mountinfo") -> None:
        """
        Args:
            mounts: the kernel's list of what is mounted where (proc(5)).
        """
        self._folder = folder
        self.syncs_whole = filesystem_type(folder, mounts) in _KNOWN and _syncfs() is not None

    def sync(self, fds: Sequence[int]) -> None:
        """Wait until these files and folders are on the disk; blocks this thread."""
        if len(fds) >= _MIN_FILES and self._syncs_whole_soon():
            _sync_whole(fds[0])
        else:
            for fd in fds:
                os.fsync(fd)

    def sync_all_soon(self) -> bool:
        """Wait until everything is on the disk, if not much waits; tell whether that was so; blocks this thread."""
        if not self._syncs_whole_soon():
            return False
        self.sync_all()
        return True

    def sync_all(self) -> None:
        """Wait until everything is on the disk, where :attr:`syncs_whole`; blocks this thread."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _sync_whole(fd)
        finally:
            close_now(fd)

    def _syncs_whole_soon(self) -> bool:
        return self.syncs_whole and _waiting_bytes() <= _MAX_WAITING_BYTES


def filesystem_type(folder: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """
    Return the type of the file system in which a folder lies, such as ``ext4``; None where it cannot be told.

    Args:
        mounts: the kernel's list of what is mounted where (proc(5)).
    """
    try:
        mount, lines = _mount(folder), Path(mounts).read_text().splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if fields[0] == mount:
            return fields[fields.index("-") + 1]
    return None


def _mount(folder: str) -> str | None:
    """Return the kernel's number of a mount; by their devices Btrfs's files are not found among the mounts."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = _MOUNT.search(Path(f"/proc/self/fdinfo/{fd}").read_text())
    finally:
        close_now(fd)
    return found[1] if found else None


def _waiting_bytes(source: str = "/proc/meminfo") -> float:
    """Return how much of all file systems waits to be written; infinitely much where nobody tells."""
    try:
        fd = os.open(source, os.O_RDONLY)
    except OSError:
        return float("inf")
    try:
        found = _WAITING.search(os.read(fd, 4096))
    finally:
        close_now(fd)
    return float("inf") if found is None else (int(found[1]) + int(found[2])) * 1024


def _sync_whole(fd: int) -> None:
    call = _syncfs()
    if call is not None:  # as nobody asks for it where there is none
        call(fd)


@lru_cache(maxsize=1)
def _syncfs() -> Callable[[int], None] | None:
    call = libc.find("syncfs", ctypes.c_int)
    if call is None:
        return None

    def syncfs(fd: int) -> None:
        if call(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return syncfs
