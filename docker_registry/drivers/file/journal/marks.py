"""
Checkpoint marks: for each mount session the moment before which no journal entry is needed, in a file of its own.

A file is replaced atomically, and only by a later moment, by any user: commands may run as another user than the
server.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from typing import Final

from docker_registry.concurrency import close_now
from docker_registry.drivers.file.reserved_folder import open_lock
from docker_registry.drivers.file.sync import sync_folder

#: The prefix of the file names.
PREFIX: Final = "checkpoint-"

#: Later than any entry.
END: Final = 2**63

_LOCK: Final = f"{PREFIX}lock"

#: Errors for a missing file, a symbolic link and a socket.
_NO_FILE: Final = {errno.ENOENT, errno.ELOOP, errno.ENXIO}


class Marks:
    """The checkpoint marks in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get(self, session_id: str) -> int:
        """Return the moment of a session; 0 if there is none or the file is invalid."""
        try:
            fd = os.open(self._location(session_id), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _NO_FILE:
                return 0
            raise
        try:
            return int(os.read(fd, 64))
        except (ValueError, IsADirectoryError):
            return 0
        finally:
            close_now(fd)

    def raise_to(self, session_id: str, moment: int) -> None:
        """Set the moment of a session unless its moment is later; blocks this thread until it is on the disk."""
        lock = open_lock(f"{self._folder}/{_LOCK}")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if moment > self.get(session_id):
                self._replace(self._location(session_id), b"%d" % moment)
        finally:
            close_now(lock)

    def drop(self, session_id: str) -> None:
        """Remove the mark of a session."""
        for name in os.listdir(self._folder):
            if name.startswith(f"{PREFIX}{session_id}"):  # also incomplete files left by a crash
                with suppress(IsADirectoryError, PermissionError):  # not a file of the driver, or owned by another user
                    os.unlink(f"{self._folder}/{name}")

    def _replace(self, location: str, content: bytes) -> None:
        written = f"{location}.{secrets.token_hex(4)}"
        fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            close_now(fd)
        os.rename(written, location)
        sync_folder(self._folder)

    def _location(self, session_id: str) -> str:
        return f"{self._folder}/{PREFIX}{session_id}"
