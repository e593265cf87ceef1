"""How long the blocks are that bodies are received into."""

from __future__ import annotations

from contextlib import ExitStack

from docker_registry.registry.buffer_pool import BLOCKS, FIRST_BYTES, LARGEST_BYTES, SMALLEST_BYTES, BufferPool

MIB = 1024 * 1024


class TestABlock:
    def test_is_large_while_there_are_few_transfers(self):
        pool = BufferPool(32 * MIB)
        with pool.transfer():
            assert (FIRST_BYTES, LARGEST_BYTES) == (len(pool.first()), len(pool.next()))

    def test_shrinks_with_the_number_of_transfers(self):
        pool = BufferPool(32 * MIB)
        with ExitStack() as transfers:
            for _ in range(64):
                transfers.enter_context(pool.transfer())
            assert 32 * MIB == 64 * BLOCKS * len(pool.next())
            for _ in range(5000):
                transfers.enter_context(pool.transfer())
            assert (SMALLEST_BYTES, SMALLEST_BYTES) == (len(pool.first()), len(pool.next()))
        assert LARGEST_BYTES == pool.block_bytes

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
