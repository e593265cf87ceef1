"""Layers that V1 clients cannot unpack: they are unpacked once, then served from the store."""

from __future__ import annotations

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import image_layout
from docker_registry.services import build
from tests.registry.bridge.both import OLD, V2, as_is, layer, push_v2, v1_image
from tests.support.multipart import parts_of
from tests.support.registries import Registry

PACKED, PLAIN = layer(1, zstd.compress), layer(1, as_is)


class Counting(MemoryDriver):
    """A store that records which files are read."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def stream_read(self, path, offset=0, length=None):
        self.reads.append(path)
        return super().stream_read(path, offset, length)


class TestALayerInZstd:
    @pytest.fixture
    def driver(self):
        return Counting()

    @pytest.fixture
    def get(self, driver):
        registry = Registry(driver)
        push_v2(registry, PACKED, media_types=["application/vnd.oci.image.layer.v1.tar+zstd"])
        top = v1_image(registry, OLD, V2)
        client = create_app(build(Config(), driver)).test_client()
        return lambda **headers: client.get(f"/v1/images/{top}/layer", headers=headers)

    def test_is_not_read_again_once_unpacked(self, driver, get):
        assert PLAIN == get().data
        packed = layout.blob_data(Digest.of(PACKED))
        assert packed in driver.reads
        driver.reads.clear()
        assert PLAIN[700:701] == get(Range="bytes=700-700").data
        answer = get(Range="bytes=1500-1509,0-9")
        assert [(1500, PLAIN[1500:1510]), (0, PLAIN[:10])] == parts_of(answer.content_type, answer.data)
        assert {image_layout.unpacked_layer(Digest.of(PLAIN))} == set(driver.reads)

    def test_is_unpacked_again_if_the_tar_was_deleted(self, driver, get):
        assert PLAIN == get().data
        driver.remove(image_layout.unpacked_layer(Digest.of(PLAIN)))
        assert PLAIN[1:] == get(Range="bytes=1-").data

    def test_is_not_served_if_its_compressed_bytes_changed(self, driver, get):
        assert PLAIN == get().data
        driver.remove(image_layout.unpacked_layer(Digest.of(PLAIN)))
        driver.put_content(layout.blob_data(Digest.of(PACKED)), layer(2, zstd.compress))
        assert 400 <= get().status_code
        assert not driver.exists(image_layout.unpacked_layer(Digest.of(PLAIN)))
