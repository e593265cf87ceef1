from __future__ import annotations

import pytest

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.archives import DiffId, Expansion, uncompressed
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.names import Digest
from tests.support.layers import COMPRESS, EMPTY, cut, member, tar

ARCHIVE = tar(member("etc/motd", content=b"hello\n"), member("big", content=bytes(range(256)) * 4000))
EVERY = pytest.mark.parametrize("compression", COMPRESS)


def unpacked(*blocks, max_bytes=None):
    return b"".join(map(bytes, uncompressed(blocks, max_bytes=max_bytes)))


class TestAStoredLayer:
    @EVERY
    def test_is_read_without_its_compression(self, compression):
        assert ARCHIVE == unpacked(*cut(COMPRESS[compression](ARCHIVE), 1000))

    def test_without_bytes_is_empty(self):
        assert b"" == unpacked()

    def test_that_is_not_an_archive_is_rejected_at_once(self):
        blocks = iter([b"garbage" * 1000, b"more"])
        with pytest.raises(LayerFormatUnsupported):
            next(uncompressed(blocks, max_bytes=None))
        assert b"more" == next(blocks)

    def test_returns_no_more_than_its_limit(self):
        with pytest.raises(TooLarge):
            unpacked(*cut(COMPRESS["gzip"](ARCHIVE), 10), max_bytes=500_000)


def expanded(*blocks):
    """Return the compression and the diff_id of a layer."""
    seen = DiffId()
    expansion = Expansion(seen, max_bytes=len(ARCHIVE))
    for block in blocks:
        expansion.update(memoryview(bytearray(block)))
    return expansion.finish(), seen.digest


class TestALayerBeingReceived:
    @EVERY
    def test_is_passed_on_uncompressed(self, compression):
        assert (compression, Digest.of(ARCHIVE)) == expanded(*cut(COMPRESS[compression](ARCHIVE), 777))

    def test_has_a_diff_id_that_includes_the_bytes_after_the_end_of_the_tar(self):
        content = EMPTY + b"trailer" * 1000
        assert ("gzip", Digest.of(content)) == expanded(COMPRESS["gzip"](content))

    def test_has_the_diff_id_of_docker_if_it_is_empty(self):
        known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        assert ("gzip", Digest.parse(known)) == expanded(COMPRESS["gzip"](EMPTY))

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"garbage" * 1000, LayerFormatUnsupported),
            (b"x", LayerFormatUnsupported),
            (COMPRESS["gzip"](ARCHIVE)[:-1], LayerFormatUnsupported),
            (COMPRESS["gzip"](b"no tar" * 1000), LayerFormatUnsupported),
            (COMPRESS["gzip"](ARCHIVE[:-11000]), LayerFormatUnsupported),
            (COMPRESS["gzip"](bytes(1 << 22)), TooLarge),
        ],
    )
    def test_is_not_affected_by_its_inspection(self, content, error):
        expansion = Expansion(TarReader(), max_bytes=1 << 21)
        for block in cut(content, 100):
            expansion.update(block)
        with pytest.raises(error):
            expansion.finish()
