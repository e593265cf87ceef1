"""The contract of drivers on a real Glance server, and behavior specific to Glance."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

pytest.importorskip("keystoneauth1", reason="keystoneauth1 is not installed")
pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from docker_registry.config import flavors
from docker_registry.config.render import reference
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.glance.driver import GlanceDriver
from docker_registry.drivers.glance.images import GlanceImages
from docker_registry.drivers.glance.layers import GlanceLayers
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.swift.driver import SwiftDriver
from docker_registry.drivers.testing import DriverSuite, conditions
from docker_registry.errors import ConfigError, PathInvalid, PathNotFound, StorageError, StorageUnavailable
from docker_registry.registry import layout
from docker_registry.registry.names import Digest
from tests.drivers.test_swift import CuttingProxy
from tests.support import processes


class LayersOnly(GlanceDriver):
    """Treats every path as a layer if the suffix fits into its name, so that the whole contract applies to Glance."""

    def _is_layer(self, path):
        return len(path.rpartition("/")[2].encode()) < 240

    def _may_contain_layers(self, path):
        return True


@pytest.fixture(params=["file", "swift"])
def alternate(request):
    return request.param


@pytest.fixture
def options(request, alternate, glance_server, tmp_path):
    options = {"glance_url": glance_server.url, "storage_alternate": alternate}
    if alternate == "file":
        return {**options, "storage_path": str(tmp_path / "store")}
    swift = request.getfixturevalue("swift_server").options
    # An address without Keystone: the Glance of these tests requires no token.
    return {**options, **swift, "swift_auth_version": "1"}


class TestGlanceDriver(DriverSuite):
    """No path of the suite is a layer, so the alternate stores all of them; Swift has a suite of its own."""

    @pytest.fixture(params=["file", pytest.param("swift", marks=pytest.mark.slow)])
    def alternate(self, request):
        return request.param

    @pytest.fixture
    def driver(self, options):
        return GlanceDriver(**options)

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("what is no layer is the alternate's, and so are its faults")


@pytest.mark.slow
class TestGlanceDriverWithLayersOnly(DriverSuite):
    @pytest.fixture(autouse=True)
    def few_rounds(self, monkeypatch):
        # Glance takes a quarter of a second for every layer.
        monkeypatch.setattr(conditions, "ROUNDS", 4)
        monkeypatch.setattr(conditions, "RACERS", 10)

    @pytest.fixture
    def driver(self, glance_server, tmp_path):
        return LayersOnly(glance_url=glance_server.url, storage_path=str(tmp_path / "store"))

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("tested below")


LAYER = "images/0a1b/layer"
BLOB = "docker/registry/v2/blobs/sha256/9b/9b1d/data"
UPLOAD = "docker/registry/v2/repositories/lab/_uploads/1/0-5f0c"


@pytest.fixture
def driver(options):
    return GlanceDriver(**options)


@pytest.fixture
def images(glance_server):
    """Return the images of this test in Glance: sizes by names."""
    before = {image["id"] for image in _images(glance_server)}
    return lambda: {image["name"]: image["size"] for image in _images(glance_server) if image["id"] not in before}


def _images(glance_server):
    found, url = [], "/v2/images?limit=100"
    while url:
        page = requests.get(glance_server.url + url, timeout=30).json()
        found += page["images"]
        url = page.get("next")
    return found


class TestALayer:
    @pytest.mark.parametrize("path", [LAYER, BLOB])
    def test_is_stored_in_glance(self, driver, images, path):
        driver.stream_write(path, [b"con", b"tent"])
        assert {path: 7} == images()
        assert (b"content", b"nte", 7) == (
            driver.get_content(path),
            b"".join(driver.stream_read(path, 2, 3)),
            driver.get_size(path),
        )

    def test_is_listed_with_the_other_files(self, driver):
        driver.put_content(LAYER, b"content")
        driver.put_content("images/0a1b/json", b"{}")
        assert ["images/0a1b/json", LAYER] == sorted(driver.list_directory("images/0a1b"))
        assert [("images/0a1b/json", 2), (LAYER, 7)] == sorted((stat.path, stat.size) for stat in driver.walk())
        assert ["images"] == list(driver.list_directory())
        with pytest.raises(PathInvalid):
            driver.get_content(f"{LAYER}.glance")

    def test_comes_from_an_upload_in_progress(self, driver, images):
        driver.stream_write(UPLOAD, [b"content"])
        assert {} == images()
        driver.move(UPLOAD, BLOB)
        assert {BLOB: 7} == images()
        assert (b"content", False) == (driver.get_content(BLOB), driver.exists(UPLOAD))

    def test_may_be_empty(self, driver):
        driver.stream_write(LAYER, [])
        assert (b"", 0, True) == (driver.get_content(LAYER), driver.get_size(LAYER), driver.exists(LAYER))

    @pytest.mark.parametrize("removed", [LAYER, "images/0a1b", "images"])
    def test_is_removed_with_its_image(self, driver, images, removed):
        driver.put_content(LAYER, b"content")
        driver.remove(removed)
        assert {} == images()
        with pytest.raises(PathNotFound):
            driver.stat(LAYER)

    def test_is_replaced_with_its_image(self, driver, images):
        driver.put_content(LAYER, b"old")
        driver.put_content(LAYER, b"newer")
        assert {LAYER: 5} == images()

    @pytest.mark.parametrize("alternate", ["file"], indirect=True)
    def test_is_moved_and_linked_without_its_bytes(self, driver, images):
        driver.put_content(LAYER, b"content")
        driver.move(LAYER, BLOB)
        assert driver.link(BLOB, LAYER)
        assert {LAYER: 7} == images()
        driver.remove(BLOB)
        assert b"content" == driver.get_content(LAYER)

    def test_waits_in_glance_for_its_removal(self, driver, images, alternate):
        """Reclamation moves the bytes of a blob away some time before it removes them."""
        digest = Digest.of(b"content")
        path, waiting = layout.blob_data(digest), layout.removed_data(digest)
        driver.put_content(path, b"content")
        driver.move(path, waiting)
        assert {path: 7} == images()
        assert b"content" == driver.get_content(waiting)
        assert [waiting] == [stat.path for stat in driver.walk()]
        driver.remove(layout.removed_blob(digest))
        if alternate == "swift":  # it moves the pointer by copying it, so the image may have had two
            driver.remove_leftovers(-1)
        assert {} == images()

    def test_leaves_nothing_if_glance_rejects_it(self, driver, images):
        def blocks():
            yield b"half"
            raise OSError

        with pytest.raises(OSError):
            driver.stream_write(LAYER, blocks())
        assert ({}, False) == (images(), driver.exists(LAYER))

    def test_missing_in_glance_is_an_error(self, driver, glance_server):
        driver.put_content(LAYER, b"content")
        for image in _images(glance_server):
            if image["name"] == LAYER:
                requests.delete(f"{glance_server.url}/v2/images/{image['id']}", timeout=30)
        with pytest.raises(StorageError, match="lost"):
            driver.get_content(LAYER)


class TestALayerFromBeforeGlance:
    @pytest.fixture
    def driver(self, glance_server, tmp_path):
        FileDriver(str(tmp_path / "store")).put_content(LAYER, b"old")
        return GlanceDriver(glance_url=glance_server.url, storage_path=str(tmp_path / "store"))

    def test_is_served(self, driver):
        assert (b"old", 3, [LAYER]) == (
            driver.get_content(LAYER),
            driver.get_size(LAYER),
            list(driver.list_directory("images/0a1b")),
        )

    def test_is_replaced_by_one_in_glance(self, driver, images):
        driver.put_content(LAYER, b"newer")
        assert ({LAYER: 5}, b"newer") == (images(), driver.get_content(LAYER))
        driver.remove(LAYER)
        assert not driver.exists(LAYER)

    def test_is_moved_into_glance(self, driver, images):
        driver.move(LAYER, BLOB)
        assert ({BLOB: 3}, False) == (images(), driver.exists(LAYER))


class TestTheSweep:
    def test_knows_the_images_of_processes_that_started_at_the_same_time(self):
        class Store(MemoryDriver):
            def get_content(self, path):
                try:
                    return super().get_content(path)
                except PathNotFound:
                    if others:
                        tags.append(others.pop()._unreferenced_tag())
                    raise

        driver, tags = Store(), []
        others = [GlanceLayers(driver, None)]
        assert [GlanceLayers(driver, None)._unreferenced_tag()] == tags

    def test_removes_images_without_a_layer(self, driver, images):
        driver.put_content(LAYER, b"content")
        driver.link(LAYER, BLOB)
        driver.remove(LAYER)
        assert 0 == driver.remove_leftovers(0)
        assert b"content" == driver.get_content(BLOB)
        driver.remove(BLOB)
        assert {LAYER: 7} == images()
        assert 0 == driver.remove_leftovers(3600)
        assert 1 == driver.remove_leftovers(0)
        assert {} == images()

    def test_removes_the_image_of_a_layer_whose_replacement_was_interrupted(self, driver, images, monkeypatch):
        def interrupt(*_):
            raise StorageUnavailable

        driver.put_content(LAYER, b"old")
        with monkeypatch.context() as interrupted, pytest.raises(StorageUnavailable):
            interrupted.setattr(GlanceImages, "untag", interrupt)
            driver.put_content(LAYER, b"newer")
        assert b"newer" == driver.get_content(LAYER)
        assert 1 == driver.remove_leftovers(0)
        assert {LAYER: 5} == images()

    def test_reads_no_tag_of_api_v1_as_a_pointer(self, driver, images):
        driver.put_content("repositories/library/foo/tag_v1.glance", b"ab" * 32)
        driver.put_content(LAYER, b"content")
        driver.link(LAYER, BLOB)
        for path in (LAYER, BLOB):
            driver.remove(path)
        assert (1, {}) == (driver.remove_leftovers(0), images())

    def test_keeps_images_of_other_stores(self, driver, images, glance_server, tmp_path):
        other = GlanceDriver(glance_url=glance_server.url, storage_path=str(tmp_path / "other"))
        other.put_content(LAYER, b"content")
        other.link(LAYER, BLOB)
        other.remove("images")
        other.remove("docker")
        driver.put_content(LAYER, b"x")
        assert 0 == driver.remove_leftovers(0)
        assert 1 == other.remove_leftovers(0)


class TestFailingGlance:
    def test_is_asked_for_the_rest_of_an_interrupted_read(self, glance_server, tmp_path):
        content = bytes(range(256)) * 12_000
        with CuttingProxy(glance_server.port) as proxy:
            driver = GlanceDriver(glance_url=f"http://127.0.0.1:{proxy.port}", storage_path=str(tmp_path))
            driver.stream_write(LAYER, [content])
            proxy.cut_after = 1_000_000
            assert content == driver.get_content(LAYER)
            assert content[7:2_000_007] == b"".join(driver.stream_read(LAYER, 7, 2_000_000))
            assert proxy.cuts > 1

    def test_is_unavailable_and_loses_nothing_if_stopped(self, glance_server, tmp_path):
        with CuttingProxy(glance_server.port) as proxy:
            driver = GlanceDriver(glance_url=f"http://127.0.0.1:{proxy.port}", storage_path=str(tmp_path))
            driver.put_content(LAYER, b"content")
            proxy.is_down = True
            for verb in (driver.get_content, driver.remove, lambda path: driver.put_content(path, b"new")):
                with pytest.raises(StorageUnavailable):
                    verb(LAYER)
            proxy.is_down = False
            assert b"content" == driver.get_content(LAYER)

    def test_is_unavailable_if_unreachable(self, tmp_path):
        with pytest.raises(StorageUnavailable):
            GlanceDriver(glance_url=f"http://127.0.0.1:{processes.free_port()}", storage_path=str(tmp_path))

    @pytest.mark.parametrize("name", ["glance_url", "glance_authurl", "swift_authurl"])
    def test_reports_a_malformed_url(self, tmp_path, name):
        with pytest.raises(ConfigError, match=f"{name} is not a URL"):
            GlanceDriver(**{name: "http://[::1", "storage_path": str(tmp_path)})

    def test_reports_missing_settings(self, tmp_path):
        with pytest.raises(ConfigError, match="neither glance_url nor glance_authurl is set"):
            GlanceDriver(storage_path=str(tmp_path))


class TestThePageOfOpenStack:
    @pytest.mark.parametrize("own", [SwiftDriver.settings, GlanceDriver.settings], ids=["swift", "glance"])
    def test_lists_every_setting_with_its_default(self, own):
        sample = flavors.read(flavors.folder() / flavors.SAMPLE)
        tables = reference({"any": own}, sample)
        page = (Path(__file__).parent.parent.parent / "docs" / "openstack.md").read_text()
        rows = {row for row in tables.partition("storage: any")[2].splitlines() if row.startswith("| `")}
        assert [] == [row for row in rows if row not in page and not row.startswith("| `storage_path`")]
