"""The other end of a connection, in a server on this machine, as the kernel sees it."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from pathlib import Path

#: A state of ``/proc/net/tcp``; the one of a connection that a server has closed is another, or its row is missing.
_ESTABLISHED = "01"


def unread_bytes(connection: socket.socket) -> int:
    """Return how many bytes of a connection the kernel holds for the server."""
    sent = int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    return sent + sum(int(row[4].partition(":")[2], 16) for row in _rows(connection))


def is_open(connection: socket.socket) -> bool:
    """Return whether the server has not closed a connection; its client may still have content to receive."""
    return any(row[3] == _ESTABLISHED for row in _rows(connection))


def _rows(connection: socket.socket) -> list[list[str]]:
    try:
        ends = [f"0100007F:{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname())]
    except OSError:  # reset
        return []
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row for row in rows if row[1:3] == ends]
