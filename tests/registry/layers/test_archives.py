from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.archives import DiffId, Expansion, diff_id, open_archive
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.names import Digest
from tests.support.layers import COMPRESS, EMPTY, cut, member, tar

ARCHIVE = tar(member("etc/motd", content=b"hello\n"), member("big", content=bytes(range(256)) * 4000))
EVERY = pytest.mark.parametrize("compression", COMPRESS)


class TestAStoredLayer:
    @EVERY
    def test_is_read_from_blocks(self, compression):
        archive = open_archive(cut(COMPRESS[compression](ARCHIVE), 1000), max_bytes=None)
        assert (compression, ARCHIVE) == (archive.compression, b"".join(map(bytes, archive)))

    @EVERY
    def test_is_read_from_a_file(self, compression):
        class Readable:  # without lines and iteration
            read = io.BytesIO(COMPRESS[compression](ARCHIVE)).read

        archive = open_archive(Readable(), max_bytes=None)
        assert (compression, ARCHIVE) == (archive.compression, b"".join(map(bytes, archive)))

    @EVERY
    def test_can_be_read_like_a_file(self, compression):
        archive = open_archive(cut(COMPRESS[compression](ARCHIVE), 1000), max_bytes=None)
        with tarfile.open(fileobj=archive, mode="r|") as packed:
            assert ["etc/motd", "big"] == packed.getnames()

    def test_is_iterated_from_the_current_position(self):
        archive = open_archive([ARCHIVE], max_bytes=None)
        assert ARCHIVE[:10] == archive.read(10)
        assert ARCHIVE[10:] == b"".join(map(bytes, archive))
        assert b"" == archive.read(10)

    def test_without_bytes_is_empty(self):
        archive = open_archive([], max_bytes=None)
        assert ("tar", b"") == (archive.compression, archive.read(1))

    def test_that_is_not_an_archive_is_rejected_at_once(self):
        with pytest.raises(LayerFormatUnsupported):
            open_archive([b"garbage" * 1000], max_bytes=None)

    def test_returns_no_more_than_its_limit(self):
        archive = open_archive(cut(COMPRESS["gzip"](ARCHIVE), 10), max_bytes=500_000)
        with pytest.raises(TooLarge):
            while archive.read(1000):
                pass


class TestADiffId:
    @EVERY
    def test_is_the_digest_of_the_uncompressed_bytes(self, compression):
        result = diff_id(cut(COMPRESS[compression](ARCHIVE), 1000), max_bytes=len(ARCHIVE))
        assert (compression, Digest.of(ARCHIVE), len(ARCHIVE)) == (result.compression, result.diff_id, result.size)

    def test_includes_the_bytes_after_the_end_of_the_tar(self):
        content = EMPTY + b"trailer" * 1000
        assert Digest.of(content) == diff_id([COMPRESS["gzip"](content)], max_bytes=None).diff_id

    def test_of_the_empty_layer_equals_that_of_docker(self):
        known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        assert known == str(diff_id([COMPRESS["gzip"](EMPTY)], max_bytes=None).diff_id)


class TestALayerBeingReceived:
    @EVERY
    def test_is_passed_on_uncompressed(self, compression):
        seen = DiffId()
        expansion = Expansion(seen, max_bytes=None)
        for block in cut(COMPRESS[compression](ARCHIVE), 777):
            expansion.update(memoryview(bytearray(block)))
        assert compression == expansion.finish()
        assert (hashlib.sha256(ARCHIVE).hexdigest(), len(ARCHIVE)) == (seen.digest.hex, seen.size)

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
