"""Pulls of images: unchanged, and never incomplete."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown
from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import ImageId
from tests.support.registries import Registry
from tests.support.v1_images import chain, make, pulled, push, store_raw

IMAGE = make(1)


@pytest.fixture(params=["memory", "file"])
def driver(request, tmp_path):
    return MemoryDriver() if request.param == "memory" else FileDriver(str(tmp_path))


class TestAMissingImage:
    def test_is_unknown(self, registry):
        for ask in (registry.images.get, registry.images.find_layer, registry.images.ancestry, registry.images.check):
            with pytest.raises(ImageUnknown):
                ask(IMAGE.id)

    def test_is_unknown_if_only_its_mark_exists(self, registry, driver):
        driver.put_content(f"images/{IMAGE.text}/_inprogress", b"true")
        with pytest.raises(ImageUnknown):
            registry.images.get(IMAGE.id)


class TestAPushedImage:
    def test_is_served_byte_for_byte(self, registry):
        images = chain(3)
        push(registry, *images)
        for image in images:
            found = registry.images.get(image.id)
            assert (image.payload, len(image.layer)) == (found.payload, found.size)
            assert (image.payload_sum,) == found.checksums
            assert image.ancestry == registry.images.ancestry(image.id)
            assert image.layer == pulled(registry, image)

    def test_can_be_read_by_0_7_1_if_the_store_has_hard_links(self, tmp_path):
        registry = Registry(FileDriver(str(tmp_path)))
        push(registry, IMAGE)
        folder = tmp_path / "images" / IMAGE.text
        assert IMAGE.layer == (folder / "layer").read_bytes()
        assert 2 == (folder / "layer").stat().st_nlink
        assert IMAGE.payload == (folder / "json").read_bytes()
        assert [IMAGE.payload_sum] == json.loads((folder / "_checksum").read_text())
        assert [IMAGE.text] == json.loads((folder / "ancestry").read_text())
        assert {"json", "layer", "ancestry", "_checksum", "_blob"} == {path.name for path in folder.iterdir()}

    def test_is_served_from_its_link_if_another_server_deleted_its_blob(self, tmp_path):
        driver = FileDriver(str(tmp_path))
        push(Registry(driver), IMAGE)
        driver.remove("docker")
        assert IMAGE.layer == pulled(Registry(driver), IMAGE)

    def test_without_its_layer_can_be_pushed_again(self, registry, driver):
        push(registry, IMAGE)
        driver.remove("docker")
        if driver.exists(f"images/{IMAGE.text}/layer"):
            driver.remove(f"images/{IMAGE.text}/layer")
        with pytest.raises(ImageUnknown):
            registry.images.find_layer(IMAGE.id)
        push(registry, IMAGE)
        assert IMAGE.layer == pulled(registry, IMAGE)

    def test_that_is_removed_while_it_is_inspected_is_unknown(self, driver, monkeypatch):
        image = make(1, layer=b"no tar, so it is inspected again with other limits")
        push(Registry(driver), image)
        images = Registry(driver, layer_limits=LayerLimits(max_seconds=299)).images
        real, outcomes = driver.find_size, []

        def find_and_remove(path):
            size = real(path)
            for removed in ("docker", f"images/{image.text}/layer"):
                driver.discard(removed)
            return size

        def inspect():
            with pytest.raises(ImageUnknown) as raised:
                images.inspect_layer(image.id)
            outcomes.append(raised)

        monkeypatch.setattr(driver, "find_size", find_and_remove)
        request = threading.Thread(target=inspect, daemon=True)
        request.start()
        request.join(5)
        assert 1 == len(outcomes)


class TestAnImageDuringItsPush:
    def test_is_incomplete_until_its_checksum_is_verified(self, registry):
        registry.image_pushes.put_json(IMAGE.id, IMAGE.payload)
        with pytest.raises(ImageUnfinished):
            registry.images.get(IMAGE.id)
        registry.image_pushes.put_layer(IMAGE.id, Content(IMAGE.layer))
        for ask in (registry.images.get, registry.images.find_layer, registry.images.check):
            with pytest.raises(ImageUnfinished):
                ask(IMAGE.id)
        registry.image_pushes.put_checksum(IMAGE.id, IMAGE.checksum)
        assert IMAGE.layer == pulled(registry, IMAGE)


class TestALegacyLayer:
    @pytest.mark.parametrize("number", range(3))
    def test_is_served_with_any_checksum_of_the_old_server(self, registry, driver, number):
        checksum = [b"", IMAGE.payload_sum.encode(), json.dumps([IMAGE.payload_sum]).encode()][number]
        store_raw(driver, IMAGE, checksum=checksum)
        assert ((IMAGE.payload_sum,) if number else ()) == registry.images.get(IMAGE.id).checksums
        assert IMAGE.layer == pulled(registry, IMAGE)
        assert len(IMAGE.layer) == registry.images.get(IMAGE.id).size

    def test_is_verified_once(self, driver, monkeypatch):
        store_raw(driver, IMAGE)
        registry = Registry(driver)
        registry.images.find_layer(IMAGE.id)
        monkeypatch.setattr(driver, "stream_read", None)
        assert len(IMAGE.layer) == Registry(driver).images.find_layer(IMAGE.id)[1].size

    def test_that_is_damaged_is_never_served_and_can_be_pushed_again(self, registry, driver):
        store_raw(driver, IMAGE, layer=IMAGE.layer[:-5])
        with pytest.raises(ImageUnfinished):
            registry.images.find_layer(IMAGE.id)
        with pytest.raises(ImageUnfinished):
            Registry(driver).images.get(IMAGE.id)
        push(registry, IMAGE)
        assert IMAGE.layer == pulled(registry, IMAGE)

    @pytest.mark.parametrize("in_progress", [False, True])
    def test_that_is_damaged_is_read_once_for_concurrent_requests(self, registry, driver, monkeypatch, in_progress):
        store_raw(driver, IMAGE, layer=IMAGE.layer[:-5], in_progress=in_progress)
        real, reads = driver.stream_read, []

        def read_slowly(path, *more):
            reads.append(path)
            time.sleep(0.2)
            return real(path, *more)

        monkeypatch.setattr(driver, "stream_read", read_slowly)
        with ThreadPoolExecutor(4) as threads:
            requests = [threads.submit(registry.images.find_layer, IMAGE.id) for _ in range(4)]
            assert [ImageUnfinished] * 4 == [type(request.exception()) for request in requests]
        assert [f"images/{IMAGE.text}/layer"] == reads

    def test_does_not_match_damaged_json_until_that_is_restored(self, registry, driver):
        store_raw(driver, IMAGE)
        driver.put_content(f"images/{IMAGE.text}/json", IMAGE.payload + b" ")
        for _ in range(2):
            with pytest.raises(ImageUnfinished):
                registry.images.find_layer(IMAGE.id)
        driver.put_content(f"images/{IMAGE.text}/json", IMAGE.payload)
        assert IMAGE.layer == pulled(registry, IMAGE)

    def test_of_an_interrupted_push_is_served_if_complete(self, registry, driver):
        store_raw(driver, IMAGE, in_progress=True)
        assert IMAGE.payload == registry.images.get(IMAGE.id).payload
        assert IMAGE.layer == pulled(registry, IMAGE)
        assert not driver.exists(f"images/{IMAGE.text}/_inprogress")

    def test_of_an_interrupted_push_is_not_served_if_truncated(self, registry, driver):
        """0.7.1 stored the checksum of the received bytes, complete or not."""
        cut_off = make(1, layer=IMAGE.layer[:-5])
        store_raw(driver, cut_off, in_progress=True)
        for _ in range(2):
            with pytest.raises(ImageUnfinished):
                registry.images.get(IMAGE.id)

    def test_of_an_interrupted_push_is_not_served_without_its_ancestry(self, registry, driver):
        store_raw(driver, IMAGE, in_progress=True)
        driver.remove(f"images/{IMAGE.text}/ancestry")
        with pytest.raises(ImageUnfinished):
            registry.images.get(IMAGE.id)

    def test_without_a_checksum_is_served_once_its_push_is_abandoned(self, driver):
        store_raw(driver, IMAGE, checksum=b"", in_progress=True)
        began = driver.stat(f"images/{IMAGE.text}/_inprogress").modified

        def images(now):
            return Registry(driver, upload_ttl_seconds=60, now=lambda: now).images

        with pytest.raises(ImageUnfinished):
            images(began + 59).get(IMAGE.id)
        assert IMAGE.payload == images(began + 61).get(IMAGE.id).payload

    def test_of_an_image_without_json_is_ignored(self, registry, driver):
        driver.put_content(f"images/{IMAGE.text}/layer", IMAGE.layer)
        with pytest.raises(ImageUnknown):
            registry.images.find_layer(IMAGE.id)

    def test_that_is_missing_gives_an_image_without_a_size(self, registry, driver):
        store_raw(driver, IMAGE)
        driver.remove(f"images/{IMAGE.text}/layer")
        assert None is registry.images.get(IMAGE.id).size
        with pytest.raises(ImageUnknown):
            registry.images.find_layer(IMAGE.id)


class TestAnAncestry:
    @pytest.mark.parametrize("content", [b"", b"{", b"7", b"null"])
    def test_that_is_damaged_is_unknown(self, registry, driver, content):
        driver.put_content(f"images/{IMAGE.text}/ancestry", content)
        with pytest.raises(ImageUnknown):
            registry.images.ancestry(ImageId(IMAGE.text))
