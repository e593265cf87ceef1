"""The number of store calls of a request, with empty and filled caches."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from functools import partial

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.base import Capabilities, StorageDriver, Versioned
from docker_registry.drivers.cache.circuit_breaker import CircuitBreaker
from docker_registry.drivers.cache.connection import RedisAddress, connect
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support.clients.v2 import OCI_MANIFEST, digest_of, encoded
from tests.support.servers.redis import PASSWORD, redis_server

__all__ = ["redis_server"]


class CountingDriver(StorageDriver):
    """A remote store: each method is one round trip, and is counted."""

    capabilities = Capabilities(if_match=True)

    def __init__(self):
        self._driver = MemoryDriver()
        self.trips = Counter()

    def get_content(self, path):
        return self._trip("get_content").get_content(path)

    def get_versioned(self, path) -> Versioned:
        return self._trip("get_versioned").get_versioned(path)

    def put_content(self, path, content, *, if_match=None):
        self._trip("put_content").put_content(path, content, if_match=if_match)

    def stream_read(self, path, offset=0, length=None):
        return self._trip("stream_read").stream_read(path, offset, length)

    def stream_write(self, path, blocks):
        return self._trip("stream_write").stream_write(path, blocks)

    def list_directory(self, path=""):
        return self._trip("list_directory").list_directory(path)

    def walk(self, path=""):
        return self._trip("walk").walk(path)

    def exists(self, path):
        return self._trip("exists").exists(path)

    def stat(self, path):
        return self._trip("stat").stat(path)

    def move(self, source, target):
        self._trip("move").move(source, target)

    def touch(self, path):
        self._trip("touch").touch(path)

    def remove(self, path):
        self._trip("remove").remove(path)

    def _trip(self, verb):
        self.trips[verb] += 1
        return self._driver


#: So few that a list of them is read within five seconds, the lifetime of a cached list, even on a busy machine.
TAGS = 200

CONFIG = b'{"architecture": "amd64"}'
MANIFEST = encoded(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/octet-stream", "digest": digest_of(CONFIG), "size": len(CONFIG)},
        "layers": [],
    }
)


@pytest.fixture(scope="module")
def store():
    """An image with many tags, pushed a while ago."""
    store = CountingDriver()
    services = build(Config(storage="memory"), store)
    app = create_app(services).test_client()
    assert 201 == app.post(f"/v2/a/b/blobs/uploads/?digest={digest_of(CONFIG)}", data=CONFIG).status_code
    tags = [f"tag=t{number}" for number in range(TAGS)]
    for start in range(0, TAGS, 10):  # some at a time, as a server may take no more
        url = f"/v2/a/b/manifests/{digest_of(MANIFEST)}?{'&'.join(tags[start : start + 10])}"
        assert 201 == app.put(url, data=MANIFEST, content_type=OCI_MANIFEST).status_code
    assert services.search_updates.flush()  # the search index asks the store too
    return store


@pytest.fixture
def open_host(store, redis_server):
    """Creates the application of one host, with empty caches in memory."""
    identity = secrets.token_hex(8)

    def make(is_cached=True):
        redis = connect(
            RedisAddress(host="127.0.0.1", port=redis_server.port, password=PASSWORD), "cache_lru", timeout_seconds=5
        )
        cache = LeasedCache(redis, CircuitBreaker(redis, "the test", max_wait_seconds=60), lambda: identity)
        driver = CachedDriver(store, cache) if is_cached else store
        app = create_app(build(Config(storage="memory"), driver)).test_client()
        app.get("/v2/none/tags/list")  # calls that a process makes once
        return app

    return make


def trips(store, app, method, path):
    store.trips.clear()
    answer = app.open(path, method=method, headers={"Accept": OCI_MANIFEST})
    assert 200 == answer.status_code
    assert answer.get_data() or method == "HEAD"
    return dict(store.trips)


BLOB = f"/v2/a/b/blobs/{digest_of(CONFIG)}"

#: Requests, and their store calls without a cache, with an empty one, and with a filled one: on this host, which may
#: have caches in memory, and on one that has just been started.
COSTS = {
    "a manifest by tag": (
        ("GET", "/v2/a/b/manifests/t7"),
        {"get_content": 2, "stat": 1},
        {"get_content": 2, "stat": 1},
    ),
    "a manifest by digest": (
        ("GET", f"/v2/a/b/manifests/{digest_of(MANIFEST)}"),
        {"get_content": 1, "stat": 1},
        {"get_content": 1, "stat": 1},
    ),
    "whether there is a blob": (("HEAD", BLOB), {"stat": 2}, {"stat": 2}),
    "a small blob": (
        ("GET", BLOB),
        {"stat": 2, "stream_read": 1},
        {"stat": 2, "stream_read": 1},
    ),
    "many tags": (
        ("GET", "/v2/a/b/tags/list"),
        {"exists": 1, "stat": TAGS, "list_directory": 2},
        {"exists": 1, "stat": TAGS, "list_directory": 2},
    ),
}


@pytest.mark.parametrize("question", COSTS)
class TestAQuestion:
    def test_costs_so_many_round_trips_without_a_cache(self, store, open_host, question):
        request, expected, _ = COSTS[question]
        assert expected == trips(store, open_host(is_cached=False), *request)

    def test_costs_no_more_with_an_empty_cache(self, store, open_host, question):
        request, _, expected = COSTS[question]
        assert expected == trips(store, open_host(), *request)

    def test_costs_none_with_a_warm_cache(self, store, open_host, question):
        request, _, _ = COSTS[question]
        app = open_host()
        # A response that takes longer than five seconds on a busy machine, the lifetime of lists, is requested again.
        assert any({} == trips(store, app, *request) for _ in range(6))

    def test_costs_none_where_another_host_has_asked(self, store, open_host, question):
        request, _, _ = COSTS[question]
        there = open_host()
        for _ in range(5):
            trips(store, there, *request)
            found = trips(store, open_host(), *request)
            if set(found) <= {"list_directory"}:
                return
        pytest.fail(f"{found}")


class ObjectStore(CountingDriver):
    """A store as S3 is: a missing path costs another request to see whether it is a folder."""

    capabilities = Capabilities(if_match=True, pages=True, move_copies=True)

    def exists(self, path):
        if super().exists(path):
            return True
        self.trips["list"] += 1
        return False

    def discard_file(self, path):
        self._trip("delete").discard(path)


def pushing(store, driver=None):
    """Returns a function that pushes a manifest of a number, and returns what that cost."""
    services = build(Config(storage="memory", search_backend=""), driver or store)
    app = create_app(services).test_client()
    assert 201 == app.post(f"/v2/a/b/blobs/uploads/?digest={digest_of(CONFIG)}", data=CONFIG).status_code

    def push(number, **fields):
        payload = encoded({**json.loads(MANIFEST), "annotations": {"number": number}, **fields})
        store.trips.clear()
        assert 201 == app.put("/v2/a/b/manifests/pushed", data=payload, content_type=OCI_MANIFEST).status_code
        return dict(store.trips)

    push("0")
    return push


class TestAManifestThatIsPushed:
    @pytest.fixture
    def push(self):
        return pushing(CountingDriver())

    def test_of_a_new_manifest_looks_up_no_existing_references(self, push):
        # Its config's link and bytes, tags-are-noted, the catalog, in the end its link; its bytes. Bytes, link,
        # back-reference and tag are put; what the tag points at is not read.
        assert {"stat": 5, "get_versioned": 1, "put_content": 4} == push("1")

    def test_is_not_written_again(self, push):
        push("1")
        expected = {"stat": 7, "get_versioned": 1, "touch": 1, "put_content": 1}
        assert expected == push("1"), "the tag alone"


def cached(store, redis_server):
    """Put a cache of its own in front of a store."""
    address = RedisAddress(host="127.0.0.1", port=redis_server.port, password=PASSWORD)
    redis, identity = connect(address, "cache_lru", timeout_seconds=5), secrets.token_hex(8)
    breaker = CircuitBreaker(redis, "the test", max_wait_seconds=60)
    return CachedDriver(store, LeasedCache(redis, breaker, lambda: identity))


class TestAManifestThatIsPushedToAnObjectStore:
    def test_is_created_without_being_read(self):
        push = pushing(ObjectStore())
        assert [{"stat": 5, "put_content": 4}] * 2 == [push("1"), push("1")]

    def test_is_written_with_a_cache_and_nothing_else(self, redis_server):
        store = ObjectStore()
        assert {"put_content": 4} == pushing(store, cached(store, redis_server))("1")

    def test_that_refers_to_another_is_written_once(self):
        subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(MANIFEST), "size": len(MANIFEST)}
        assert {"stat": 5, "put_content": 5} == pushing(ObjectStore())("1", subject=subject)

    def test_that_is_refused_leaves_the_cache_as_it_is(self, redis_server):
        store = ObjectStore()
        app = create_app(build(Config(storage="memory", search_backend=""), cached(store, redis_server))).test_client()
        put = partial(app.put, "/v2/a/b/manifests/t", content_type=OCI_MANIFEST)
        assert 201 == app.post(f"/v2/a/b/blobs/uploads/?digest={digest_of(CONFIG)}", data=CONFIG).status_code
        assert 201 == put(data=MANIFEST).status_code

        def costs():
            store.trips.clear()
            for path in ("/v2/a/b/manifests/t", "/v2/a/b/tags/list"):
                assert 200 == app.get(path, headers={"Accept": OCI_MANIFEST}).status_code
            return dict(store.trips)

        for _ in range(3):
            costs()
        layer = {"mediaType": "application/octet-stream", "digest": digest_of(b"none"), "size": 4}
        assert 404 == put(data=encoded({**json.loads(MANIFEST), "layers": [layer]})).status_code
        assert {} == costs()
        other = encoded({**json.loads(MANIFEST), "annotations": {"a": "b"}})
        assert 412 == put(data=other, headers={"If-None-Match": "*"}).status_code
        assert {} == costs()


class TestASmallBlobThatIsPushedToAnObjectStore:
    def test_costs_as_many_requests_as_it_has_files(self):
        store = ObjectStore()
        pushing(store)
        app = create_app(build(Config(storage="memory", search_backend=""), store)).test_client()
        app.get("/v2/none/tags/list")  # what a process asks once in its life
        costs = []

        def ask(method, path, status, **options):
            store.trips.clear()
            answer = app.open(path, method=method, **options)
            assert status == answer.status_code
            costs.append(dict(store.trips))
            return answer

        ask("HEAD", f"/v2/a/b/blobs/{digest_of(b'new')}", 404)
        location = ask("POST", "/v2/a/b/blobs/uploads/", 202).headers["Location"]
        location = ask("PATCH", location, 202, data=b"new").headers["Location"]
        ask("PUT", f"{location}?digest={digest_of(b'new')}", 201)
        assert [
            {"stat": 1},
            {"put_content": 1},
            {"get_versioned": 1, "put_content": 1},
            {"get_content": 1, "stat": 1, "put_content": 2, "delete": 1},
        ] == costs, "its catalog entry, session, bytes and link"
