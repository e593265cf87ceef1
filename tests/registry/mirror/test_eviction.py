"""Eviction of what was pulled least recently, while pushed content stays."""

from __future__ import annotations

import json
import random
import time
from functools import partial

import pytest

from docker_registry.config.schema import Mirroring
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import PathNotFound, StorageError, StorageFull, StorageUnavailable
from docker_registry.http.exchange import Exchange
from docker_registry.registry import layout
from docker_registry.registry.actor import GARBAGE_COLLECTION
from docker_registry.registry.leases import this_process
from docker_registry.registry.mirror.eviction import RECENT_SECONDS, SHARED_SECONDS
from docker_registry.registry.mirror.pulls import PRECISION_SECONDS
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.reclamation import MOVE_SECONDS, REMOVE_SECONDS
from docker_registry.settings import settings_of
from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.support.clients.v2 import OCI_MANIFEST, digest_of
from tests.support.clock import Clock
from tests.support.images import Image, make_image
from tests.support.registries import closing_services
from tests.support.servers.upstream import Answer

LAYER_BYTES = 100_000
IMAGES = [make_image(f"evicted {number}", layers=1, layer_bytes=LAYER_BYTES) for number in range(4)]
A_DAY = 86400

#: The smallest value of max_age.
SHORTEST = next(each.minimum for each in settings_of(Mirroring) if each.name == "max_age")


def size_of(*images):
    return sum(len(content) for image in images for content in image.contents.values())


def exchange(route, repository, digest, status=200):
    """Return what the server reports of a request."""
    values = dict.fromkeys(Exchange._fields, "") | {"status": status}
    return Exchange(**values | {"method": "GET", "route": route, "repository": repository, "digest": digest})


def follow(driver, clock):
    """Have the modification times in a store in memory follow a clock, however long a test takes."""
    if isinstance(driver, MemoryDriver):
        driver._now = clock


class Evicting(Mirrored):
    """A mirror that evicts, by a clock."""

    def __init__(self, driver, url, v1=False, **mirroring):
        super().__init__(driver, url, mirroring=mirroring, v1=v1)
        self.clock = Clock(time.time())
        follow(driver, self.clock)
        mirror, registry = self.services.mirror, self.services.registry
        registry.blobs.removed._now = registry.reclamation._now = self.clock
        mirror.pulls._now = mirror.eviction._now = self.clock
        self.observe = self.services.observers[0]

    def pull(self, image, name=NAME, tag="v1"):
        """Pull an image as a client of a server does, which reports requests to observers."""
        for path in (f"manifests/{tag}", *(f"blobs/{digest}" for digest in image.blobs)):
            answer = self.get(path, name)
            assert 200 == answer.status_code, path
            digest = answer.headers["Docker-Content-Digest"]
            assert digest == digest_of(answer.data)
            self.observe(exchange("v2_manifests.get_manifest" if path[0] == "m" else "v2_blobs.get_blob", name, digest))

    def evict(self, wait=RECENT_SECONDS + 1):
        """Write the pulls, and evict after a while."""
        self.services.mirror.pulls.flush()
        self.clock.now += wait
        return self.services.mirror.eviction.run()

    def has(self, image, name=NAME):
        """Return whether a repository has all content of an image; it must have all or nothing."""
        parsed = RepositoryName.parse(name)
        found = {
            self.driver.exists(link(parsed, Digest.parse(digest)))
            for contents, link in ((image.blobs, layout.layer_link), ({image.digest: b""}, layout.revision_link))
            for digest in contents
        }
        assert len(found) == 1
        return found.pop()

    @property
    def stored_bytes(self):
        return sum(each.size for each in self.driver.walk(layout.BLOBS))


@pytest.fixture
def evicting(driver, upstream):
    """Opens a mirror that evicts; the upstream has the images under tags of their numbers."""
    for number, image in enumerate(IMAGES):
        upstream.add(THERE, f"v{number}", image)
    with closing_services(partial(Evicting, driver, upstream.url)) as make:
        yield make


class TestMirroredContent:
    def test_that_was_pulled_least_recently_is_evicted_first(self, evicting, upstream):
        mirror = evicting(max_bytes=size_of(*IMAGES[:3]) + 50)
        for number, image in enumerate(IMAGES[:3]):
            mirror.pull(image, tag=f"v{number}")
        assert 0 == mirror.evict(PRECISION_SECONDS + 60).blobs
        mirror.pull(IMAGES[0], tag="v0")
        mirror.pull(IMAGES[3], tag="v3")
        evicted = mirror.evict()
        assert (3, size_of(IMAGES[1])) == (evicted.blobs, evicted.size)
        assert [True, False, True, True] == [mirror.has(image) for image in IMAGES]
        assert size_of(*IMAGES) == mirror.stored_bytes, "bytes are removed later"
        upstream.stop()
        assert ["v0", "v2", "v3"] == mirror.get("tags/list").json["tags"]
        assert size_of(IMAGES[1]) == sum(mirror.evict(wait).removed for wait in (MOVE_SECONDS, REMOVE_SECONDS))
        assert size_of(IMAGES[0], *IMAGES[2:]) == mirror.stored_bytes
        assert [] == list(mirror.driver.walk(layout.REMOVED))

    def test_evicted_before_is_removed_from_a_store_that_is_full(self, evicting, driver, monkeypatch):
        def put_content(path, content, *, if_match=None):
            raise StorageFull(path=path)

        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        mirror.evict()
        mirror.evict(MOVE_SECONDS)
        mirror.pull(IMAGES[1], tag="v1")
        mirror.evict(0)
        mirror.clock.now += RECENT_SECONDS + REMOVE_SECONDS
        with monkeypatch.context() as patch, pytest.raises(StorageFull):
            patch.setattr(driver, "put_content", put_content)
            mirror.services.mirror.eviction.run()
        assert [] == list(driver.walk(layout.REMOVED))
        assert 3 == mirror.evict(0).blobs

    def test_that_cannot_be_removed_does_not_keep_the_rest(self, evicting, driver, monkeypatch):
        def fail(path):
            raise StorageError(path=path)

        mirror = evicting(max_bytes=1)
        for number in range(2):
            mirror.pull(IMAGES[number], tag=f"v{number}")
        remove, stuck = (
            driver.remove,
            layout.layer_link(RepositoryName(NAME), Digest.parse(next(iter(IMAGES[0].blobs)))),
        )
        with monkeypatch.context() as patch:
            patch.setattr(driver, "remove", lambda path: fail(path) if path in stuck else remove(path))
            assert 5 == mirror.evict().blobs
        assert driver.exists(stuck)
        assert 1 == mirror.evict(0).blobs

    def test_stays_as_it_is_while_the_registry_is_read_only(self, evicting, driver):
        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        mirror.evict(0)
        mirror.clock.now += A_DAY
        mirror.services.read_only.why = "moving"
        before = dict(driver._files)
        for number in (0, 1):  # one is here, the other is passed on
            mirror.pull(IMAGES[number], tag=f"v{number}")
            assert 200 == mirror.get(f"referrers/{IMAGES[number].digest}").status_code
        assert 200 == mirror.get("tags/list").status_code
        assert mirror.evict(A_DAY) is None
        mirror.services.mirror.publish_status({("hits", "blob", "up.example"): 1})
        mirror.services.mirror.transfers.purge(-1, lambda: True)
        assert before == driver._files
        mirror.services.read_only.why = None
        mirror.services.mirror.publish_status({("hits", "blob", "up.example"): 1})
        assert 1 == mirror.services.mirror.status()["up.example"].hits

    def test_that_was_not_pulled_for_long_is_evicted(self, evicting):
        mirror = evicting(max_age=A_DAY)
        mirror.pull(IMAGES[0], tag="v0")
        assert 0 == mirror.evict(A_DAY - 60).blobs
        assert 3 == mirror.evict(61).blobs
        assert not mirror.has(IMAGES[0])

    def test_that_is_pulled_by_api_v1_stays(self, evicting):
        """By its id, which clients know from when the upstream was the source of API V1."""
        mirror = evicting(max_age=A_DAY, v1=True)
        mirror.pull(IMAGES[0], tag="v0")
        derived = mirror.services.require_legacy().images._derived
        top = str(derived.top(RepositoryName(NAME), Digest.parse(IMAGES[0].digest)))
        for _ in range(9):
            for route in ("v1_images.get_json", "v1_private_images.get_layer"):
                mirror.observe(exchange(route, "", "")._replace(reference=top))
            assert 0 == mirror.evict(A_DAY / 6).blobs
        assert 3 == mirror.evict(A_DAY).blobs

    def test_that_is_pulled_all_the_time_stays_however_short_its_age(self, evicting):
        mirror = evicting(max_age=SHORTEST)
        for _ in range(12):
            mirror.pull(IMAGES[0], tag="v0")
            assert 0 == mirror.evict(SHORTEST / 9).blobs
            mirror.clock.now += 1
        mirror.services.read_only.switch_on("for a while")
        mirror.clock.now += A_DAY
        mirror.pull(IMAGES[0], tag="v0")
        assert mirror.evict(1) is None
        mirror.services.read_only.switch_off()
        assert mirror.services.mirror.eviction.run() is None, "not all processes have recorded the pulls meanwhile"
        assert 0 == mirror.evict(SHORTEST / 5).blobs
        assert 3 == mirror.evict(SHORTEST).blobs

    @pytest.mark.parametrize("waits", [(), (MOVE_SECONDS,), (MOVE_SECONDS, REMOVE_SECONDS)], ids=len)
    def test_is_pulled_again_after_its_eviction(self, evicting, upstream, waits):
        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        mirror.evict()
        for wait in waits:
            mirror.evict(wait)
        upstream.requests.clear()
        mirror.pull(IMAGES[0], tag="v0")
        whole = [path for _, path, headers in upstream.requests if "/blobs/" in path and "range" not in headers]
        assert (2 if len(waits) == 2 else 0) == len(whole), "what is still here is not fetched again"
        for wait in (0, MOVE_SECONDS, 0):
            mirror.evict(wait)
            mirror.pull(IMAGES[0], tag="v0")

    def test_that_is_being_sent_stays(self, evicting, upstream):
        layer = random.Random(3).randbytes(3 * 1024 * 1024)
        upstream.contents[f"{THERE}/blobs/{digest_of(layer)}"] = Answer(layer)
        mirror = evicting(max_bytes=1)
        path = f"/v2/{NAME}/blobs/{digest_of(layer)}"
        assert layer == mirror.client.get(path).data
        with mirror.client.get(path, buffered=False) as answer:
            blocks = answer.iter_encoded()
            assert next(blocks)
            assert 0 == mirror.evict().blobs
            modified = mirror.driver.stat(_link(digest_of(layer))).modified
            mirror.evict()
            assert modified < mirror.driver.stat(_link(digest_of(layer))).modified, "other hosts see that it is in use"
            assert 0 < len(b"".join(blocks)) < len(layer)
        assert 1 == mirror.evict().blobs

    def test_stays_while_it_cannot_be_fetched_again(self, evicting, driver, upstream):
        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        offline = Mirrored(driver, upstream.url, mirroring={"max_bytes": 1, "offline": True})
        with offline.services:
            assert offline.services.mirror.eviction is None
        mirror.services.read_only.switch_on("for a while")
        assert mirror.evict() is None
        mirror.services.read_only.switch_off()
        eviction = mirror.services.mirror.eviction
        names = eviction._names

        def names_in_between():
            mirror.services.read_only.why = "since a moment"
            return names()

        eviction._names = names_in_between
        assert 0 == mirror.evict().blobs
        eviction._names, mirror.services.read_only.why = names, None
        driver.put_content(layout.lease("mirror-eviction"), json.dumps({"holder": "b", "until": 9e9}).encode())
        assert mirror.evict() is None, "another process evicts"
        assert mirror.has(IMAGES[0])

    def test_is_evicted_by_another_process_once_the_one_that_does_it_has_ended(self, evicting, driver):
        eviction = evicting(max_age=A_DAY).services.mirror.eviction

        def end(_):
            raise InterruptedError

        assert eviction.run() is not None
        assert this_process() == json.loads(driver.get_content(layout.lease("mirror-eviction")))["process"]
        with pytest.raises(InterruptedError):
            eviction.watch(end)
        assert this_process() == json.loads(driver.get_content(layout.lease("mirror-eviction")))["process"]

    def test_of_an_upstream_that_is_not_configured_any_more_stays(self, evicting, driver, upstream):
        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        entry = layout.mirror_upstream(RepositoryName.parse("old.example/app"))
        driver.put_content(entry, b"https://old.example")
        driver.put_content(layout.layer_link(RepositoryName.parse("old.example/app"), Digest.of(b"x")), b"")
        assert 3 == mirror.evict().blobs
        assert driver.exists(layout.layer_link(RepositoryName.parse("old.example/app"), Digest.of(b"x")))


def _link(digest):
    return layout.layer_link(RepositoryName.parse(NAME), Digest.parse(digest))


class TestPulls:
    def test_are_recorded_with_their_links(self, evicting, driver):
        mirror = evicting(max_bytes=1)
        mirror.pull(IMAGES[0], tag="v0")
        digest, link = next((each, _link(each)) for each in IMAGES[0].blobs)
        before = driver.stat(link).modified

        def pulled_after(seconds):
            mirror.clock.now += seconds
            mirror.observe(exchange("v2_blobs.get_blob", NAME, digest, 206))
            mirror.observe(exchange("v2_blobs.get_blob", NAME, IMAGES[0].digest, 404))
            mirror.services.mirror.pulls.flush()
            return driver.stat(link).modified

        assert before == pulled_after(PRECISION_SECONDS / 2), "recorded coarsely"
        first = pulled_after(PRECISION_SECONDS)
        assert before < first == pulled_after(PRECISION_SECONDS / 2) < pulled_after(PRECISION_SECONDS)
        driver.remove(link)
        with pytest.raises(PathNotFound):
            pulled_after(PRECISION_SECONDS)
        for repository, odd in (("team/app", digest), (NAME, "odd"), ("up.example/..", digest)):
            mirror.observe(exchange("v2_manifests.get_manifest", repository, odd))
        mirror.services.mirror.pulls.flush()

    def test_are_recorded_after_a_failure_of_the_store(self, evicting, driver, monkeypatch):
        mirror = evicting(max_bytes=1)
        pulls, touched, failing = mirror.services.mirror.pulls, [], set()

        def touch(path):
            if path in failing:
                raise StorageUnavailable
            touched.append(path)

        monkeypatch.setattr(driver, "touch", touch)
        digests = [Digest.of(b"%d" % number) for number in range(5)]
        for digest in digests:
            driver.put_content(_link(str(digest)), b"")
        mirror.clock.now += A_DAY
        for digest in digests[:-1]:
            mirror.observe(exchange("v2_blobs.get_blob", NAME, str(digest)))
        failing.add(_link(str(digests[1])))
        with pulls.sending(NAME, str(digests[-1])):
            with pytest.raises(StorageUnavailable):
                pulls.flush()
            assert [_link(str(each)) for each in (digests[-1], digests[0])] == touched, "what is being sent comes first"
            with pytest.raises(StorageUnavailable):
                pulls.flush()
            assert [_link(str(each)) for each in digests[2:4]] == touched[2:], "the others do not wait for it"
            failing.clear()
            pulls.flush()
        assert [_link(str(digests[1]))] == touched[4:]


class TestPushedContent:
    def test_that_shares_layers_stays_while_images_flow_through(self, evicting, upstream, driver):
        flow(evicting(max_bytes=1_000_000), upstream, images=30, layer_bytes=LAYER_BYTES)

    def test_is_looked_for_once_an_hour(self, evicting):
        mirror = evicting(max_age=A_DAY)
        mirror.pull(IMAGES[0], tag="v0")
        push(mirror, IMAGES[0])
        references, scans = mirror.services.registry.references, []
        among = references.among
        references.among = lambda *arguments: scans.append(1) or among(*arguments)
        assert [0, 0] == [mirror.evict(wait).blobs for wait in (A_DAY - 60, 61)]
        assert 0 == sum(mirror.evict(60).blobs for _ in range(int(SHARED_SECONDS) // 60 - 1))
        assert [1] == scans
        registry, team = mirror.services.registry, RepositoryName.parse("team/app")
        for digest in IMAGES[0].contents:
            registry.removal.forget(team, Digest.parse(digest), actor=GARBAGE_COLLECTION)
        assert [0, 3] == [mirror.evict(wait).blobs for wait in (0, 60)]
        assert 2 == len(scans)

    @pytest.mark.slow
    def test_stays_while_three_gibibytes_flow_through(self, upstream, tmp_path):
        driver = FileDriver(storage_path=tmp_path / "store")
        mirror = Evicting(driver, upstream.url, max_bytes=1024**3)
        with mirror.services:
            flow(mirror, upstream, images=48, layer_bytes=64 * 1024**2)


def flow(mirror, upstream, images, layer_bytes):
    """Pull images through a mirror whose limit is a third of their bytes; clients push the layers of some."""
    limit, largest, pushed = mirror.services.mirror.eviction._max_bytes, 0, []
    for number in range(images):
        layer = random.Random(number).randbytes(layer_bytes)
        image = Image("amd64", b'{"number": %d}' % number, (layer,))
        upstream.add(THERE, "v1", image)
        name = f"up.example/{THERE}"
        upstream.contents[f"{THERE}/manifests/v1"] = upstream.contents[f"{THERE}/manifests/{image.digest}"]
        mirror.pull(image, name, tag=image.digest)
        if number % 10 == 0:
            push(mirror, image)
            pushed.append((image.digest, digest_of(layer)))
        waits = (RECENT_SECONDS + 1, MOVE_SECONDS, REMOVE_SECONDS) if number % 3 == 2 else (0,)
        for wait in waits:
            left = mirror.evict(wait).left
        largest = max(largest, left)
        if len(waits) > 1:
            assert left <= limit
            shared = len(pushed) * (layer_bytes + 1000)
            assert mirror.stored_bytes <= limit + shared
        del upstream.contents[f"{THERE}/blobs/{digest_of(layer)}"]
    assert largest > limit / 2
    for manifest, layer in pushed:
        assert mirror.driver.exists(_link(layer)), "what a pushed repository has too is not evicted"
        assert 200 == mirror.get(f"manifests/{manifest}", "team/app").status_code
        assert layer == digest_of(mirror.get(f"blobs/{layer}", "team/app").data)


def push(mirror, image):
    """Push an image whose blobs are in the store: some are mounted, some are pushed again."""
    for position, (digest, content) in enumerate(image.blobs.items()):
        query = f"mount={digest}&from={NAME}" if position == 0 else f"digest={digest}"
        answer = mirror.client.post(f"/v2/team/app/blobs/uploads/?{query}", data=content if position else b"")
        assert 201 == answer.status_code
    answer = mirror.client.put(f"/v2/team/app/manifests/{image.digest}", data=image.manifest, content_type=OCI_MANIFEST)
    assert 201 == answer.status_code
