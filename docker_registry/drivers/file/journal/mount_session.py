"""
Mount sessions: whether the kernel still has everything that was written to the file system of a store.

Written data is in the page cache before it is on the disk. The page cache belongs to one mounted file system, that is
to its superblock in the kernel's memory, and is lost with it: by a crash of the host, but also when a file system that
stopped after an I/O error is unmounted, repaired and mounted again, or when a snapshot of its disk is attached.

A mount session is a period during which one superblock is proven to have existed without interruption. Every process
that opens a store joins the current session, or begins a new one if nothing proves that the last one continues. The
proof is one of two:

* another process of the session is alive. Each holds a shared flock on the file ``session`` as long as it lives, and
  processes see each other's locks only within one superblock.
* the superblock has the same identity as when the session began (:func:`superblock_id`).

Without either proof a new session begins. Journals of the last one are then replayed, which is always safe but
sometimes unnecessary (:mod:`~docker_registry.drivers.file.journal.replay`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
import struct
import time
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.reserved_folder import not_a_lock
from docker_registry.drivers.file.sync import filesystem_type

#: The session file, and the prefix of incomplete ones that a killed process may have left.
NAME: Final = "session"
TEMPORARY_PREFIX: Final = f"{NAME}."

#: A larger file is not a session file.
_MAX_BYTES: Final = 4096

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

#: From this kernel version on, sysfs does not reuse inode numbers between two boots (64 bits, cyclic).
_MIN_KERNEL: Final = (5, 5)

#: The folder of /sys/fs that has a subfolder for each superblock, by type of file system; ext4 serves ext2 and ext3
#: too.
_SYSFS_FOLDERS: Final = {"btrfs": "btrfs", "ext2": "ext4", "ext3": "ext4", "ext4": "ext4", "xfs": "xfs"}

#: BTRFS_IOC_FS_INFO (linux/btrfs.h): max_id, num_devices, fsid, and more.
_BTRFS_FS_INFO: Final = 2 << 30 | 1024 << 16 | 0x94 << 8 | 31
_BTRFS_FSID: Final = struct.Struct("=QQ16s")


class MountSession(NamedTuple):
    """
    A mount session.

    Attributes:
        id: 32 hexadecimal digits.
        began: nanoseconds since the epoch.
    """

    id: str
    began: int


class Membership:
    """
    The membership of this process in a session, which continues at least until the membership is closed.

    Attributes:
        ended: the ID of the previous session if this one replaced it; None otherwise.
    """

    def __init__(self, session: MountSession, fd: int, ended: str | None = None) -> None:
        """
        Args:
            fd: descriptor of the session file, which holds the shared lock.
        """
        self.session = session
        self.ended = ended
        self.close = weakref.finalize(self, close_now, fd)


def join(folder: str, superblock: str | None) -> Membership:
    """
    Join the session of a store, or begin a new one.

    The caller excludes other processes that join or change files meanwhile, and has not changed any file yet.

    Args:
        folder: the folder of the session file.
        superblock: from :func:`superblock_id`.

    Raises:
        StorageError: something else than a file has its name.
    """
    location = f"{folder}/{NAME}"
    try:
        fd = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _begin(folder, superblock)
    except OSError as error:
        raise not_a_lock(location, error) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise not_a_lock(location, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
        session, its_superblock = _read(fd)
        if session is not None and (_others_hold(fd) or its_superblock == superblock is not None):
            fcntl.flock(fd, fcntl.LOCK_SH)
            return Membership(session, fd)
    except BaseException:
        close_now(fd)
        raise
    close_now(fd)
    return _begin(folder, superblock, ended=None if session is None else session.id)


def superblock_id(folder: str) -> str | None:
    """
    Return a text that identifies a superblock; None if it cannot be determined.

    No other superblock has the same text, nor does the same file system after it is mounted again. The text contains
    the ID of the kernel's boot and the inode number of the file system's folder in sysfs, which exists while it is
    mounted (Documentation/ABI/testing/sysfs-fs-ext4, -xfs, -btrfs). Containers see the same text.
    """
    try:
        version = tuple(int(part) for part in os.uname().release.split(".")[:2])
        location = _sysfs_folder(folder)
        if version < _MIN_KERNEL or location is None or filesystem_type(location) != "sysfs":
            return None
        return f"{_BOOT_ID.read_text().strip()} {location} {os.stat(location).st_ino}"
    except (OSError, ValueError):
        return None


def _sysfs_folder(folder: str) -> str | None:
    kind = filesystem_type(folder)
    if kind not in _SYSFS_FOLDERS:
        return None
    if kind == "btrfs":
        name = _btrfs_id(folder)
    else:
        device = os.stat(folder).st_dev
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    return f"/sys/fs/{_SYSFS_FOLDERS[kind]}/{name}"


def _btrfs_id(folder: str) -> str:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _, _, fsid = _BTRFS_FSID.unpack_from(fcntl.ioctl(fd, _BTRFS_FS_INFO, bytes(1024)))
    finally:
        close_now(fd)
    return str(uuid.UUID(bytes=fsid))


def _begin(folder: str, superblock: str | None, ended: str | None = None) -> Membership:
    session = MountSession(secrets.token_hex(16), time.time_ns())
    text = json.dumps({**session._asdict(), "superblock": superblock})
    temporary = f"{folder}/{TEMPORARY_PREFIX}{session.id}"
    # Create a new file, because another user may own the old one. It need not be on the disk: after a crash the old or
    # new file names no superblock that exists.
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(fd, text.encode())
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.rename(temporary, f"{folder}/{NAME}")
    except BaseException:
        close_now(fd)
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return Membership(session, fd, ended)


def _read(fd: int) -> tuple[MountSession | None, str | None]:
    """Return the session in the file, and the identity of its superblock."""
    try:
        found: Any = json.loads(os.read(fd, _MAX_BYTES))
        session = MountSession(str(found["id"]), int(found["began"]))
        return session, None if found["superblock"] is None else str(found["superblock"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _others_hold(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
