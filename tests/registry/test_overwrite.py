"""A client that may not move tags moves none, whatever other requests do at the same time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import Denied, RegistryError
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tag_locks import TagLocks
from docker_registry.registry.v1 import tag_pushes
from tests.registry.bridge.both import layer, make_v2
from tests.support.interleaving import Request, StoppingDriver, copied, sample, schedules
from tests.support.registries import Registry
from tests.support.v1_images import chain, push

NAME, V1_NAME, TAG = RepositoryName.parse("acme/web"), ImageRepositoryName.parse("acme/web"), Tag("v1")
ONE, TWO = chain(2)


def refuse():
    raise Denied


def guard(tag, current, new):
    if current not in (None, new):
        raise Denied


#: Who may not move tags, and what each request sets.
REQUESTS = {
    "v1 one": (True, lambda found: found.image_tag_pushes.put(V1_NAME, TAG, ONE.id, {}, refuse=refuse)),
    "v1 two": (True, lambda found: found.image_tag_pushes.put(V1_NAME, TAG, TWO.id, {}, refuse=refuse)),
    "v2": (True, lambda found: found.manifest_pushes.put(NAME, TAG, found.payload, None, guard=guard)),
    "v1 two, may move": (False, lambda found: found.image_tag_pushes.put(V1_NAME, TAG, TWO.id, {})),
    "v2, may move": (False, lambda found: found.manifest_pushes.put(NAME, TAG, found.payload, None)),
}


def filled(driver):
    registry = Registry(driver)
    push(registry, ONE, TWO)
    payload = make_v2(registry, layer(1))
    registry.manifest_pushes.put(NAME, Tag("other"), payload, None)
    return driver, payload


def opened(driver, payload):
    registry = Registry(driver)
    registry.payload = payload
    return registry


def target(driver, payload):
    """Return the name of the request whose target the tag has, in both APIs."""
    registry = opened(driver, payload)
    image_id = registry.image_tags.get(V1_NAME, TAG)
    digest = registry.manifests.get(NAME, TAG).descriptor.digest
    if digest == Digest.of(payload):
        return "v2"
    return {ONE.text: "v1 one", TWO.text: "v1 two"}[str(image_id)]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(tag_pushes, "_CREATION_SECONDS", 0)


class TestAClientThatMayNotMoveTags:
    @pytest.mark.parametrize("other", ["v1 two", "v2", "v1 two, may move", "v2, may move"])
    def test_loses_to_every_other_request(self, other):
        stored, payload = filled(MemoryDriver())
        names = ("v1 one", other)

        def begin():
            driver = copied(stored)
            stopping = StoppingDriver(driver)
            return driver, [Request(lambda name=name: REQUESTS[name][1](opened(stopping, payload))) for name in names]

        counts = []
        for number in (0, 1):
            requests = begin()[1]
            requests[number].advance()
            counts.append(requests[number].calls + 3)
        wrong = []
        for schedule in sample(list(schedules(tuple(counts))), 40, other):
            driver, requests = begin()
            schedule.run(requests)
            done = [name for name, request in zip(names, requests, strict=True) if request.error is None]
            found = target(driver, payload)
            if REQUESTS[other][0]:  # neither may move it: at most one of them is acknowledged
                is_right = [name for name in done if name == found] == done and len(done) == 1
            else:
                is_right = other in done and found == other.partition(",")[0]
            if not is_right:
                wrong.append((schedule, done, found, [request.error for request in requests]))
        assert [] == wrong

    def test_may_set_a_tag_to_where_it_points(self):
        driver, payload = filled(MemoryDriver())
        for name in ("v1 one", "v1 one"):
            REQUESTS[name][1](opened(driver, payload))
        for name in ("v1 two", "v2"):
            with pytest.raises(Denied):
                REQUESTS[name][1](opened(driver, payload))
        assert "v1 one" == target(driver, payload)


class Unconditional(MemoryDriver):
    """A store without conditional writes, that is slow enough for two requests to meet."""

    capabilities = Capabilities()

    def put_content(self, path, content, *, if_match=None):
        assert if_match is None
        time.sleep(0.002)
        super().put_content(path, content)


class TestAStoreWithoutConditionalWrites:
    @pytest.mark.parametrize("names", [("v1 one", "v1 two"), ("v1 one", "v2"), ("v2", "v2 other")], ids=" + ".join)
    def test_has_one_winner_among_the_requests_of_a_worker(self, names):
        driver, payload = filled(Unconditional())
        other = make_v2(Registry(driver), layer(2))
        registry = opened(driver, payload)
        requests = {
            **{name: work for name, (_, work) in REQUESTS.items()},
            "v2 other": lambda found: found.manifest_pushes.put(NAME, TAG, other, None, guard=guard),
        }
        start, done = threading.Barrier(2), []

        def run(name):
            start.wait()
            try:
                requests[name](registry)
                done.append(name)
            except RegistryError:
                pass

        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 == len(done)

    def test_shares_its_locks_with_other_workers(self, tmp_path):
        program = (
            "import sys; from pathlib import Path\n"
            "from docker_registry.registry.names import RepositoryName, Tag\n"
            "from docker_registry.registry.tag_locks import TagLocks\n"
            "locks = TagLocks(); locks.share(Path(sys.argv[1]))\n"
            "with locks.hold(RepositoryName.parse('acme/web'), [Tag('v1')]):\n"
            "    print('held', flush=True); sys.stdin.readline(); print('free', flush=True)\n"
        )
        locks, path = TagLocks(), tmp_path / "tags"
        locks.share(path)
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert "held\n" == other.stdout.readline()
            with locks.hold(NAME, [Tag("another")]):
                pass
            seen = []
            timer = threading.Timer(0.05, lambda: (seen.append("asked"), other.stdin.write("\n"), other.stdin.flush()))
            timer.start()
            with locks.hold(NAME, [TAG, TAG]):
                assert ["asked"] == seen
                assert "free\n" == other.stdout.readline()
