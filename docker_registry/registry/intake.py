"""
The way of a body into the store: received, hashed and written at the same time, each byte once.

All parts work side by side, each at its own pace. One greenlet receives into a block, another has the blocks before it
hashed, and looked at by whoever else wants to, in a native thread, while the driver writes them in a third; a block is
received into again only when all have let go of it. So a transfer holds a few blocks, whatever its size
(:mod:`~docker_registry.registry.block_pool`), and neither hashing nor the disk ever stops the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
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
        if content:
            self._look(memoryview(content))
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
        looker = _Looker(self._look)
        try:
            while True:
                block = full.get()
                if isinstance(block, Exception):
                    raise block
                if not block:
                    break
                self._count(len(block))
                lent = _Lent(block, used)
                looker.look_at(lent)
                yield block
                lent.let_go()
                looker.check()
            looker.finish()
        finally:
            receiver.kill()
            looker.kill()

    def _look(self, block: memoryview) -> None:
        for tap in self._taps:
            tap(block)

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


class _Lent:
    """A block that is looked at and written at the same time, to be received into again when both have let go of it."""

    def __init__(self, block: memoryview, used: SimpleQueue[memoryview]) -> None:
        self.block = block
        self._users = 2
        self._used = used

    def let_go(self) -> None:
        self._users -= 1
        if not self._users:
            self._used.put(POOL.again(self.block))


class _Looker:
    """Has one block after the other looked at, in native threads, however far those are who write them."""

    def __init__(self, look: Callable[[memoryview], None]) -> None:
        self._look = look
        self._waiting: SimpleQueue[_Lent | None] = SimpleQueue()
        self._error: Exception | None = None
        self._greenlet = gevent.spawn(self._run)

    def look_at(self, lent: _Lent) -> None:
        self._waiting.put(lent)

    def check(self) -> None:
        """Raise what a look has raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all have been looked at."""
        self._waiting.put(None)
        self._greenlet.join()
        self.check()

    def kill(self) -> None:
        """Look at no more; waits for the one that is being looked at, which may be received into again after that."""
        self._greenlet.kill()

    def _run(self) -> None:
        while self._error is None and (lent := self._waiting.get()) is not None:
            try:
                start_in_thread(self._look, lent.block)()
            except Exception as error:  # noqa: BLE001 - it is raised again where the blocks are awaited
                self._error = error
            lent.let_go()


def _fill(body: Body, block: memoryview) -> int:
    """Receive until the block is full or the body ends; return the bytes that came."""
    filled = 0
    while filled < len(block):
        arrived = body.readinto(block[filled:])
        if not arrived:
            break
        filled += arrived
    return filled
