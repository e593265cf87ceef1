"""
Waits until changes are on the disk.

Consecutive fsync calls each wait for the disk. On Linux, syncfs(2) writes all pending changes of a file system at once,
which takes as long as one fsync if little else is pending. So a batch waits once, not once for each file.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.file import linux

#: File systems whose syncfs gives the same guarantee as their fsync. Elsewhere, for example in user space, it may be
#: weaker.
_KNOWN: Final = {"btrfs", "ext2", "ext3", "ext4", "xfs"}

#: For fewer files fsync is as fast as syncfs.
_MIN_FILES: Final = 2

#: With more pending bytes than this, from any process of the host, syncfs would take longer than single fsync calls.
_MAX_PENDING_BYTES: Final = 16 * 1024 * 1024

#: Two adjacent lines of /proc/meminfo (proc(5)).
_PENDING: Final = re.compile(rb"^Dirty: +(\d+) kB\nWriteback: +(\d+) kB$", re.MULTILINE)

#: A line of /proc/self/fdinfo/FD (proc(5)).
_MOUNT: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Disk:
    """
    The file system that contains a store.

    Attributes:
        syncs_whole: whether syncfs(2) can be used on it.
    """

    def __init__(self, folder: str, mounts: str = "/proc/self/mountinfo") -> None:
        """
        Args:
            mounts: the kernel's list of mounts (proc(5)).
        """
        self._folder = folder
        self.syncs_whole = filesystem_type(folder, mounts) in _KNOWN and linux.syncfs() is not None

    def sync(self, fds: Sequence[int]) -> None:
        """Wait until these files and folders are on the disk; blocks this thread."""
        if len(fds) >= _MIN_FILES and self._is_syncfs_quick():
            _syncfs(fds[0])
        else:
            for fd in fds:
                os.fsync(fd)

    def sync_all_soon(self) -> bool:
        """Sync the whole file system if little is pending; return whether it was synced; blocks this thread."""
        if not self._is_syncfs_quick():
            return False
        self.sync_all()
        return True

    def sync_all(self) -> None:
        """Sync the whole file system; requires :attr:`syncs_whole`; blocks this thread."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _syncfs(fd)
        finally:
            close_now(fd)

    def _is_syncfs_quick(self) -> bool:
        return self.syncs_whole and _pending_bytes() <= _MAX_PENDING_BYTES


def sync_folder(folder: str) -> None:
    """Wait until the entries of a folder are on the disk; blocks this thread."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        close_now(fd)


def filesystem_type(folder: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """
    Return the type of the file system that contains a folder, such as ``ext4``; None if it cannot be determined.

    Args:
        mounts: the kernel's list of mounts (proc(5)).
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
    """
    Return the kernel's ID of the mount that contains a folder: on Btrfs the device number of a file is not listed among
    the mounts.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = _MOUNT.search(Path(f"/proc/self/fdinfo/{fd}").read_text())
    finally:
        close_now(fd)
    return found[1] if found else None


def _pending_bytes(source: str = "/proc/meminfo") -> float:
    """Return the number of bytes that are still to be written in all file systems; infinity if it is unknown."""
    try:
        fd = os.open(source, os.O_RDONLY)
    except OSError:
        return float("inf")
    try:
        found = _PENDING.search(os.read(fd, 4096))
    finally:
        close_now(fd)
    return float("inf") if found is None else (int(found[1]) + int(found[2])) * 1024


def _syncfs(fd: int) -> None:
    call = linux.syncfs()
    if call is not None and call(fd) != 0:  # callers check Disk.syncs_whole, so it always exists
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
