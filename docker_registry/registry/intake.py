"""
The way of a body into the store: received, hashed and written at the same time, each byte once.

All parts work side by side. A greenlet receives into one block while, each in a native thread, the block before it is
hashed, looked at by whoever wants to, and written by the driver; a block is received into again only when all have let
go of it. So a transfer holds a few blocks, whatever its size (:mod:`~docker_registry.registry.block_pool`), and neither
hashing nor the disk ever stops the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, Protocol

import gevent
from gevent.queue import SimpleQueue

from docker_registry.errors import SizeInvalid
from docker_registry.registry.block_pool import BLOCKS, POOL
from docker_registry.registry.names import CANONICAL, Digest
from docker_registry.threads import start_in_thread

#: Below this a thread costs more than it saves; if others than the hash look at the bytes it is soon worth it.
INLINE_BYTES: Final = 256 * 1024
INLINE_BYTES_WITH_TAPS: Final = 64 * 1024

#: Something that looks at every block as it passes, in a native thread, one block after the other.
Tap = Callable[[memoryview], object]


class Body(Protocol):
    """
    What a client sends, readable once.

    Attributes:
        length: bytes that were announced; None when the client did not say.
        complete: whether all of it came; settled when :meth:`readinto` has returned 0.
    """

    @property
    def length(self) -> int | None: ...

    @property
    def complete(self) -> bool: ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Receive at least one byte into *buffer* and return how many; 0 at the end, whole or cut off."""


class Content:
    """A :class:`Body` of bytes in hand."""

    def __init__(self, content: bytes) -> None:
        self.length: int | None = len(content)
        self._rest = memoryview(content)

    @property
    def complete(self) -> bool:
        """Whether all was read."""
        return not self._rest

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        block = self._rest[: len(buffer)]
        buffer[: len(block)] = block
        self._rest = self._rest[len(block) :]
        return len(block)


class Intake:
    """
    A body on its way: iterate over it once to receive its blocks, then ask what came.

    Whoever wants a short one in hand asks for that first (:meth:`short`).

    Attributes:
        size: bytes that came.
    """

    def __init__(
        self, body: Body, algorithm: str = CANONICAL, *, max_bytes: int | None = None, taps: Sequence[Tap] = ()
    ) -> None:
        """
        Args:
            algorithm: how to hash what passes.
            max_bytes: more than this is refused with SizeInvalid, raised out of the iteration.
            taps: who else looks at the bytes; what they raise is raised out of the iteration.
        """
        self.size = 0
        self._body = body
        self._hash = hashlib.new(algorithm)
        self._max_bytes = max_bytes
        self._taps: tuple[Tap, ...] = (self._hash.update, *taps)
        self._first = memoryview(b"")  # what has come already of a body that turned out not to be short

    @property
    def complete(self) -> bool:
        """Whether the client sent all that it announced; known after the iteration."""
        return self._body.complete

    @property
    def digest(self) -> Digest:
        """The digest of what came."""
        return Digest.from_hash(self._hash)

    def short(self) -> bytes | None:
        """Receive all of a short body at once; None when it is none, and then its blocks are still to come."""
        with POOL.transfer():
            block = self._room()
            filled = _fill(self._body, block) if block else 0
            if filled == len(block):
                self._first = block
                return None
            content = bytes(block[:filled])
        self._count(filled)
        for tap in self._taps if content else ():
            tap(memoryview(content))
        return content

    def __iter__(self) -> Iterator[memoryview]:
        """Yield block after block; each is valid until the next one is asked for."""
        content = None if self._first else self.short()
        if content:
            yield memoryview(content)
        elif content is None:
            with POOL.transfer():
                yield from self._side_by_side()

    def _room(self) -> memoryview:
        """Return room for more than a short body, so that it finds its end there; none for one that is not short."""
        length = self._body.length
        if length is None:
            return POOL.first()
        limit = INLINE_BYTES if self._taps == (self._hash.update,) else INLINE_BYTES_WITH_TAPS
        return memoryview(bytearray(length + 1 if length <= min(limit, POOL.block_bytes) else 0))

    def _side_by_side(self) -> Iterator[memoryview]:
        used: SimpleQueue[memoryview] = SimpleQueue()
        full: SimpleQueue[memoryview | Exception] = SimpleQueue()
        blocks = 0
        if self._first:
            full.put(self._first)
            blocks = 1
        receiver = gevent.spawn(self._receive, used, full, blocks)
        try:
            while True:
                block = full.get()
                if isinstance(block, Exception):
                    raise block
                if not block:
                    return
                self._count(len(block))
                looks = [start_in_thread(tap, block) for tap in self._taps]
                try:
                    yield block
                finally:
                    _wait_for(looks)
                used.put(POOL.again(block))
        finally:
            receiver.kill()

    def _receive(self, used: SimpleQueue[memoryview], full: SimpleQueue[memoryview | Exception], blocks: int) -> None:
        try:
            while True:
                if blocks < BLOCKS and used.empty():
                    block = POOL.next()
                    blocks += 1
                else:
                    block = used.get()
                filled = _fill(self._body, block)
                if filled:
                    full.put(block[:filled])
                if filled < len(block):
                    full.put(block[:0])
                    return
        except Exception as error:  # noqa: BLE001 - it is raised again where the blocks are awaited
            full.put(error)

    def _count(self, arrived: int) -> None:
        self.size += arrived
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise SizeInvalid(expected=self._max_bytes)


def _wait_for(looks: list[Callable[[], object]]) -> None:
    """Wait for all who look at a block, also when one of them raises: it may be received into again after that."""
    with ExitStack() as waiting:
        for look in looks:
            waiting.callback(look)


def _fill(body: Body, block: memoryview) -> int:
    """Receive until the block is full or the body ends; return the bytes that came."""
    filled = 0
    while filled < len(block):
        arrived = body.readinto(block[filled:])
        if not arrived:
            break
        filled += arrived
    return filled
