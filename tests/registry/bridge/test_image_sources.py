from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ImageUnknown
from docker_registry.registry import layout
from docker_registry.registry.bridge.image_sources import ImageSources
from docker_registry.registry.manifest_payload import OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.names import Digest
from docker_registry.resources.memory_budget import JsonBudget
from docker_registry.resources.time_slices import TimeSlices
from tests.support.timing import quickest

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class CountingDriver(MemoryDriver):
    """Counts reads."""

    reads = 0

    def get_content(self, path):
        self.reads += 1
        return super().get_content(path)


@pytest.fixture
def driver():
    return CountingDriver()


@pytest.fixture
def sources(driver):
    return ImageSources(driver, "linux/amd64", JsonBudget(TimeSlices()))


def put(driver, document):
    content = json.dumps(document).encode()
    driver.put_content(layout.blob_data(Digest.of(content)), content)
    return Digest.of(content)


def image(driver, **config):
    """An image with one layer; returns its manifest's digest."""
    layer = Digest.of(b"layer")
    config = put(driver, {"rootfs": {"type": "layers", "diff_ids": [str(layer)]}, **config})
    layers = [{"mediaType": LAYER, "digest": str(layer), "size": 5}]
    descriptor = {"mediaType": CONFIG, "digest": str(config), "size": 1}
    return put(driver, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": layers})


class TestImages:
    def test_are_read_once(self, driver, sources):
        digest = image(driver)
        first, reads = sources.get(digest), driver.reads
        assert first is sources.get(digest)
        assert reads == driver.reads

    def test_use_bounded_memory(self, driver, sources):
        digests = [image(driver, number=number, text="x" * 3_000_000) for number in range(12)]
        tracemalloc.start()
        try:
            for digest in digests:
                sources.get(digest)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 20 * 1024 * 1024 > kept

    @pytest.mark.parametrize(
        "value", [[[]] * 50_000, {str(number): 1 for number in range(30_000)}], ids=["list", "map"]
    )
    def test_with_too_many_values_are_rejected_once_and_remembered(self, driver, sources, value):
        with pytest.raises(ImageUnknown, match="manifest has too many values"):
            sources.get(put(driver, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": value}))
        digests = [image(driver, x=value, number=number) for number in range(5)]
        left = digests.copy()

        def refuse():
            with pytest.raises(ImageUnknown, match="configuration has too many values"):
                sources.get(left.pop())

        assert 0.05 > quickest(refuse, len(digests), time.thread_time)
        digest, reads = digests[0], driver.reads
        with pytest.raises(ImageUnknown, match="values"):
            sources.get(digest)
        assert reads == driver.reads

    @pytest.mark.parametrize(
        "more",
        [
            {"manifests": ["no child"]},
            {"manifests": [{"mediaType": OCI_MANIFEST}]},
            {"manifests": [{"digest": "sha256:short"}]},
            {"manifests": {"digest": 7}},
            {"layers": ["no layer"]},
            {"layers": [{"mediaType": LAYER, "digest": None}]},
            {"layers": 7},
        ],
    )
    def test_of_other_servers_with_an_unusual_structure_are_rejected(self, driver, sources, more):
        config = {"mediaType": CONFIG, "digest": str(put(driver, {"rootfs": {}})), "size": 1}
        media_type = OCI_INDEX if "manifests" in more else OCI_MANIFEST
        digest = put(driver, {"schemaVersion": 2, "mediaType": media_type, "config": config, **more})
        with pytest.raises(ImageUnknown):
            sources.get(digest)

    def test_that_lack_a_part_are_read_again_later(self, driver, sources):
        child = image(driver)
        content = driver.get_content(layout.blob_data(child))
        platform = {"os": "linux", "architecture": "amd64"}
        index = put(
            driver,
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [{"mediaType": OCI_MANIFEST, "digest": str(child), "size": 1, "platform": platform}],
            },
        )
        driver.remove(layout.blob_data(child))
        with pytest.raises(ImageUnknown):
            sources.get(index)
        driver.put_content(layout.blob_data(child), content)
        assert child == sources.get(index).manifest
