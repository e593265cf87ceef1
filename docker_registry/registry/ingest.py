"""
Ingest: a pipeline that receives, hashes and writes a request body concurrently, in a single pass.

Each stage runs at its own pace. One greenlet receives into a block. Another passes received blocks to a native thread
that hashes them and calls further taps, while the driver writes the same blocks in another thread. A block is
reused for receiving only after both have released it. So a transfer of any size holds only a few blocks, and neither
hashing nor disk writes block the event loop.

All transfers of a registry share a memory budget evenly (:class:`BufferPool`). Blocks consist of whole pages, so the
file driver can write them with O_DIRECT, past the page cache.
"""

from __future__ import annotations

import hashlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import gevent
from gevent.queue import SimpleQueue

from docker_registry.concurrency import start_in_thread
from docker_registry.errors import SizeInvalid
from docker_registry.registry.names import CANONICAL, Digest

#: Bodies up to this size are processed inline: a thread would cost more than it saves. The limit is lower with taps,
#: since they do more work per byte.
INLINE_BYTES: Final = 256 * 1024
INLINE_BYTES_WITH_TAPS: Final = 64 * 1024

#: Blocks of one transfer: one is being received, one is being hashed and written, the others are queued between them.
BLOCKS: Final = 4

#: Limits of a block's size: larger blocks are not faster, and smaller ones cost more time than the memory is worth.
LARGEST_BLOCK_BYTES: Final = 1024 * 1024
SMALLEST_BLOCK_BYTES: Final = 16 * 1024

#: First block of a body of unknown length; most of these are short.
FIRST_BLOCK_BYTES: Final = 64 * 1024

#: A function that is called with every block, in order; in a native thread unless the body is short.
Tap = Callable[[memoryview], object]


class Body(Protocol):
    """
    A request body, readable once.

    Attributes:
        length: bytes announced by the client; None when it did not announce any.
        complete: whether the whole body arrived; valid after :meth:`readinto` has returned 0.
    """

    @property
    def length(self) -> int | None: ...

    @property
    def complete(self) -> bool: ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Receive at least one byte into *buffer*, return the number; 0 at the end of a complete or truncated body."""


class Content:
    """A :class:`Body` of bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self.length: int | None = len(content)
        self._rest = memoryview(content)

    @property
    def complete(self) -> bool:
        """Whether all bytes were read."""
        return not self._rest

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        block = self._rest[: len(buffer)]
        buffer[: len(block)] = block
        self._rest = self._rest[len(block) :]
        return len(block)


class BlockBody(ABC):
    """
    A :class:`Body` that arrives in blocks of any size.

    Attributes:
        received: bytes of the blocks so far.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.complete = False
        self.received = 0
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        if not self._rest:
            self._rest = memoryview(self.next_block())
            self.received += len(self._rest)
        block = self._rest[: len(buffer)]
        buffer[: len(block)] = block
        self._rest = self._rest[len(block) :]
        if not block:
            self.complete = self.length in (None, self.received)
        return len(block)

    @abstractmethod
    def next_block(self) -> bytes:
        """Wait for the bytes that follow those received so far, and return some of them; empty at the end."""


class BufferPool:
    """Allocates the blocks of transfers; the more transfers run at the same time, the smaller the blocks."""

    def __init__(self, total_bytes: int = 32 * 1024 * 1024) -> None:
        """
        Args:
            total_bytes: memory for the blocks of all transfers together.
        """
        self._total_bytes = total_bytes
        self._transfers = 0

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count a transfer for the duration of the context."""
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    @property
    def block_bytes(self) -> int:
        """The block size for the current number of transfers, bytes."""
        fair = self._total_bytes // (BLOCKS * max(self._transfers, 1))
        return max(SMALLEST_BLOCK_BYTES, min(LARGEST_BLOCK_BYTES, fair - fair % mmap.PAGESIZE))

    def first(self) -> memoryview:
        """Allocate the first block of a transfer."""
        return _new(min(FIRST_BLOCK_BYTES, self.block_bytes))

    def next(self) -> memoryview:
        """Allocate a further block."""
        return _new(self.block_bytes)

    def again(self, block: memoryview) -> memoryview:
        """Release *block* and return a block to receive into: the same memory if its size still fits, or a new one."""
        content = block.obj
        block.release()
        if isinstance(content, mmap.mmap) and len(content) == self.block_bytes:
            return memoryview(content)
        return self.next()


def _new(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


class Ingest:
    """
    Receives a body. Iterate once over the blocks, then read ``size``, ``complete`` and ``digest``.

    To get a short body as bytes, call :meth:`short` before iterating.

    Attributes:
        size: bytes received.
    """

    def __init__(
        self,
        body: Body,
        buffers: BufferPool,
        algorithm: str = CANONICAL,
        *,
        max_bytes: int | None = None,
        taps: Sequence[Tap] = (),
    ) -> None:
        """
        Args:
            buffers: allocates the blocks.
            algorithm: digest algorithm.
            max_bytes: a longer body is rejected: the iteration, or :meth:`short`, raises SizeInvalid.
            taps: functions that are called with every block; the same calls raise their exceptions.
        """
        self.size = 0
        self._body = body
        self._buffers = buffers
        self._hash = hashlib.new(algorithm)
        self._max_bytes = max_bytes
        self._taps: tuple[Tap, ...] = (self._hash.update, *taps)
        self._first = memoryview(b"")  # first block of a body that turned out not to be short

    @property
    def complete(self) -> bool:
        """Whether the whole body arrived; valid after the iteration."""
        return self._body.complete

    @property
    def digest(self) -> Digest:
        """The digest of the received bytes."""
        return Digest.from_hash(self._hash)

    def short(self) -> bytes | None:
        """Receive a short body and return it; None when the body is longer: iterate to receive it."""
        with self._buffers.transfer():
            block = self._short_buffer()
            filled = _fill(self._body, block) if block else 0
            if filled == len(block):
                self._first = block
                return None
            content = bytes(block[:filled])
        self._count(filled)
        if content:
            self._run_taps(memoryview(content))
        return content

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the blocks of the body; each is valid until the next one is requested."""
        content = None if self._first else self.short()
        if content:
            yield memoryview(content)
        elif content is None:
            with self._buffers.transfer():
                yield from self._pipeline()

    def _short_buffer(self) -> memoryview:
        """Return a buffer longer than a short body, so that its end is seen at once; empty for a long body."""
        length = self._body.length
        if length is None:
            return self._buffers.first()
        limit = INLINE_BYTES if self._taps == (self._hash.update,) else INLINE_BYTES_WITH_TAPS
        return memoryview(bytearray(length + 1 if length <= min(limit, self._buffers.block_bytes) else 0))

    def _pipeline(self) -> Iterator[memoryview]:
        used: SimpleQueue[memoryview] = SimpleQueue()
        full: SimpleQueue[memoryview | Exception] = SimpleQueue()
        blocks = 0
        if self._first:
            full.put(self._first)
            blocks = 1
        receiver = gevent.spawn(self._receive, used, full, blocks)
        taps = _TapStage(self._run_taps)
        try:
            while True:
                block = full.get()
                if isinstance(block, Exception):
                    raise block
                if not block:
                    break
                self._count(len(block))
                shared = _SharedBlock(block, self._buffers, used)
                taps.put(shared)
                yield block
                shared.release()
                taps.check()
            taps.finish()
        finally:
            receiver.kill()
            taps.kill()

    def _run_taps(self, block: memoryview) -> None:
        for tap in self._taps:
            tap(block)

    def _receive(self, used: SimpleQueue[memoryview], full: SimpleQueue[memoryview | Exception], blocks: int) -> None:
        try:
            while True:
                if blocks < BLOCKS and used.empty():
                    block = self._buffers.next()
                    blocks += 1
                else:
                    block = used.get()
                filled = _fill(self._body, block)
                if filled:
                    full.put(block[:filled])
                if filled < len(block):
                    full.put(block[:0])
                    return
        except Exception as error:  # noqa: BLE001 - raised again by the iteration
            full.put(error)

    def _count(self, arrived: int) -> None:
        self.size += arrived
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise SizeInvalid(expected=self._max_bytes)


class _SharedBlock:
    """A block shared by the taps and the writer; it is reused for receiving after both have released it."""

    def __init__(self, block: memoryview, buffers: BufferPool, used: SimpleQueue[memoryview]) -> None:
        self.block = block
        self._buffers = buffers
        self._users = 2
        self._used = used

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            self._used.put(self._buffers.again(self.block))


class _TapStage:
    """Runs the taps on one block after another in native threads, independently of the writer's progress."""

    def __init__(self, run: Callable[[memoryview], None]) -> None:
        self._run_taps = run
        self._waiting: SimpleQueue[_SharedBlock | None] = SimpleQueue()
        self._error: Exception | None = None
        self._greenlet = gevent.spawn(self._run)

    def put(self, shared: _SharedBlock) -> None:
        self._waiting.put(shared)

    def check(self) -> None:
        """Raise the exception of a tap, if there was one."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until the taps have processed all blocks."""
        self._waiting.put(None)
        self._greenlet.join()
        self.check()

    def kill(self) -> None:
        """Stop; waits for the block in progress, because its memory may be reused afterwards."""
        self._greenlet.kill()

    def _run(self) -> None:
        while self._error is None and (shared := self._waiting.get()) is not None:
            try:
                start_in_thread(self._run_taps, shared.block)()
            except Exception as error:  # noqa: BLE001 - raised again by the iteration
                self._error = error
            shared.release()


def _fill(body: Body, block: memoryview) -> int:
    """Receive until the block is full or the body ends; return the number of bytes received."""
    filled = 0
    while filled < len(block):
        arrived = body.readinto(block[filled:])
        if not arrived:
            break
        filled += arrived
    return filled
