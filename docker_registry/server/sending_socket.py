"""
How responses are sent: files by the kernel's sendfile, and a response head together with the beginning of its body.

What is sent can be copied for the response cache.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import FileIO
from typing import Any, Final

import gevent
from gevent import socket

from docker_registry.dependencies import Signature, signature_of
from docker_registry.errors import RegistryError, StorageError
from docker_registry.resources.memory_budget import MemoryBudget

#: Maximum size of one send. A pull of 1 GiB takes 0.7 times as long as with 4 MiB, which exceeds the processor's cache;
#: 64 KiB is slower again.
SLICE_BYTES: Final = 256 * 1024

#: Bytes sent to one client before other greenlets run, even if that client could receive more.
_TURN_BYTES: Final = 1024 * 1024

#: Maximum size of a body, or of its first block, that is joined with the head. Copying a longer one costs more than a
#: second system call.
JOINED_BYTES: Final = 64 * 1024

#: Maximum size of a response that is copied for the cache; sending a longer one costs more than computing it.
MAX_COPY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileSlice:
    """
    A part of a file that was sent as a response body.

    Attributes:
        signature: of the file when it was sent.
        offset, length: bytes.
    """

    signature: Signature
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredBody:
    """
    A response body that was read from a remote store.

    Attributes:
        read: opens it again, and returns its blocks; may block.
        length: bytes.
    """

    read: Callable[[], Iterator[bytes]]
    length: int


class SendingSocket(socket.socket):
    """
    The sending half of a client's socket.

    Attributes:
        file_bytes: bytes sent by :meth:`sendfile`, which gunicorn does not count.
        sends_segments: whether :meth:`sendfile` accepts files with segments.
        answered_at: when the head of the last response was ready to be sent, in seconds of :func:`time.perf_counter`.
        unsent: memory budget for response bytes that slow clients have not received yet, shared by all connections.
    """

    file_bytes = 0
    sends_segments = True
    answered_at = 0.0
    unsent: MemoryBudget | None = None
    _copy: bytearray | None = None
    _copied_body: FileSlice | StoredBody | None = None
    _held = b""
    _sent_bytes = 0
    _is_sending = False
    _more = 0  # flag for send when more data follows immediately

    def end(self) -> None:
        """End the connection without blocking, and interrupt any wait for the client."""
        raise NotImplementedError

    def begin_copy(self) -> None:
        """Start to copy everything that is sent, until :meth:`end_copy`."""
        self._copy, self._copied_body = bytearray(), None

    def end_copy(self) -> tuple[bytes | None, FileSlice | StoredBody | None]:
        """
        Return what was sent since :meth:`begin_copy`: bytes, and where the body that followed them can be read again.

        The bytes are None if they exceed MAX_COPY_BYTES or if the response cannot be repeated from the copy.
        """
        copied, self._copy = self._copy, None
        return None if copied is None else bytes(copied), self._copied_body

    def send_head(self, head: bytes) -> None:
        """Send a response head together with what is sent next, or at :meth:`end_answer`."""
        if self._copy is not None:
            self._copy_bytes(head)
        self._held = head
        self.answered_at = time.perf_counter()

    def end_answer(self) -> None:
        """Send the response head if it is still held back because the response has no body."""
        if self._held:
            head, self._held = self._held, b""
            self._send_all(head, 0)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*, preceded by the response head if that is held back."""
        if self._copy is not None:
            self._copy_bytes(data)
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= JOINED_BYTES:
                data = head + bytes(data)
            else:
                self._send_all(head, self._more)
        self._send_all(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """
        Send a part of a file, or the segments of a file that has a ``segments`` method.

        Args:
            file: an open file. If it has a method ``segments()``, that yields literal bytes and the parts to send, each
                as descriptor, offset and length, and *offset* and *count* are ignored. If it has a true attribute
                ``is_arriving``, literal bytes are sent at once, because the next segment may take a while. If it has an
                attribute ``read_again`` that is not None, all segments are bytes, and *count* is their total.
            count: bytes to send; None sends the rest of the file.

        Returns:
            The number of bytes sent from the file, without literal bytes.

        Raises:
            OSError: the client disconnected or stopped reading, or the file does not have the announced length.
            RegistryError: a segment cannot be read.
        """
        segments = getattr(file, "segments", None)
        if segments is None:
            fd = file.fileno()
            if count is None:
                count = os.fstat(fd).st_size - offset
            self._copy_file(file, offset, count)
            if self._held:
                self._send_ahead(b"")
            return self._send_part(fd, offset, count)
        read_again = getattr(file, "read_again", None)
        if read_again is not None and count is not None:
            blocks = segments()
            if self._copy is not None and len(self._copy) + count <= MAX_COPY_BYTES and self._copied_body is None:
                blocks = self._copying(blocks)
            else:
                self._copy_stored(StoredBody(read_again, count))
            head, self._held = self._held, b""
            self.send_blocks(head, blocks, count)
            return count
        self._copy = None
        sent = 0
        pending = b""
        is_arriving = getattr(file, "is_arriving", False)
        for segment in segments():
            if not isinstance(segment, bytes):
                self._send_ahead(pending)
                self._count_as_file(len(pending))
                pending = b""
                sent += self._send_part(*segment)
            elif is_arriving:
                self._send_literal(segment)
            else:
                pending += segment
        self._send_literal(pending)
        return sent

    def _send_literal(self, literal: bytes) -> None:
        head, self._held = self._held, b""
        self._send_all(head + literal, 0)
        self._count_as_file(len(literal))

    def _count_as_file(self, count: int) -> None:
        """Count bytes that were just sent as bytes of the file, because gunicorn does not count them either."""
        self._sent_bytes -= count
        self.file_bytes += count

    def _send_ahead(self, data: bytes) -> None:
        """Send the held response head and *data*; the kernel joins them with the first bytes of the file."""
        head, self._held = self._held, b""
        self._send_all(head + data, self._more)

    def _copy_bytes(self, data: Any) -> None:
        if self._copy is None or len(self._copy) + len(data) > MAX_COPY_BYTES or self._copied_body is not None:
            self._copy = None
        else:
            self._copy += data

    def _copy_file(self, file: Any, offset: int, count: int) -> None:
        if self._copy is None:
            return
        if type(file) is not FileIO or self._copied_body is not None:  # closing another class may have side effects
            self._copy = None
        else:
            self._copied_body = FileSlice(signature_of(os.fstat(file.fileno())), offset, count)

    def _copying(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield blocks, and copy them: reading a short body again would take longer than computing most responses."""
        for block in blocks:
            if self._copy is not None:
                self._copy += block
            yield block

    def _copy_stored(self, body: StoredBody) -> None:
        if self._copied_body is not None:
            self._copy = None
        else:
            self._copied_body = body

    def send_blocks(self, head: bytes, blocks: Iterable[bytes], count: int) -> None:
        """
        Send a response head, and a body in blocks, each as soon as it is there.

        Args:
            count: bytes of the body.

        Raises:
            OSError: as for :meth:`sendfile`.
            RegistryError: the body cannot be read.
        """
        sent = in_a_row = 0
        body_from = self._sent_bytes + len(head)
        try:
            for block in _translated(blocks):
                sent += len(block)
                if sent > count:
                    break
                if head and len(block) > JOINED_BYTES:
                    self._send_all(head, self._more)
                    head = b""
                self._send_all(head + block if head else block, 0)
                head = b""
                in_a_row += len(block)
                if in_a_row >= _TURN_BYTES and sent < count:
                    gevent.sleep(0)
                    in_a_row = 0
        finally:  # also the part of a block that was sent before the client left
            self._count_as_file(max(0, self._sent_bytes - body_from))
        if sent != count:
            raise OSError(errno.ECONNRESET, "the file does not have the announced length")
        if head:  # the body is empty
            self._send_all(head, 0)

    def send_file_slice(self, head: bytes, fd: int, part: FileSlice) -> None:
        """
        Send a response head and a part of a file.

        Raises:
            OSError: as for :meth:`sendfile`.
        """
        self._send_all(head, self._more)
        self._send_part(fd, part.offset, part.length)

    def _send_part(self, source: int, offset: int, count: int) -> int:
        target = self.fileno()
        sent = in_a_row = 0
        while sent < count:
            try:
                size = os.sendfile(target, source, offset + sent, min(count - sent, SLICE_BYTES))
            except BlockingIOError:
                self._is_sending = True
                try:
                    self._wait(self._write_event)  # type: ignore[attr-defined]
                finally:
                    self._is_sending = False
                in_a_row = 0
                continue
            if not size:
                raise OSError(errno.ECONNRESET, "the file became shorter while it was sent")
            sent += size
            self.file_bytes += size
            in_a_row += size
            if in_a_row >= _TURN_BYTES and sent < count:
                gevent.sleep(0)
                in_a_row = 0
        return sent

    def _send_all(self, data: Any, flags: int) -> None:
        sent = self._send_at_once(data, flags)  # nearly always all of it, in one system call
        self._sent_bytes += sent
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:], flags)

    def _send_at_once(self, data: Any, flags: int) -> int:  # noqa: ARG002 - used by an override
        """Send as much as possible without blocking; return the number of bytes, which may be 0."""
        return 0

    def _send_slowly(self, rest: memoryview, flags: int) -> None:
        held = nullcontext() if self.unsent is None else self.unsent.hold(len(rest), revoke=self.end)
        self._is_sending = True
        try:
            with held:
                while rest:
                    sent = self.send(rest[:SLICE_BYTES], flags)
                    self._sent_bytes += sent
                    rest = rest[sent:]
        finally:
            self._is_sending = False


def _translated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of a store. Any of its errors becomes a RegistryError, so none is taken for one of the client."""
    try:
        yield from blocks
    except RegistryError:
        raise
    except Exception as error:
        raise StorageError("The store failed with an unexpected error.") from error
