"""
Up to when nothing of the journals is needed any more: a moment for each boot of the kernel, in a file of its own.

A file is replaced whole and only by a later moment, whoever has written it: commands may be run by another user than
the server.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import Final

from docker_registry.drivers.file.journal_file import sync_folder
from docker_registry.threads import close_now

#: How the files are called.
PREFIX: Final = "checkpoint-"

#: Later than any entry.
END: Final = 2**63

_LOCK: Final = f"{PREFIX}lock"


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
            return int(os.read(fd, 64))
        finally:
            close_now(fd)

    def raise_to(self, boot_id: str, moment: int) -> None:
        """Set the moment of a boot, unless it is a later one; blocks this thread until it is on the disk."""
        lock = os.open(f"{self._folder}/{_LOCK}", os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if moment > self.get(boot_id):
                self._replace(self._place(boot_id), b"%d" % moment)
        finally:
            close_now(lock)

    def drop(self, boot_id: str) -> None:
        """Forget a boot."""
        for name in os.listdir(self._folder):
            if name.startswith(f"{PREFIX}{boot_id}"):  # also what a crash has left half-written
                os.unlink(f"{self._folder}/{name}")

    def _replace(self, place: str, content: bytes) -> None:
        written = f"{place}.{secrets.token_hex(4)}"
        fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            close_now(fd)
        os.rename(written, place)
        sync_folder(self._folder)

    def _place(self, boot_id: str) -> str:
        return f"{self._folder}/{PREFIX}{boot_id}"
