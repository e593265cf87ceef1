"""A client's socket, as the worker needs it: the kernel sends files, and heads are looked at before gunicorn does."""

from __future__ import annotations

import errno
import os
import socket as plain_socket
from typing import Any, Final

import gevent
from gevent import socket

#: Sent in one system call at most, so that other greenlets get their turn in between.
SLICE_BYTES: Final = 4 * 1024 * 1024

#: A body, or the first block of it, that is joined with its head; a longer one costs more to copy than to send alone.
JOINED_BYTES: Final = 64 * 1024

#: What gunicorn receives at once of a head.
_HEAD_BYTES: Final = 8192

#: A longer answer is not copied: to send it costs more than to make it.
MAX_COPY_BYTES: Final = 64 * 1024


class TransferSocket(socket.socket):
    """
    A client's socket, whose sendfile lets the kernel do the work while other greenlets run.

    Attributes:
        address: of the client, as the access log shows it.
        file_bytes: what was sent of files; gunicorn does not count it.
        head: of the request under way, if it came at once; what came with it is part of it.
        unreader: gunicorn's, which may hold what was received of the next request.
        logged: what the access log said of the last answer.
    """

    address = ""
    file_bytes = 0
    head: bytes | None = None
    unreader: Any = None
    logged: dict[str, Any] | None = None
    _ahead: bytes | None = None
    _copy: bytearray | None = None
    _holds_next = False
    _held = b""

    def receive_head(self) -> bytes | None:
        """Receive the beginning of the next request; None when gunicorn holds it already."""
        self.head = None
        if self.unreader is not None and self.unreader.buf.getbuffer().nbytes:
            return None
        return bytes(super().recv(_HEAD_BYTES))

    @property
    def has_head(self) -> bool:
        """Whether the head of the next request was received whole, and nothing before it."""
        return self._ahead is not None and b"\r\n\r\n" in self._ahead and not self._ahead.startswith(b"\r\n")

    def give_head(self, received: bytes) -> None:
        """Let gunicorn have what was received, as if it came now; nothing is the end of the connection."""
        self.head = self._ahead = received

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, after what was received ahead."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        self.head = None  # more than came at once
        return bytes(super().recv(size, flags))

    def begin_copy(self) -> None:
        """Keep a copy of what is sent from now on."""
        self._copy = bytearray()

    def end_copy(self) -> bytes | None:
        """Return what was sent meanwhile; None when it is too long, or was a file."""
        copied, self._copy = self._copy, None
        return None if copied is None else bytes(copied)

    def begin_answer(self) -> None:
        """Keep what is sent next, the head of an answer, until there is more to be sent with it."""
        self._holds_next = True

    def end_answer(self) -> None:
        """Send what is kept: there is no more."""
        self._holds_next = False
        if self._held:
            head, self._held = self._held, b""
            self._send_all(head, 0)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*, after the head of the answer if that was kept."""
        if self._copy is not None:
            if len(self._copy) + len(data) > MAX_COPY_BYTES:
                self._copy = None
            else:
                self._copy += data
        if self._holds_next:
            self._holds_next = False
            self._held = bytes(data)
            return
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= JOINED_BYTES:
                data = head + bytes(data)
            else:
                super().sendall(head, plain_socket.MSG_MORE)
        self._send_all(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file.

        Raises:
            OSError: the client went away or stopped reading, or the file is shorter than was announced.
        """
        self._copy = None
        if self._held:
            head, self._held = self._held, b""
            super().sendall(head, plain_socket.MSG_MORE)  # the kernel waits for the file's first bytes
        source, target = file.fileno(), self.fileno()
        left = os.fstat(source).st_size - offset if count is None else count
        sent = 0
        while sent < left:
            try:
                size = os.sendfile(target, source, offset + sent, min(left - sent, SLICE_BYTES))
            except BlockingIOError:
                socket.wait_write(target, timeout=self.gettimeout())
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            self.file_bytes += size
            gevent.sleep(0)
        return sent

    def _send_all(self, data: Any, flags: int) -> None:
        sent = super().send(data, flags)  # nearly always all of it, in one call of the system
        if sent < len(data):
            super().sendall(memoryview(data)[sent:], flags)
