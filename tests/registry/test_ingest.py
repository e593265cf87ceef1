from __future__ import annotations

import hashlib
import itertools
import threading
import time
from contextlib import ExitStack

import gevent
import pytest

from docker_registry.errors import SizeInvalid
from docker_registry.registry.ingest import (
    BLOCKS,
    FIRST_BLOCK_BYTES,
    LARGEST_BLOCK_BYTES,
    SMALLEST_BLOCK_BYTES,
    BufferPool,
    Content,
    Ingest,
)
from docker_registry.registry.names import Digest


class Pieces:
    """A body that arrives in pieces; its length is unknown by default."""

    def __init__(self, pieces, length=None, complete=True, error=None):
        self.length = length
        self.complete = False
        self._pieces = list(pieces)
        self._complete = complete
        self._error = error

    def readinto(self, buffer):
        gevent.sleep(0)
        if not self._pieces:
            if self._error:
                raise self._error
            self.complete = self._complete
            return 0
        piece, self._pieces[0] = self._pieces[0][: len(buffer)], self._pieces[0][len(buffer) :]
        if not self._pieces[0]:
            del self._pieces[0]
        buffer[: len(piece)] = piece
        return len(piece)


CONTENT = bytes(range(256)) * 10000


def ingest_of(body, *arguments, **options):
    return Ingest(body, BufferPool(), *arguments, **options)


@pytest.mark.parametrize(
    "size", [0, 1, 65536, 65537, LARGEST_BLOCK_BYTES, LARGEST_BLOCK_BYTES + FIRST_BLOCK_BYTES + 1, len(CONTENT)]
)
class TestABodyOfAnyLength:
    def test_passes_unchanged_in_its_order(self, size):
        assert CONTENT[:size] == b"".join(bytes(block) for block in ingest_of(Content(CONTENT[:size])))

    def test_is_counted_and_hashed(self, size):
        ingest = ingest_of(Content(CONTENT[:size]), "sha512")
        for _ in ingest:
            pass
        assert (size, Digest("sha512", hashlib.sha512(CONTENT[:size]).hexdigest())) == (ingest.size, ingest.digest)
        assert ingest.complete


class TestABodyOfUnknownLength:
    def test_passes_whole(self):
        pieces = [CONTENT[start : start + 32768] for start in range(0, len(CONTENT), 32768)]
        assert CONTENT == b"".join(bytes(block) for block in ingest_of(Pieces(pieces)))

    def test_that_is_truncated_ends_incomplete(self):
        ingest = ingest_of(Pieces([b"abc"], complete=False))
        assert [b"abc"] == [bytes(block) for block in ingest]
        assert not ingest.complete

    def test_that_is_longer_than_allowed_is_refused(self):
        with pytest.raises(SizeInvalid):
            list(ingest_of(Pieces([b"x" * 11]), max_bytes=10))


class TestAShortBody:
    @pytest.mark.parametrize("body", [Content(b"short"), Pieces([b"sh", b"ort"])])
    def test_is_available_immediately(self, body):
        seen = []
        ingest = ingest_of(body, taps=[lambda block: seen.append(bytes(block))])
        assert b"short" == ingest.short()
        assert (5, Digest.of(b"short"), True) == (ingest.size, ingest.digest, ingest.complete)
        assert [b"short"] == seen

    def test_that_is_truncated_is_not_complete(self):
        ingest = ingest_of(Pieces([b"abc"], complete=False))
        assert b"abc" == ingest.short()
        assert not ingest.complete

    @pytest.mark.parametrize("body", [Content(CONTENT), Pieces([CONTENT])])
    def test_that_is_not_short_is_streamed(self, body):
        ingest = ingest_of(body)
        assert ingest.short() is None
        assert CONTENT == b"".join(bytes(block) for block in ingest)
        assert (len(CONTENT), Digest.of(CONTENT)) == (ingest.size, ingest.digest)


class TestObservers:
    """Observers in a native thread and the writer do not wait for each other."""

    def test_see_every_byte_in_order_however_fast_the_writer_is(self):
        seen = []
        ingest = ingest_of(Content(CONTENT * 3), taps=[lambda block: seen.append(bytes(block))])
        written = []
        for number, block in enumerate(ingest):
            written.append(bytes(block))
            if number % 2:
                gevent.sleep(0.01)
        assert CONTENT * 3 == b"".join(seen) == b"".join(written)
        assert Digest.of(CONTENT * 3) == ingest.digest

    def test_do_not_block_the_writer(self):
        go_on = threading.Event()
        looks = []

        def look(block):
            assert go_on.wait(60)
            looks.append(bytes(block))

        blocks = iter(ingest_of(Content(CONTENT * 3), taps=[look]))
        written = [bytes(next(blocks)) for _ in range(3)]
        assert [] == looks
        go_on.set()
        written += [bytes(block) for block in blocks]
        assert looks == written, "what was looked at late is what was written early"

    @pytest.mark.parametrize("failing", [0, 1, -1])
    def test_report_their_errors(self, failing):
        blocks = len(list(ingest_of(Content(CONTENT * 3))))
        numbers = itertools.count()

        def look(_block):
            if next(numbers) == failing % blocks:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            for _ in ingest_of(Content(CONTENT * 3), taps=[look]):
                gevent.sleep(0)

    def test_end_before_an_aborted_writer_is_notified(self):
        under_way, is_over = threading.Event(), threading.Event()

        def look(_block):
            under_way.set()
            time.sleep(0.1)
            is_over.set()

        blocks = iter(ingest_of(Content(CONTENT * 3), taps=[look]))
        next(blocks)
        while not under_way.is_set():
            gevent.sleep(0.001)
        blocks.close()
        assert is_over.is_set()


class TestAFailedIngest:
    def test_raises_the_error_of_the_body(self):
        with pytest.raises(ConnectionError):
            list(ingest_of(Pieces([CONTENT], error=ConnectionError())))

    def test_stops_receiving_when_the_writer_gives_up(self):
        body = Pieces([CONTENT])
        blocks = iter(ingest_of(body))
        next(blocks)
        blocks.close()
        left = len(body._pieces)
        gevent.sleep(0.01)
        assert left == len(body._pieces)

    def test_keeps_each_block_valid_only_until_the_next_one(self):
        kept = list(ingest_of(Content(CONTENT)))
        with pytest.raises(ValueError, match="released"):
            bytes(kept[0])


MIB = 1024 * 1024


class TestABlock:
    def test_is_large_while_there_are_few_transfers(self):
        pool = BufferPool(32 * MIB)
        with pool.transfer():
            assert (FIRST_BLOCK_BYTES, LARGEST_BLOCK_BYTES) == (len(pool.first()), len(pool.next()))

    def test_shrinks_with_the_number_of_transfers(self):
        pool = BufferPool(32 * MIB)
        with ExitStack() as transfers:
            for _ in range(64):
                transfers.enter_context(pool.transfer())
            assert 32 * MIB == 64 * BLOCKS * len(pool.next())
            for _ in range(5000):
                transfers.enter_context(pool.transfer())
            assert (SMALLEST_BLOCK_BYTES, SMALLEST_BLOCK_BYTES) == (len(pool.first()), len(pool.next()))
        assert LARGEST_BLOCK_BYTES == pool.block_bytes

    def test_is_reused_while_nothing_changes(self):
        pool = BufferPool(32 * MIB)
        block = pool.next()
        content = block.obj
        assert content is pool.again(block[:10]).obj

    def test_is_replaced_when_the_number_of_transfers_changes(self):
        pool = BufferPool(8 * MIB)
        block = pool.next()
        with pool.transfer(), pool.transfer(), pool.transfer(), pool.transfer():
            block = pool.again(block)
            assert 512 * 1024 == len(block)
        assert MIB == len(pool.again(block))
