"""Legacy layers: only complete pushes are valid."""

from __future__ import annotations

import json
import random

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.layers.tarsum import tarsum
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import legacy_layers
from docker_registry.registry.v1.layer_reader import LayerReader
from tests.support.layers import COMPRESS, member, tar
from tests.support.v1_images import make

PATH = "images/x/layer"
GZIP = make(1)
TAR = make(2, layer=tar(member("etc/motd", content=b"hello" * 400)))
JUNK = make(3, layer=b"no tar at all" * 100)


def verify(image, *checksums, layer=None, is_finished=True):
    driver = MemoryDriver()
    driver.put_content(PATH, image.layer if layer is None else layer)
    return legacy_layers.verify(driver, PATH, image.payload, checksums, LayerReader(), is_finished=is_finished)


def tarsum_of(image):
    return tarsum(image.payload, [image.layer], max_bytes=None)


class TestALayerOfACompletedPush:
    @pytest.mark.parametrize("image", [GZIP, TAR, JUNK], ids=["gzip", "tar", "junk"])
    def test_is_valid_with_its_payload_sum(self, image):
        link = verify(image, "sha256:" + "0" * 64, image.payload_sum)
        assert (Digest.of(image.layer), len(image.layer)) == (link.digest, link.size)
        assert (image.payload_sum,) == link.checksums

    @pytest.mark.parametrize("image", [GZIP, TAR], ids=["gzip", "tar"])
    def test_is_valid_with_its_tarsum(self, image):
        assert (image.payload_sum, tarsum_of(image)) == verify(image, tarsum_of(image)).checksums

    @pytest.mark.parametrize("image", [GZIP, TAR, JUNK], ids=["gzip", "tar", "junk"])
    @pytest.mark.parametrize("kept", [0, 1, 100])
    def test_is_invalid_if_truncated(self, image, kept):
        assert None is verify(image, image.payload_sum, layer=image.layer[:kept])

    def test_is_invalid_after_a_bit_flip(self):
        layer = bytearray(TAR.layer)
        layer[600] ^= 1
        assert None is verify(TAR, TAR.payload_sum, layer=layer)
        assert None is verify(TAR, tarsum_of(TAR), layer=layer)

    @pytest.mark.parametrize("image", [GZIP, TAR, JUNK], ids=["gzip", "tar", "junk"])
    def test_without_a_checksum_is_valid_if_it_can_be_read_completely(self, image):
        assert (image.payload_sum,) == verify(image).checksums

    @pytest.mark.parametrize("compression", COMPRESS)
    def test_without_a_checksum_is_invalid_if_truncated(self, compression):
        layer = COMPRESS[compression](tar(member("etc/motd", content=random.Random(1).randbytes(20_000))))
        assert None is verify(make(1, layer=layer), layer=layer[: len(layer) // 2])


class TestALayerOfAnInterruptedPush:
    """0.7.1 wrote a checksum of the received bytes, so it alone proves nothing."""

    @pytest.mark.parametrize("image", [GZIP, TAR], ids=["gzip", "tar"])
    def test_is_valid_with_its_checksum_if_it_can_be_read_completely(self, image):
        assert verify(image, image.payload_sum, is_finished=False)

    @pytest.mark.parametrize("image", [GZIP, TAR], ids=["gzip", "tar"])
    def test_is_invalid_if_truncated_even_with_the_checksum_of_its_bytes(self, image):
        cut_off = make(1 if image is GZIP else 2, layer=image.layer[:100])
        assert cut_off.payload == image.payload
        assert None is verify(cut_off, cut_off.payload_sum, is_finished=False)

    def test_is_invalid_if_truncated_between_two_files(self):
        layer = tar("a", "b")
        cut_off = make(4, layer=layer[:512])
        assert verify(make(4, layer=layer), make(4, layer=layer).payload_sum, is_finished=False)
        assert None is verify(cut_off, cut_off.payload_sum, is_finished=False)

    def test_is_invalid_with_another_checksum(self):
        assert None is verify(GZIP, "sha256:" + "0" * 64, is_finished=False)

    def test_is_invalid_if_its_end_cannot_be_determined(self):
        assert None is verify(JUNK, JUNK.payload_sum, is_finished=False)
        assert None is verify(JUNK, is_finished=False)


class TestTheFileOfChecksums:
    @pytest.mark.parametrize(
        ("content", "checksums"),
        [
            (json.dumps(["a", "b"]).encode(), ("a", "b")),
            (b"[]", ()),
            (b"sha256:ab\n", ("sha256:ab",)),
            (b'"sha256:ab"', ("sha256:ab",)),
            (b'[1, null, "a\\nb"]', ()),
            (b"\xff\xfe", ()),
            ('["日本"]'.encode(), ()),
            (b"[" * 5000, ("[" * 5000,)),
        ],
    )
    def test_is_a_list_or_a_single_string_of_what_can_be_sent_in_a_header(self, content, checksums):
        assert checksums == legacy_layers.parse_checksums(content)
