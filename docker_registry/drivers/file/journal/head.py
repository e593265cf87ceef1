"""
The header of a journal file: the mount session in which it was written, and where it was created.

A journal that was copied with its folder keeps its header, but a copy has another inode and another creation time. So
the header tells whether the entries belong to this tree.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final, NamedTuple

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.journal.mount_session import MountSession
from docker_registry.drivers.file.linux import creation_time

#: The space that the header takes at the start of the file.
HEAD_BYTES: Final = 4096

#: Magic, ID and start of the mount session (:class:`~.mount_session.MountSession`), then where the journal was created:
#: inode number and creation time of the file and of its folder. A checksum follows.
_HEAD: Final = struct.Struct(">8s32sQQQQQ")
_MAGIC: Final = b"journal2"

#: The header of older versions: magic, ID of the kernel's boot, and time of the boot.
_OLD_HEAD: Final = struct.Struct(">8s36sQ")
_OLD_MAGIC: Final = b"journal1"

#: The prefix of the magic of any version.
_ANY_MAGIC: Final = b"journal"

_CHECKSUM_BYTES: Final = 4


class Head(NamedTuple):
    """
    The header of a journal.

    Attributes:
        session: the mount session in which the journal was written; in journals of older versions, the boot of the
            kernel.
        origin: where it was created, from :func:`_origin`; None in journals of older versions.
    """

    session: MountSession
    origin: tuple[int, ...] | None = None


class UnknownVersion(Exception):
    """The journal was written by a newer version of the registry."""


def make_head(session: MountSession, fd: int, folder: str) -> bytes:
    """Return the header of a journal that is being created in *folder*, with the descriptor *fd*."""
    fields = _HEAD.pack(_MAGIC, session.id.encode(), session.began, *_origin(fd, folder))
    return _sealed(fields).ljust(HEAD_BYTES, b"\0")


def read_head(fd: int) -> Head | None:
    """
    Return the header of a journal; None if the file is not a journal.

    Raises:
        UnknownVersion: the journal was written by a newer version.
    """
    read = os.pread(fd, _HEAD.size + _CHECKSUM_BYTES, 0)
    if read.startswith(_MAGIC) and read == _sealed(read[: _HEAD.size]):
        _, session, began, *origin = _HEAD.unpack_from(read)
        return Head(MountSession(session.decode(), began), tuple(origin))
    old = read[: _OLD_HEAD.size + _CHECKSUM_BYTES]
    if old.startswith(_OLD_MAGIC) and old == _sealed(old[: _OLD_HEAD.size]):
        _, boot, began = _OLD_HEAD.unpack_from(old)
        return Head(MountSession(boot.decode(), began))
    magic = read[: len(_MAGIC)]
    is_journal = magic.startswith(_ANY_MAGIC) and len(magic) == len(_MAGIC)
    if is_journal and magic not in (_MAGIC, _OLD_MAGIC):
        raise UnknownVersion
    return None


def was_created_in(head: Head, fd: int, folder: str) -> bool:
    """Return whether a journal was created in this folder and is not a copy."""
    return head.origin is None or head.origin == _origin(fd, folder)


def _origin(fd: int, folder: str) -> tuple[int, int, int, int]:
    """Return inode number and creation time of a file and of its folder; a copy never has the same values."""
    with_folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.fstat(fd).st_ino, creation_time(fd), os.fstat(with_folder).st_ino, creation_time(with_folder)
    finally:
        close_now(with_folder)


def _sealed(fields: bytes) -> bytes:
    """Return *fields* followed by their checksum."""
    return fields + zlib.crc32(fields).to_bytes(_CHECKSUM_BYTES, "big")
