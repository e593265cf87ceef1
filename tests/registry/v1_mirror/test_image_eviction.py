"""Eviction of images that came from a mirrored registry of API V1, and what keeps them."""

from __future__ import annotations

import json
import math
import random
import time
from functools import partial

import gevent
import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.mirror.eviction import RECENT_SECONDS
from docker_registry.registry.names import Digest
from docker_registry.registry.reclamation import MOVE_SECONDS, REMOVE_SECONDS
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1_mirror.stored_images import SETTLE_SECONDS
from tests.registry.mirror.test_eviction import exchange, follow
from tests.registry.v1_mirror.conftest import Mirrored, Recording
from tests.registry.v1_mirror.test_bridged_images import serve_tags
from tests.registry.v1_mirror.test_mirrored_images import serve
from tests.support import v1_images
from tests.support.clients.v2 import digest_of, encoded
from tests.support.clock import Clock
from tests.support.images import Image, make_index, make_tar
from tests.support.interleaving import copied
from tests.support.registries import closing_services

AN_HOUR, A_DAY = 3600, 86400

V1 = f"{layout.ROOT}/_v1"

#: Images of repositories of the source, with layers of their own; the second one is the parent of the first one.
BASE = v1_images.make(1, layer=random.Random(1).randbytes(5000))
TOP = v1_images.make(2, BASE, layer=random.Random(2).randbytes(6000))
OTHER = v1_images.make(3, layer=random.Random(3).randbytes(7000))
NAMES = {"acme/top": TOP, "acme/other": OTHER}


class Evicting(Mirrored):
    """A mirror that evicts, by a clock."""

    def __init__(self, driver, url, **options):
        super().__init__(driver, url, **options)
        self.clock = Clock(time.time())
        follow(self.driver, self.clock)
        mirror, registry = self.services.mirror, self.services.registry
        registry.blobs.removed._now = registry.reclamation._now = self.clock
        mirror.pulls._now = mirror.eviction._now = self.services.v1_mirror.stored_images._now = self.clock
        self.observe = self.services.observers[0]

    def pull(self, name, tag="latest"):
        pulled = super().pull(name, tag)
        for text in pulled:
            for route in ("v1_images.get_json", "v1_images.get_layer"):
                self.observe(exchange(route, "", "")._replace(reference=text))
        return pulled

    def evict(self, wait=RECENT_SECONDS + 60):
        """Write the pulls, and evict after a while."""
        self.services.mirror.pulls.flush()
        self.clock.now += wait
        return self.services.mirror.eviction.run()

    def reclaim(self):
        return sum(self.evict(wait).removed for wait in (MOVE_SECONDS, SETTLE_SECONDS, REMOVE_SECONDS))

    def has(self, image):
        """Return whether an image is in the store; there must be all its files or none."""
        files = {each.path for each in self.driver.walk(f"images/{image.text}")}
        stored = self.driver.exists(f"docker/registry/v2/_mirror/_v1/stored/{image.text}")
        assert bool(files) == stored == self.driver.exists(f"images/{image.text}/_blob")
        return stored

    @property
    def blobs(self):
        return sum(each.size for each in self.driver.walk(layout.BLOBS))


@pytest.fixture
def source(source):
    """A registry with the images."""
    for name, image in {**NAMES, "acme/base": BASE}.items():
        serve(source, image, {"X-Docker-Payload-Checksum": image.payload_sum}, name=name)
    return source


@pytest.fixture
def evicting(driver, request):
    def make(url=None, driver=driver, **options):
        return Evicting(driver, url or request.getfixturevalue("source").url, **options)

    with closing_services(make) as open_one:
        yield open_one


class TestAnImageOfTheSource:
    @pytest.mark.parametrize("kind", ["memory", "file"])
    def test_is_evicted_when_it_was_pulled_least_recently(self, evicting, source, kind, tmp_path):
        store = MemoryDriver() if kind == "memory" else FileDriver(storage_path=tmp_path / "store")
        mirror = evicting(driver=store, max_bytes=len(TOP.layer + OTHER.layer))
        for name in NAMES:
            assert NAMES[name].layer in dict(mirror.pull(name).values()).values()
        assert 0 == mirror.evict(60).blobs, "pulled just now"
        mirror.clock.now += AN_HOUR
        mirror.pull("acme/other")
        evicted = mirror.evict()
        assert (1, len(BASE.layer)) == (evicted.blobs, evicted.size)
        assert [False, True, True] == [mirror.has(image) for image in (BASE, TOP, OTHER)]
        assert len(BASE.layer) == mirror.reclaim()
        assert len(TOP.layer + OTHER.layer) == mirror.blobs
        for folder in (layout.REMOVED, "docker/registry/v2/_mirror/_v1/removed"):
            assert [] == list(mirror.driver.walk(folder))
        source.requests.clear()
        assert {BASE.text: (BASE.payload, BASE.layer), TOP.text: (TOP.payload, TOP.layer)} == mirror.pull("acme/top")
        assert [f"/v1/images/{BASE.text}/layer"] == [path for path in source.asked() if path.endswith("/layer")]
        source.stop()
        assert [TOP.text] == list(mirror.pull("acme/top"))[1:]

    def test_is_pulled_again_at_any_time_after_its_eviction(self, evicting):
        mirror = evicting(max_bytes=1)
        pulled = mirror.pull("acme/top")
        for waits in ((), (MOVE_SECONDS,), (MOVE_SECONDS, SETTLE_SECONDS), (REMOVE_SECONDS / 6,) * 8):
            assert 2 == mirror.evict(AN_HOUR).blobs
            for wait in waits:
                mirror.evict(wait)
            assert pulled == mirror.pull("acme/top")

    def test_stays_if_it_is_fetched_again_while_the_last_of_it_is_removed(self, evicting, source):
        mirror = evicting(max_bytes=1)
        pulled = mirror.pull("acme/base")
        gevent.sleep(0.01)  # the transfer ends
        assert 1 == mirror.evict(AN_HOUR).blobs
        mirror.clock.now += SETTLE_SECONDS
        stored = mirror.services.v1_mirror.stored_images
        discard = stored._discard_files
        stored._discard_files = lambda image_id: (mirror.pull("acme/base"), discard(image_id))
        stored.settle()
        assert mirror.has(BASE)
        source.stop()
        assert pulled == mirror.pull("acme/base")

    def test_stays_while_it_is_pulled_or_sent(self, evicting):
        mirror = evicting(max_age=AN_HOUR)
        for _ in range(9):
            mirror.pull("acme/other")
            assert 0 == mirror.evict(AN_HOUR / 6).blobs
        with mirror.services.mirror.pulls.sending_image(OTHER.text):
            mirror.services.mirror.pulls._record = lambda *_: None  # the task that records it is late
            assert 0 == mirror.evict(A_DAY).blobs
        assert 1 == mirror.evict(0).blobs


CHILD = v1_images.make(9, TOP)


def push_child(mirror):
    v1_images.push(mirror.services.require_legacy(), CHILD)


def begin_push(mirror):
    mirror.services.require_legacy().image_pushes.put_json(CHILD.id, CHILD.payload)


def push_tag(mirror):
    assert 200 == mirror.client.put("/v1/repositories/mine/app/tags/v1", json=TOP.text).status_code


def push_list(mirror):
    assert 200 == mirror.client.put("/v1/repositories/mine/app/", json=[{"id": TOP.text}]).status_code


PUSHES = (push_child, begin_push, push_tag, push_list)


class TestAnImageThatPushedContentNeeds:
    @pytest.mark.parametrize("push", PUSHES)
    def test_stays_and_does_not_count(self, evicting, source, push):
        mirror = evicting(max_bytes=1)
        pulled = mirror.pull("acme/top")
        mirror.pull("acme/other")
        push(mirror)
        evicted = mirror.evict()
        assert (1, 0) == (evicted.blobs, evicted.left)
        assert [True, True, False] == [mirror.has(image) for image in (BASE, TOP, OTHER)]
        source.stop()
        mirror.reclaim()
        assert pulled == mirror.pull("acme/top")

    @pytest.mark.parametrize("push", PUSHES)
    def test_is_restored_if_the_push_found_it_just_before_its_removal(self, evicting, source, push):
        """Its files are removed while the push writes what needs them."""
        mirror = evicting(max_bytes=1)
        pulled = mirror.pull("acme/top")
        stored = mirror.services.v1_mirror.stored_images
        discard = stored._discard_files
        stored._discard_files = lambda image_id: (push(mirror) if image_id == TOP.id else None, discard(image_id))
        removed = [mirror.evict().blobs, mirror.has(TOP)]
        stored._discard_files = discard
        assert [2, False] == removed
        source.stop()
        for wait in (MOVE_SECONDS, SETTLE_SECONDS, REMOVE_SECONDS, REMOVE_SECONDS):
            mirror.evict(wait)
        assert pulled == mirror.pull("acme/top")
        assert [True, True] == [mirror.has(image) for image in (BASE, TOP)]


class Dying(MemoryDriver):
    """A store whose process dies after a number of changes."""

    left = None

    def _count_change(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    def put_content(self, *arguments, **options):
        self._count_change()
        return super().put_content(*arguments, **options)

    def remove(self, *arguments):
        self._count_change()
        return super().remove(*arguments)

    def remove_if_match(self, *arguments):
        self._count_change()
        return super().remove_if_match(*arguments)


class TestAProcessThatDiesDuringAnEviction:
    def test_leaves_an_image_that_is_pulled_as_before(self, source):
        driver, deaths = Dying(), 0
        with closing_services(partial(Evicting, url=source.url, max_bytes=1)) as open_mirror:
            first = open_mirror(driver)
            pulled = first.pull("acme/base")
            lease = layout.lease("mirror-eviction")
            before = copied(driver)._files
            while True:
                driver._files, driver.left = dict(before), deaths
                try:
                    first.evict()
                    break
                except KeyboardInterrupt:
                    driver.left = None
                for is_needed in (False, True):
                    store = copied(driver)
                    store.discard(lease)
                    if is_needed:
                        store.put_content("repositories/mine/app/tag_v1", BASE.text.encode())
                    later = open_mirror(store)
                    later.clock.now = first.clock.now
                    for wait in (MOVE_SECONDS, SETTLE_SECONDS, REMOVE_SECONDS, REMOVE_SECONDS):
                        later.evict(wait)
                    if is_needed:
                        assert later.has(BASE), deaths
                        found = later.services.require_legacy().images.find_layer(BASE.id)[1]
                        assert BASE.layer == b"".join(found.read()), deaths
                    else:
                        assert pulled == later.pull("acme/base"), deaths
                deaths += 1
        assert deaths > 5


class TestAProcessThatDiesWhileItStoresAnImage:
    def test_leaves_no_image_that_is_never_evicted(self, source):
        driver = Recording()
        with closing_services(partial(Evicting, url=source.url, max_bytes=1)) as open_mirror:
            open_mirror(driver).pull("acme/base")
            committed = [state for state in driver.states if state.exists(f"images/{BASE.text}/_blob")]
            assert len(committed) > 3
            for state in committed:
                assert 1 == open_mirror(state).evict(A_DAY).blobs
                # A layer that waited for its checksum is purged as an abandoned upload.
                assert [] == [file.path for file in state.walk("images") if "/_received/" not in file.path]

    def test_leaves_no_image_that_is_evicted_after_it_was_pushed(self, source):
        """The process has listed the image, but not committed it."""
        driver = Recording()
        stored = f"{layout.MIRROR}/_v1/stored/{BASE.text}"
        with closing_services(partial(Evicting, url=source.url, max_bytes=1)) as open_mirror:
            open_mirror(driver).pull("acme/base")
            state = next(state for state in driver.states if state.exists(stored))
            assert not state.exists(f"images/{BASE.text}/_blob")
            later = open_mirror(state)
            v1_images.push(later.services.require_legacy(), BASE)
            assert 0 == later.evict(A_DAY).blobs
            assert BASE.layer == b"".join(later.services.require_legacy().images.find_layer(BASE.id)[1].read())


class TestAnImageOfAV2Source:
    def test_stays_while_it_is_pulled_by_v1(self, v2_source, evicting):
        index = make_index("evicted bridged")
        for image in index.images:
            v2_source.add("library/app", image.digest, image)
        v2_source.put_manifest("library/app", "latest", index.manifest, index.media_type)
        serve_tags(v2_source, "latest")
        mirror = evicting(url=v2_source.url, max_age=AN_HOUR)
        pulled = mirror.pull("library/app")
        for _ in range(9):
            mirror.pull("library/app")
            assert 0 == mirror.evict(AN_HOUR / 6).blobs
        v2_source.stop()
        assert pulled == mirror.pull("library/app")
        assert len({index.digest, *index.images[0].contents}) == mirror.evict(A_DAY).blobs

    def test_has_copies_of_an_earlier_version_evicted(self, v2_source, evicting):
        """Which had no record of the layer of a copy."""
        plain = make_tar({"file": bytes(9000)})
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest_of(plain)]}}
        image = Image("amd64", encoded(config), (zstd.compress(plain),))
        v2_source.add("library/app", "latest", image)
        serve_tags(v2_source, "latest")
        mirror = evicting(url=v2_source.url, max_bytes=1)
        mirror.pull("library/app")
        copy, unknown = (image_layout.unpacked_layer(Digest.of(each)) for each in (plain, b"of an unknown layer"))
        mirror.driver.put_content(unknown, b"of an unknown layer")
        assert mirror.driver.discard(image_layout.UNPACKED_FROM)
        mirror.services.mirror.eviction.copies._now = mirror.clock
        evicted = mirror.evict(A_DAY)
        assert sum(map(len, (*image.contents.values(), plain))) == evicted.size
        assert [True, False] == [mirror.driver.exists(path) for path in (copy, unknown)]
        mirror.reclaim()
        assert [] == [path for folder in ("unpacked", "unpacked-from") for path in mirror.driver.walk(f"{V1}/{folder}")]

    def test_counts_with_its_uncompressed_copies_and_takes_them_along(self, v2_source, evicting):
        plain = [make_tar({"file": bytes(9000 + number)}) for number in range(2)]
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest_of(each) for each in plain]}}
        image = Image("amd64", encoded(config), tuple(map(zstd.compress, plain)))
        v2_source.add("library/app", "latest", image)
        serve_tags(v2_source, "latest")
        mirror = evicting(url=v2_source.url, max_bytes=sum(map(len, plain)))
        copies = [image_layout.unpacked_layer(Digest.of(each)) for each in plain]
        pulled = mirror.pull("library/app")
        assert plain == [layer for _, layer in pulled.values()]
        evicted = mirror.evict()
        size = sum(map(len, (*image.contents.values(), *plain)))
        assert (size, True) == (evicted.size + evicted.left, evicted.left <= sum(map(len, plain)))
        assert [True, True] == [mirror.driver.exists(path) for path in copies], "they are removed with their layers"
        mirror.reclaim()
        stay = [mirror.driver.exists(layout.blob_data(Digest.of(layer))) for layer in image.layers]
        assert stay == [mirror.driver.exists(path) for path in copies] != [True, True]
        assert pulled == mirror.pull("library/app")
        assert [True, True] == [mirror.driver.exists(path) for path in copies]
        mirror.services.mirror.eviction._max_bytes = 1
        assert 0 == mirror.evict().left
        mirror.reclaim()
        assert [] == [path for folder in ("unpacked", "unpacked-from") for path in mirror.driver.walk(f"{V1}/{folder}")]


def test_a_damaged_record_of_a_removed_image_is_forgotten(evicting):
    mirror = evicting(max_bytes=1)
    path = f"docker/registry/v2/_mirror/_v1/removed/{BASE.text}"
    heads = ({"since": 0, "layer": "x", "files": {}}, {"since": math.nan, "layer": digest_of(b"x"), "files": {}})
    for content in (b"", b"{", b"[]", *(json.dumps(head).encode() for head in heads), b'{"files": 1}'):
        mirror.driver.put_content(path, content)
        mirror.evict()
        assert not mirror.driver.exists(path)
