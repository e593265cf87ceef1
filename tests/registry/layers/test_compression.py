from __future__ import annotations

import gzip
import lzma
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.compression import Decompressor, sniff
from tests.support.layers import COMPRESS, EMPTY, cut, member, tar, zstd

ARCHIVE = tar(member("etc/motd", content=b"hello\n"), member("noise", content=random.Random(1).randbytes(70_000)))
EVERY = pytest.mark.parametrize("compression", COMPRESS)
COMPRESSED = pytest.mark.parametrize("compression", [name for name in COMPRESS if name != "tar"])


def expand(*blocks, **bounds):
    decompressor = Decompressor(**{"max_bytes": None} | bounds)
    pieces = [bytes(piece) for block in blocks for piece in decompressor.feed(block)]
    pieces += [bytes(piece) for piece in decompressor.finish()]
    assert sum(map(len, pieces)) == decompressor.size
    return b"".join(pieces)


class TestAnArchive:
    @EVERY
    def test_is_recognized_by_its_first_bytes(self, compression):
        assert compression == sniff(COMPRESS[compression](ARCHIVE)[:512])

    @EVERY
    @pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 65536, 1 << 20])
    def test_expands_to_itself_in_blocks_of_any_size(self, compression, size):
        assert expand(*cut(COMPRESS[compression](ARCHIVE), size)) == ARCHIVE

    @EVERY
    def test_expands_from_a_reused_buffer(self, compression):
        buffer, pieces, decompressor = bytearray(1000), [], Decompressor(max_bytes=None)
        for block in cut(COMPRESS[compression](ARCHIVE), 1000):
            buffer[: len(block)] = block
            pieces += [bytes(piece) for piece in decompressor.feed(memoryview(buffer)[: len(block)])]
            buffer[:] = bytes(1000)
        assert ARCHIVE == b"".join(pieces) + b"".join(map(bytes, decompressor.finish()))

    @EVERY
    def test_without_members_is_valid(self, compression):
        assert expand(COMPRESS[compression](EMPTY)) == EMPTY

    def test_without_bytes_is_an_empty_layer(self):
        assert "tar" == sniff(b"")
        assert b"" == expand() == expand(b"")

    def test_recorded_from_docker_1_5_is_gzip(self):
        recorded = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
        assert ("gzip", EMPTY) == (sniff(recorded), expand(recorded))

    def test_whose_first_file_has_the_name_of_a_compression_is_still_a_tar(self):
        assert ["tar", "tar"] == [sniff(tar(name)[:512]) for name in ("]", "BZh91")]

    @settings(deadline=None)  # the machine may be busy
    @given(st.binary(max_size=2000))
    def test_is_never_recognized_in_random_bytes(self, content):
        try:
            expand(content)
        except LayerFormatUnsupported as refusal:
            assert "Layer format not supported" == refusal.sentence


class TestSeveralMembers:
    @pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
    @pytest.mark.parametrize("size", [1, 1 << 20])
    def test_are_concatenated(self, compression, size):
        parts = [COMPRESS[compression](part) for part in (ARCHIVE[:1000], b"", ARCHIVE[1000:])]
        assert expand(*cut(b"".join(parts), size)) == ARCHIVE

    def test_may_include_skippable_frames_of_zstd(self):
        skipped = b"\x5e\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"toc!"
        assert expand(skipped + zstd.compress(ARCHIVE) + skipped) == ARCHIVE
        assert "zstd" == sniff(skipped)


class TestTheEnd:
    @COMPRESSED
    def test_may_be_padded_with_zeros(self, compression):
        assert expand(COMPRESS[compression](ARCHIVE), bytes(3), bytes(10_000)) == ARCHIVE

    @COMPRESSED
    @pytest.mark.parametrize("garbage", [b"x", b"\0\0x", b"garbage" * 100, b"\x1f\x8b"])
    def test_must_not_be_garbage(self, compression, garbage):
        with pytest.raises(LayerFormatUnsupported):
            expand(COMPRESS[compression](ARCHIVE) + garbage)

    @COMPRESSED
    def test_is_missing_wherever_the_layer_is_truncated(self, compression):
        whole = COMPRESS[compression](ARCHIVE)
        for end in [*range(1, 100), len(whole) // 2, len(whole) - 1]:
            with pytest.raises(LayerFormatUnsupported):
                expand(whole[:end])

    @pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
    def test_reveals_damage_in_the_middle(self, compression):
        whole = bytearray(COMPRESS[compression](ARCHIVE))
        whole[len(whole) // 2] ^= 0xFF
        with pytest.raises(LayerFormatUnsupported):
            expand(whole)


class TestOtherBytes:
    @pytest.mark.parametrize("content", [b"x", b"no tar" * 1000, b"\0" * 511, b"BZh", b"PK\3\4" + bytes(600)])
    def test_are_rejected_with_the_message_of_api_v1(self, content):
        with pytest.raises(LayerFormatUnsupported) as refused:
            expand(content)
        assert "Layer format not supported" == refused.value.sentence


class TestADecompressionBomb:
    """A gigabyte of zeros, in a few kilobytes."""

    @pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
    def test_stops_at_the_limit(self, compression):
        # Consecutive members: equivalent to one of a gigabyte, and quickly created.
        bomb = COMPRESS[compression](bytes(1 << 24)) * 64
        decompressor = Decompressor(max_bytes=1 << 20)
        with pytest.raises(TooLarge):
            for piece in decompressor.feed(bomb):
                assert len(piece) <= 256 * 1024
        assert (1 << 20) + 1 == decompressor.size

    @EVERY
    def test_may_be_exactly_as_large_as_the_limit(self, compression):
        content = COMPRESS[compression](ARCHIVE)
        assert expand(content, max_bytes=len(ARCHIVE)) == ARCHIVE
        with pytest.raises(TooLarge):
            expand(content, max_bytes=len(ARCHIVE) - 1)


class TestAWindow:
    def test_of_zstd_is_limited(self):
        wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
        content = wide.compress(ARCHIVE) + wide.flush()
        with pytest.raises(LayerFormatUnsupported):
            expand(content)
        assert expand(content, max_window_bytes=1 << 28) == ARCHIVE

    @pytest.mark.parametrize("form", [lzma.FORMAT_XZ, lzma.FORMAT_ALONE])
    def test_of_xz_is_limited(self, form):
        identifier = lzma.FILTER_LZMA2 if form == lzma.FORMAT_XZ else lzma.FILTER_LZMA1
        filters = [{"id": identifier, "preset": 0, "dict_size": 1 << 25}]
        content = lzma.compress(ARCHIVE, form, filters=filters)
        with pytest.raises(LayerFormatUnsupported):
            expand(content, max_window_bytes=1 << 24)
        assert expand(content, max_window_bytes=1 << 25) == ARCHIVE

    def test_of_the_default_maximum_of_the_tools_is_accepted(self):
        wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
        assert expand(wide.compress(ARCHIVE) + wide.flush()) == ARCHIVE
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 26}]  # the window of `xz -9`
        assert expand(lzma.compress(ARCHIVE, filters=filters)) == ARCHIVE


class TestGzipOfManySmallBlocks:
    def test_returns_all_pending_output_of_a_full_block(self):
        content = tar(member("zeros", content=bytes(3 * 256 * 1024)))
        assert expand(*cut(gzip.compress(content, mtime=0), 10)) == content
