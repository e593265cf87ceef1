"""Writes log lines outside the event loop: a pipe that hangs or a disk that is full delays and fails no request."""

from __future__ import annotations

import io
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import gevent
from gevent import monkey
from gevent.lock import BoundedSemaphore

from docker_registry.concurrency import close_now

logger = logging.getLogger(__name__)

#: Lines that wait to be written, in characters; further ones are dropped.
MAX_WAITING_CHARACTERS: Final = 4 * 1024 * 1024

#: Time that lines are collected before they are written together. A worker that is killed loses as much.
FLUSH_SECONDS: Final = 0.03

#: Writes to a pipe are not mixed with those of other processes up to this size (PIPE_BUF of Linux).
_PIPE_BLOCK_BYTES: Final = 4096

#: Writes to a regular file never are, so many lines are written at once: after each system call, the event loop and the
#: thread that writes compete for the interpreter lock. For blocks of more than 128 KiB the C library maps new memory
#: each time, and making them takes ten times as long.
_FILE_BLOCK_BYTES: Final = 96 * 1024

#: Time between two messages about lost lines, and the time limit for the last lines of a worker that ends.
_REPORT_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 1.0


class LineWriter:
    """
    Collects lines in memory and writes them in a native thread.

    Only in a server worker: it needs the event loop. Lines may come from any thread.
    """

    def __init__(self, name: str, write: Callable[[bytes], object], *, is_file: bool = False) -> None:
        """
        Args:
            name: of the log, for messages about lost lines.
            write: writes bytes; may block and may raise OSError.
            is_file: whether they go to a regular file; else they are short enough for a pipe.
        """
        self._name = name
        self._write_bytes = write
        self._is_file = is_file
        self._texts: list[str] = []
        self._characters = 0
        self._is_scheduled = False
        self._lost = 0
        self._reported_at = -_REPORT_SECONDS
        self._writing = BoundedSemaphore()
        hub = gevent.get_hub()
        self._main_hub = hub if hub.loop.default else None

    def write(self, text: str) -> None:
        """
        Write lines later.

        Args:
            text: one or more lines, each with its newline.
        """
        if self._characters > MAX_WAITING_CHARACTERS:
            self._lost += text.count("\n")
            return
        self._characters += len(text)
        self._texts.append(text)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule()

    def _schedule(self) -> None:
        if self._main_hub is None or gevent.get_hub().loop.default:
            gevent.spawn_later(FLUSH_SECONDS, self._flush)
        else:  # in a native thread, whose own event loop never runs
            self._main_hub.loop.run_callback_threadsafe(gevent.spawn_later, FLUSH_SECONDS, self._flush)

    def close(self) -> None:
        """Write the remaining lines and wait for those that are being written, for at most a second."""
        with suppress(gevent.Timeout), gevent.Timeout(_CLOSE_SECONDS):
            self._flush()
            while self._texts:
                self._flush()

    def _flush(self) -> None:
        try:
            with self._writing:
                texts, self._texts = self._texts, []
                if monkey.is_module_patched("threading"):
                    # Unlike run_in_thread, this can be interrupted while a write hangs.
                    gevent.get_hub().threadpool.spawn(self._write_texts, texts).get()
                else:
                    self._write_texts(texts)
                self._characters -= sum(map(len, texts))
        finally:
            self._is_scheduled = bool(self._texts)
            if self._is_scheduled:
                self._schedule()
        now = time.monotonic()
        if self._lost and now - self._reported_at >= _REPORT_SECONDS:
            logger.warning("%s: %d lines were lost", self._name, self._lost)
            self._lost, self._reported_at = 0, now

    def _write_texts(self, texts: Iterable[str]) -> None:
        limit = _FILE_BLOCK_BYTES if self._is_file else _PIPE_BLOCK_BYTES
        block: list[bytes] = []
        size = 0
        for piece in self._pieces(texts):
            if size + len(piece) > limit and block:
                self._write_block(block)
                block, size = [], 0
            block.append(piece)
            size += len(piece)
        if block:
            self._write_block(block)

    def _pieces(self, texts: Iterable[str]) -> Iterator[bytes]:
        """Yield texts as bytes; those that are too long for a pipe line by line."""
        for text in texts:
            content = text.encode(errors="backslashreplace")
            if self._is_file or len(content) <= _PIPE_BLOCK_BYTES:
                yield content
            else:
                yield from content.splitlines(keepends=True)

    def _write_block(self, block: Sequence[bytes]) -> None:
        content = b"".join(block)
        try:
            self._write_bytes(content)
        except (OSError, ValueError, AttributeError):  # the last two: the stream is being reopened
            self._lost += content.count(b"\n")


class LineStream(io.TextIOBase):
    """A text stream over a :class:`LineWriter`, for log handlers."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def write(self, text: str) -> int:
        """Write text that ends with a newline."""
        self._writer.write(text)
        return len(text)


def is_regular(target: int | str) -> bool:
    """Return whether a descriptor or path is that of a regular file."""
    try:
        return stat.S_ISREG(os.stat(target).st_mode)  # noqa: PTH116 - may be a descriptor
    except OSError:
        return False


def append_to(path: str) -> Callable[[bytes], object]:
    """Return a function that appends to a file and opens it anew each time, so that the file may be rotated."""

    def append(content: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, content)
        finally:
            close_now(descriptor)

    return append


def write_all(descriptor: int, content: bytes) -> None:
    """
    Write bytes to a descriptor, blocking.

    Raises:
        OSError: they could not be written, or only in part.
    """
    while content:
        content = content[os.write(descriptor, content) :]
