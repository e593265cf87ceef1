"""Legacy layers are converted into blobs once, and an interruption loses nothing."""

from __future__ import annotations

import hashlib

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ImageUnfinished, StorageUnavailable
from docker_registry.registry import layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.v1.migration import Migration
from tests.registry.bridge import both
from tests.registry.conftest import NAME
from tests.registry.v1.test_races import Death, dying
from tests.support import v1_trees
from tests.support.registries import Registry
from tests.support.v1_images import Image, chain, make, pulled, push, store_raw


@pytest.fixture(params=["memory", "file"])
def make_driver(request, tmp_path):
    """A store with or without hard links that can die at a given change."""
    if request.param == "memory":
        return dying(MemoryDriver)
    return lambda: dying(FileDriver)(str(tmp_path / "store"))


@pytest.fixture
def driver(make_driver):
    return make_driver()


def migrate(driver, **options):
    return Migration(driver, Registry(driver).images, **options).run()


def blobs(driver):
    return {stat.path.split("/")[-2]: stat.size for stat in driver.walk(layout.BLOBS)}


class TestATreeOfAnOldServer:
    @pytest.mark.parametrize("name", v1_trees.NAMES)
    def test_is_served_before_during_and_after(self, tmp_path, name):
        store = v1_trees.copy(name, tmp_path / "store")
        before = v1_trees.digests_on_disk(store)
        driver = FileDriver(str(store))
        images = v1_trees.images(name)

        def serves_all(*_):
            registry = Registry(driver)
            for text, layer in images.items():
                _, file = registry.images.find_layer(ImageId(text))
                assert layer == b"".join(file.read())

        serves_all()
        report = Migration(driver, Registry(driver).images).run(serves_all)
        assert (len(before), [], {}) == (report.migrated, report.unfinished, report.failed)
        serves_all()
        assert before == v1_trees.digests_on_disk(store)

    @pytest.mark.parametrize("name", v1_trees.NAMES)
    def test_creates_no_second_copy_of_a_layer(self, tmp_path, name):
        store = v1_trees.copy(name, tmp_path / "store")
        migrate(FileDriver(str(store)))
        layers = list(store.glob("images/*/layer"))
        assert layers
        assert {2} == {layer.stat().st_nlink for layer in layers}

    def test_is_not_changed_by_a_dry_run(self, tmp_path):
        store = v1_trees.copy("registry-0.7.1", tmp_path / "store")
        driver = FileDriver(str(store))
        files = sorted((stat.path, stat.modified) for stat in driver.walk())
        report = migrate(driver, dry_run=True)
        assert files == sorted((stat.path, stat.modified) for stat in driver.walk())
        sizes = {path.parent.name: path.stat().st_size for path in store.glob("images/*/layer")}
        unfinished = sizes.pop(v1_trees.UNFINISHED)
        assert unfinished
        assert (len(sizes), sum(sizes.values())) == (report.migrated, report.migrated_bytes)
        assert [v1_trees.UNFINISHED] == report.unfinished


class TestALayer:
    def test_becomes_a_blob_under_its_digest(self, driver):
        images = chain(3)
        for image in images:
            store_raw(driver, image)
        report = migrate(driver)
        assert {hashlib.sha256(image.layer).hexdigest(): len(image.layer) for image in images} == blobs(driver)
        assert (3, 0, sum(len(image.layer) for image in images)) == (
            report.migrated, report.blobs, report.migrated_bytes,
        )  # fmt: skip
        assert all(image.layer == pulled(Registry(driver), image) for image in images)

    def test_is_not_touched_again(self, driver):
        store_raw(driver, make(1))
        push(Registry(driver), make(2))
        migrate(driver)
        report = migrate(driver)
        assert (0, 2) == (report.migrated, report.blobs)

    def test_that_is_already_a_blob_is_stored_once(self, driver):
        image = make(1)
        store_raw(driver, image)
        Registry(driver).uploads.put(NAME, Digest.of(image.layer), Content(image.layer))
        report = migrate(driver)
        assert (1, 1) == (report.migrated, report.shared)
        assert image.layer == pulled(Registry(driver), image)
        assert {Digest.of(image.layer).hex: len(image.layer)} == blobs(driver)

    @pytest.mark.parametrize("is_known", [False, True])
    def test_repairs_a_damaged_blob_of_the_same_length(self, driver, is_known):
        image = make(1)
        store_raw(driver, image)
        if is_known:
            Registry(driver).images.find_layer(image.id)
        driver.put_content(layout.blob_data(Digest.of(image.layer)), bytes(len(image.layer)))
        report = migrate(driver)
        assert ([], {}) == (report.unfinished, report.failed)
        assert image.layer == pulled(Registry(driver), image)
        assert image.layer == driver.get_content(layout.blob_data(Digest.of(image.layer)))

    def test_of_two_images_is_stored_once(self, driver):
        layer = make(1).layer
        images = [make(1, layer=layer), make(2, layer=layer)]
        for image in images:
            store_raw(driver, image)
        assert 1 == migrate(driver).shared
        assert 1 == len(blobs(driver))
        assert all(layer == pulled(Registry(driver), image) for image in images)

    def test_that_is_damaged_stays_and_is_reported(self, driver):
        image = make(1)
        store_raw(driver, image, layer=image.layer[:-3])
        assert [image.text] == migrate(driver).unfinished
        assert {} == blobs(driver)
        with pytest.raises(ImageUnfinished):
            Registry(driver).images.get(image.id)
        push(Registry(driver), image)
        assert image.layer == pulled(Registry(driver), image)

    @pytest.mark.parametrize("pack", [both.zipped, zstd.compress])
    def test_of_an_id_that_derives_from_v2_is_the_one_that_v1_pushed(self, driver, pack):
        registry = Registry(driver)
        both.push_v2(registry, both.layer(1, pack))
        top = both.v1_image(registry, both.OLD, both.V2)
        pushed = Image(str(top), registry.images.get(top).payload, both.zipped(b"another tar"), (str(top),))
        store_raw(driver, pushed)
        assert (1, 0) == ((report := migrate(driver)).migrated, report.shared)
        assert pushed.layer == b"".join(Registry(driver).images.find_pushed_layer(pushed.id)[1].read())
        for hex_ in blobs(driver):
            blob = Digest("sha256", hex_)
            assert blob == Digest.of(driver.get_content(layout.blob_data(blob)))

    def test_that_is_missing_is_reported(self, driver):
        image = make(1)
        store_raw(driver, image)
        driver.remove(f"images/{image.text}/layer")
        assert [image.text] == migrate(driver).without_layer

    def test_is_reported_and_retried_after_a_store_error(self, driver, monkeypatch):
        images = chain(2)
        for image in images:
            store_raw(driver, image)
        real = driver.stream_read

        def fail(path, *more):
            if images[0].text in path:
                raise StorageUnavailable
            return real(path, *more)

        monkeypatch.setattr(driver, "stream_read", fail)
        report = migrate(driver)
        assert ({images[0].text: "The store is temporarily unavailable."}, 1) == (report.failed, report.migrated)
        monkeypatch.undo()
        assert (1, {}) == ((report := migrate(driver)).migrated, report.failed)


class TestAnInterruptedRun:
    @pytest.mark.parametrize("changes", range(12))
    def test_loses_nothing_and_is_resumed(self, make_driver, changes):
        driver = make_driver()
        shared = make(1).layer
        images = [make(1), make(2), make(3, layer=shared)]
        for image in images:
            store_raw(driver, image)
        driver.changes_left = changes
        try:
            migrate(driver)
        except Death:
            pass
        driver.changes_left = None
        assert all(image.layer == pulled(Registry(driver), image) for image in images)
        migrate(driver)
        assert all(image.layer == pulled(Registry(driver), image) for image in images)
        assert 2 == len(blobs(driver))


class TestAnEmptyStore:
    def test_has_nothing_to_migrate(self, driver):
        driver.put_content("images/stray", b"")
        report = migrate(driver)
        assert (0, 0, []) == (report.migrated, report.blobs, report.without_layer)
