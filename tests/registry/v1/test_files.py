"""The files of an image and its changes: computed once, and correctly."""

from __future__ import annotations

import pytest

from docker_registry.errors import DiffUnavailable, ImageUnfinished, ImageUnknown, LayerFormatUnsupported, TooLarge
from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import Digest
from docker_registry.registry.v1.files import ImageFiles
from docker_registry.registry.v1.layer_reader import LayerReader
from tests.support.layers import COMPRESS, member, tar
from tests.support.registries import Registry
from tests.support.v1_images import chain, loads, make, push, store_raw

BASE = make(1, layer=tar(member("etc/keep", content=b"a"), member("etc/drop", content=b"b")))
TOP = make(2, BASE, layer=tar(member("etc/.wh.drop"), member("etc/keep", content=b"c"), member("new", content=b"d")))

DROP = ["f", True, 0, 1400000000, 420, 0, 0]
KEEP = ["f", False, 1, 1400000000, 420, 0, 0]


class Queue(list):
    """A queue in memory."""

    def push(self, image_id):
        self.append(image_id)


class TestTheFilesOfAnImage:
    @pytest.mark.parametrize("compression", COMPRESS)
    def test_are_listed_for_every_compression(self, registry, compression):
        image = make(3, layer=COMPRESS[compression](TOP.layer))
        push(registry, image)
        expected = [["etc/drop", *DROP], ["etc/keep", *KEEP], ["new", *KEEP]]
        assert expected == loads(registry.image_files.files(image.id))

    def test_are_stored_beside_the_image_apart_from_those_of_0_7_1(self, registry, driver, monkeypatch):
        push(registry, BASE)
        driver.put_content(f"images/{BASE.text}/_files", b"[]")
        first = loads(registry.image_files.files(BASE.id))
        assert 2 == len(first)
        monkeypatch.setattr(driver, "stream_read", None)
        assert first == loads(registry.image_files.files(BASE.id))

    @pytest.mark.parametrize("content", [b"", b"sha256:0\n{}", b"junk"])
    def test_are_computed_again_if_the_stored_list_is_invalid(self, registry, driver, content):
        push(registry, BASE)
        first = loads(registry.image_files.files(BASE.id))
        kept = driver.get_content(f"images/{BASE.text}/_filelist")
        digest = kept.partition(b"\n")[0]
        for damaged in (content, digest + b"\nnot a list"):
            driver.put_content(f"images/{BASE.text}/_filelist", damaged)
            assert first == loads(registry.image_files.files(BASE.id))

    def test_of_a_legacy_layer_are_listed(self, registry, driver):
        store_raw(driver, BASE)
        assert 2 == len(loads(registry.image_files.files(BASE.id)))

    @pytest.mark.parametrize("layer", [b"no tar", COMPRESS["gzip"](b"no tar" * 200), COMPRESS["xz"](TOP.layer)[:-9]])
    def test_are_missing_if_the_layer_is_not_a_tar(self, registry, layer):
        image = make(3, layer=layer)
        push(registry, image)
        with pytest.raises(LayerFormatUnsupported, match="Layer format not supported"):
            registry.image_files.files(image.id)

    def test_of_a_decompression_bomb_are_not_read_to_the_end(self, driver):
        registry = Registry(driver, layer_limits=LayerLimits(max_bytes=1_000_000))
        image = make(3, layer=COMPRESS["gzip"](tar(member("zeros", content=bytes(2_000_000)))))
        push(registry, image)
        with pytest.raises(TooLarge):
            registry.image_files.files(image.id)

    @pytest.mark.parametrize("ask", ["files", "diff"])
    @pytest.mark.parametrize("outdated", [None, "of another layer", "in another format"])
    def test_that_were_rejected_are_not_read_again_until_the_limits_change(self, driver, monkeypatch, ask, outdated):
        image = make(3, layer=COMPRESS["gzip"](tar(member("zeros", content=bytes(2_000_000)))))
        registry = Registry(driver, layer_limits=LayerLimits(max_bytes=1_000_000))
        push(registry, image)
        if outdated is not None:
            digest = Digest.of(b"another layer" if outdated == "of another layer" else image.layer)
            driver.put_content(f"images/{image.text}/_filelist", f"{digest}\nno list".encode())
        with pytest.raises(TooLarge) as first:
            getattr(registry.image_files, ask)(image.id)
        with monkeypatch.context() as patch:
            patch.setattr(driver, "stream_read", None)
            with pytest.raises(TooLarge) as second:
                getattr(registry.image_files, ask)(image.id)
        assert (first.value.sentence, first.value.detail) == (second.value.sentence, second.value.detail)
        assert loads(getattr(Registry(driver).image_files, ask)(image.id))

    def test_of_many_files_are_never_held_in_memory(self, registry):
        image = make(3, layer=tar(*(f"directory/file-{number}" for number in range(5000))))
        push(registry, image)
        first = loads(registry.image_files.files(image.id))
        again = registry.image_files.files(image.id)
        assert (5000, None) == (len(first), again.content)
        assert first == loads(again)

    def test_are_unknown_if_the_image_is(self, registry):
        for ask in (registry.image_files.files, registry.image_files.diff):
            with pytest.raises(ImageUnknown):
                ask(BASE.id)

    def test_are_rejected_during_the_push_of_the_image(self, registry):
        registry.image_pushes.put_json(BASE.id, BASE.payload)
        registry.image_pushes.put_layer(BASE.id, Content(BASE.layer))
        for ask in (registry.image_files.files, registry.image_files.diff):
            with pytest.raises(ImageUnfinished):
                ask(BASE.id)


class TestADiff:
    def test_lists_the_changes_of_an_image_to_its_ancestors(self, registry):
        push(registry, BASE, TOP)
        expected = {"deleted": {"etc/drop": DROP}, "changed": {"etc/keep": KEEP}, "created": {"new": KEEP}}
        assert expected == loads(registry.image_files.diff(TOP.id))

    def test_is_stored_beside_the_image(self, registry, driver, monkeypatch):
        push(registry, BASE, TOP)
        first = loads(registry.image_files.diff(TOP.id))
        driver.remove(f"images/{BASE.text}/_filelist")
        monkeypatch.setattr(driver, "stream_read", None)
        assert first == loads(registry.image_files.diff(TOP.id))

    def test_is_rejected_if_it_exceeds_the_limits(self, registry, driver):
        push(registry, BASE, TOP)
        bound = len(BASE.layer) + len(TOP.layer)
        for max_diff_bytes, is_refused in ((bound - 1, True), (bound, False)):
            files = ImageFiles(driver, registry.images, LayerReader(), max_diff_bytes=max_diff_bytes)
            if is_refused:
                with pytest.raises(DiffUnavailable, match="Diff queue is disabled"):
                    files.diff(TOP.id)
            else:
                assert files.diff(TOP.id)

    def test_reads_no_layer_whose_files_are_known(self, registry, driver):
        push(registry, BASE, TOP)
        for image in (BASE, TOP):
            registry.image_files.files(image.id)
        assert ImageFiles(driver, registry.images, LayerReader(), max_diff_bytes=0).diff(TOP.id)

    def test_reads_the_lists_of_the_ancestors_one_by_one(self, registry, driver, monkeypatch):
        push(registry, BASE, TOP)
        for image in (BASE, TOP):
            registry.image_files.files(image.id)
        real, reads = driver.stream_read, []
        monkeypatch.setattr(driver, "stream_read", lambda path, *more: reads.append(path) or real(path, *more))
        registry.image_files.diff(TOP.id)
        assert [f"images/{image.text}/_filelist" for image in (TOP, BASE)] == reads

    def test_of_a_long_chain_is_computed(self, registry):
        images = chain(30)
        push(registry, *images)
        assert ["etc/conf-30"] == list(loads(registry.image_files.diff(images[-1].id))["created"])


class TestADiffWithAQueue:
    @pytest.fixture
    def queue(self):
        return Queue()

    @pytest.fixture
    def registry(self, driver, queue):
        return Registry(driver, diff_queue=queue)

    def test_waits_for_a_worker(self, registry, queue):
        push(registry, BASE, TOP)
        assert None is registry.image_files.diff(TOP.id)
        assert [TOP.id] == queue
        registry.image_files.compute_diff(TOP.id)
        assert registry.image_files.diff(TOP.id)
        assert [TOP.id] == queue

    def test_of_an_unknown_image_does_not_wait(self, registry, queue):
        with pytest.raises(ImageUnknown):
            registry.image_files.diff(TOP.id)
        assert [] == queue

    def test_is_queued_after_a_push(self, registry, queue):
        registry.image_files.request_diff(TOP.id)
        assert [TOP.id] == queue
