"""
Up to when nothing of the journals is needed any more: a moment for each boot of the kernel, in a file of its own.

The file holds two, which are written in turns. So one is whole whatever becomes of a write, and it only ever grows.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from typing import Final

from docker_registry.drivers.file.journal_file import sync_folder
from docker_registry.threads import close_now

#: How the files are called.
PREFIX: Final = "checkpoint-"

#: Later than any entry.
END: Final = 2**63

#: Magic, moment, checksum of both.
_MARK: Final = struct.Struct(">8sQI")
_MAGIC: Final = b"checkpt1"
_PLACES: Final = (0, 4096)


class Marks:
    """What lies in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get(self, boot_id: str) -> int:
        """Return the moment of a boot; 0 where there is none."""
        try:
            fd = os.open(self._place(boot_id), os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return max(_read(fd))
        finally:
            close_now(fd)

    def raise_to(self, boot_id: str, moment: int) -> None:
        """Set the moment of a boot, unless it is a later one; blocks this thread until it is on the disk."""
        fd = os.open(self._place(boot_id), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            moments = _read(fd)
            if moment <= max(moments):
                return
            fields = _MARK.pack(_MAGIC, moment, 0)[:-4]
            os.pwrite(fd, fields + zlib.crc32(fields).to_bytes(4, "big"), _PLACES[moments.index(min(moments))])
            os.fsync(fd)
            if not max(moments):
                sync_folder(self._folder)
        finally:
            close_now(fd)

    def drop(self, boot_id: str) -> None:
        """Forget a boot."""
        os.unlink(self._place(boot_id))

    def _place(self, boot_id: str) -> str:
        return f"{self._folder}/{PREFIX}{boot_id}"


def _read(fd: int) -> list[int]:
    moments = []
    for place in _PLACES:
        found = os.pread(fd, _MARK.size, place)
        magic, moment, checksum = _MARK.unpack(found.ljust(_MARK.size, b"\0"))
        moments.append(moment if magic == _MAGIC and checksum == zlib.crc32(found[:-4]) else 0)
    return moments
