"""Limits for reading inside a layer."""

from __future__ import annotations

import gzip
import struct

import pytest

from docker_registry.errors import TooLarge
from docker_registry.registry.layers.archives import uncompressed
from docker_registry.registry.layers.compression import Decompressor
from docker_registry.registry.layers.limits import MIN_RATIO_BYTES, LayerLimits

ZSTD_BLOCK_BYTES = 128 * 1024


def zstd_zeros(size):
    """A frame of zstd that expands to zeros: four bytes for each block of 128 KiB."""
    blocks = size // ZSTD_BLOCK_BYTES
    head = b"\x28\xb5\x2f\xfd\0" + bytes([(17 - 10) << 3])
    return head + b"".join(
        struct.pack("<I", (number == blocks - 1) | 1 << 1 | ZSTD_BLOCK_BYTES << 3)[:3] + b"\0"
        for number in range(blocks)
    )


def expand(layer, **limits):
    decompressor = Decompressor(max_bytes=None, meter=LayerLimits(**limits).start())
    for start in range(0, len(layer), 1 << 20):
        for _ in decompressor.feed(layer[start : start + (1 << 20)]):
            pass
    for _ in decompressor.finish():
        pass
    return decompressor.size


class TestTheRatio:
    def test_applies_beyond_the_first_gib_only(self):
        assert MIN_RATIO_BYTES == expand(zstd_zeros(MIN_RATIO_BYTES))
        with pytest.raises(TooLarge, match="max_ratio: 1100"):
            expand(zstd_zeros(MIN_RATIO_BYTES + 16 * ZSTD_BLOCK_BYTES))

    def test_of_gzip_is_never_exceeded(self):
        zeros = gzip.compress(bytes(1 << 24))
        assert (1 << 24) / len(zeros) < LayerLimits().max_ratio


class TestTheTime:
    def test_is_counted_without_any_output(self):
        with pytest.raises(TooLarge, match="max_seconds"):
            expand(gzip.compress(b"", mtime=0) * 200_000, max_seconds=0.05)

    def test_is_counted_for_an_uncompressed_tar(self):
        with pytest.raises(TooLarge, match="max_seconds"):
            expand(bytes(10 << 20), max_seconds=0)


class TestTheFingerprint:
    @pytest.mark.parametrize("change", [{"max_bytes": 5}, {"max_ratio": 5}, {"max_seconds": 5}])
    def test_changes_with_every_limit(self, change):
        assert LayerLimits().fingerprint == LayerLimits().fingerprint != LayerLimits(**change).fingerprint


def test_everything_is_read_without_limits():
    assert 1 << 21 == sum(map(len, uncompressed([zstd_zeros(1 << 21)], max_bytes=None)))
