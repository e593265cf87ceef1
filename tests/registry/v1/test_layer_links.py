"""The description of an inspected layer, and its stored form."""

from __future__ import annotations

import hashlib

import pytest

from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import Digest
from docker_registry.registry.v1.layer_jobs import Inspection
from docker_registry.registry.v1.layer_links import MEDIA_TYPES, LayerLink
from tests.support.layers import COMPRESS, cut, member, tar

JSON = b'{"id": "x"}'
CONTENT = tar(member("etc/motd", content=b"hello" * 1000))


def inspected(layer, max_unpacked_bytes=10**9, block=1000):
    inspection = Inspection(JSON, limits=LayerLimits(max_bytes=max_unpacked_bytes))
    for part in cut(layer, block):
        inspection.update(memoryview(part))
    return inspection


def link_of(layer, **more):
    return inspected(layer, **more).link(Digest.of(layer), len(layer))


class TestALayer:
    @pytest.mark.parametrize("compression", COMPRESS)
    def test_is_identified_by_its_content(self, compression):
        layer = COMPRESS[compression](CONTENT)
        link = link_of(layer)
        assert MEDIA_TYPES[compression] == link.media_type
        assert Digest.of(CONTENT) == link.diff_id
        assert Digest.of(JSON) == link.image_json
        assert (Digest.of(layer), len(layer)) == (link.digest, link.size)

    def test_has_the_payload_sum_of_docker(self):
        layer = COMPRESS["gzip"](CONTENT)
        expected = "sha256:" + hashlib.sha256(JSON + b"\n" + layer).hexdigest()
        assert (expected,) == link_of(layer).checksums

    @pytest.mark.parametrize("block", [1, 511, 512, 513, 100_000])
    def test_may_arrive_in_blocks_of_any_size(self, block):
        layer = COMPRESS["gzip"](CONTENT)
        assert link_of(layer) == link_of(layer, block=block)

    def test_without_bytes_is_an_empty_archive(self):
        link = link_of(b"")
        assert (MEDIA_TYPES["tar"], Digest.of(b"")) == (link.media_type, link.diff_id)

    @pytest.mark.parametrize("layer", [b"no archive", b"x" * 5000, COMPRESS["gzip"](CONTENT)[:-9]])
    def test_that_is_not_an_archive_has_no_diff_id(self, layer):
        inspection = inspected(layer)
        link = inspection.link(Digest.of(layer), len(layer))
        assert not inspection.is_complete
        assert (MEDIA_TYPES[None], None) == (link.media_type, link.diff_id)

    def test_that_expands_beyond_the_limit_has_no_diff_id(self):
        link = link_of(COMPRESS["gzip"](bytes(100_000)), max_unpacked_bytes=99_999)
        assert (MEDIA_TYPES["gzip"], None) == (link.media_type, link.diff_id)


class TestALink:
    def test_is_read_as_written(self):
        for link in (link_of(COMPRESS["gzip"](CONTENT)), link_of(b"nothing")):
            assert link == LayerLink.parse(link.dump())

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"7", b'{"digest": "sha256:0"}', b"\xff"])
    def test_is_rejected_if_malformed(self, content):
        with pytest.raises(ValueError):
            LayerLink.parse(content)
