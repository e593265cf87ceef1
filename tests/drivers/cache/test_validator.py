"""Whether a response computed from the cache may be sent again: recorded dependencies, and their invalidation."""

from __future__ import annotations

import secrets
import time

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from docker_registry import dependencies
from docker_registry.drivers.cache import driver as cache_driver
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry.listing_cache import ListingCache
from tests.drivers.cache.test_driver import SlowStore, cached
from tests.support.servers.redis import own_redis, redis_server

__all__ = ["redis_server"]

BLOB = f"docker/registry/v2/blobs/sha256/ab/{'ab' * 32}/data"


@pytest.fixture
def store():
    store = MemoryDriver()
    for path in ("a/b/c", "a/b/d", "a/e", BLOB):
        store.put_content(path, b"content")
    return store


@pytest.fixture
def identity():
    return secrets.token_hex(8)


@pytest.fixture
def here(store, redis_server, identity):
    return cached(store, redis_server, identity)


@pytest.fixture
def there(store, redis_server, identity):
    """The same store on another host."""
    return cached(store, redis_server, identity)


def collect(work):
    """Call a function twice and return the dependencies of the second call: the first fills the cache."""
    for _ in range(2):
        with dependencies.collected() as found:
            try:
                work()
            except PathNotFound:
                pass
    return found


def is_good(found):
    """Return whether the response is cacheable and its dependencies are unchanged."""
    return found.is_complete and found.is_current()


#: Every method of the cache that reads one file.
LOOKS = {
    "get_content": lambda driver, path: driver.get_content(path),
    "get_size": lambda driver, path: driver.get_size(path),
    "exists": lambda driver, path: driver.exists(path),
}
CHANGES = {
    "replaced": lambda driver: driver.put_content("a/b/c", b"content"),
    "written as a stream": lambda driver: driver.stream_write("a/b/c", [b"content"]),
    "removed": lambda driver: driver.remove("a/b/c"),
    "removed with its folder": lambda driver: driver.remove("a/b"),
    "removed with a folder further above": lambda driver: driver.remove("a"),
    "moved away": lambda driver: driver.move("a/b/c", "a/b/f"),
    "overwritten by another file": lambda driver: driver.move("a/e", "a/b/c"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
class TestACachedFile:
    def test_is_valid_while_unchanged(self, here, there, look):
        found = collect(lambda: look(here, "a/b/c"))
        assert is_good(found)
        there.put_content("a/b/d", b"another")
        there.put_content("a/b/new", b"another")
        assert is_good(found)

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_is_invalid_after_a_change_by_another_host(self, here, there, look, change):
        found = collect(lambda: look(here, "a/b/c"))
        change(there)
        assert not found.is_current()

    def test_is_invalid_even_if_changed_back(self, here, there, look):
        found = collect(lambda: look(here, "a/b/c"))
        there.put_content("a/b/c", b"CONTENT")
        look(there, "a/b/c")
        there.put_content("a/b/c", b"content")
        assert not found.is_current()

    def test_is_valid_after_it_was_filled_from_the_store(self, here, there, look):
        with dependencies.collected() as found:
            look(here, "a/b/c")
        assert is_good(found)
        there.put_content("a/b/c", b"another")
        assert not found.is_current()

    def test_is_invalid_if_changed_while_it_was_read(self, redis_server, identity, there, look):
        store = SlowStore()
        store.put_content("a/b/c", b"content")
        here = cached(store, redis_server, identity)
        store.meanwhile.append(lambda: there.put_content("a/b/c", b"another"))
        with dependencies.collected() as found:
            look(here, "a/b/c")
        assert not found.is_complete

    def test_is_not_recorded_if_missing(self, here, look):
        assert not collect(lambda: look(here, "a/none")).is_complete

    def test_is_invalid_after_its_expiry(self, here, look, monkeypatch):
        monkeypatch.setattr(cache_driver, "SECONDS", 3)
        found = collect(lambda: look(here, "a/b/c"))
        assert is_good(found)
        time.sleep(3.1)
        assert not found.is_current()

    def test_is_invalid_after_its_eviction(self, store, identity, look):
        with own_redis() as redis:
            here = cached(store, redis, identity)
            found = collect(lambda: look(here, "a/b/c"))
            assert is_good(found)
            here.cache._circuit.call(lambda redis: redis.flushall())
            assert not found.is_current()

    def test_is_invalid_while_redis_is_unreachable(self, store, identity, look):
        with own_redis() as redis:
            here = cached(store, redis, identity)
            found = collect(lambda: look(here, "a/b/c"))
            redis.kill()
            assert not found.is_current()


#: Methods that are passed on to the store.
VERBS = {
    "get_versioned": lambda driver: driver.get_versioned("a/b/c"),
    "stat": lambda driver: driver.stat("a/b/c"),
    "list_directory": lambda driver: list(driver.list_directory("a")),
    "walk": lambda driver: list(driver.walk("a")),
    "content_redirect_url": lambda driver: driver.content_redirect_url("a/b/c"),
    "stream_read": lambda driver: list(driver.stream_read("a/b/c")),
}


class TestAnUncachedRead:
    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    def test_is_not_recorded(self, here, verb):
        assert not collect(lambda: verb(here)).is_complete

    def test_of_a_local_file_is_not_recorded(self, tmp_path, redis_server, identity, here):
        local = cached(FileDriver(str(tmp_path)), redis_server, identity)
        local.put_content("a/b", b"1")
        assert not collect(lambda: local.open_file("a/b").close()).is_complete
        assert collect(lambda: here.open_file("a/b")).is_complete  # None, as for each file of that store

    def test_of_a_large_blob_depends_on_nothing(self, store, here):
        path = f"docker/registry/v2/blobs/sha256/ab/{64 * 'ab'[:1]}/data"
        store.put_content(path, bytes(70_000))
        for options, is_complete in (
            ({"length": 70_000}, True),
            ({"offset": 1, "length": 69_999}, True),
            ({}, False),
            ({"length": 10}, False),
        ):
            assert is_complete == collect(lambda options=options: list(here.stream_read(path, **options))).is_complete
        store.put_content("a/large", bytes(70_000))
        assert not collect(lambda: list(here.stream_read("a/large", 0, 70_000))).is_complete

    def test_is_not_recorded_if_the_store_has_folder_versions(self, tmp_path, redis_server, identity):
        assert not cached(FileDriver(str(tmp_path)), redis_server, identity).capabilities.tracks_dependencies

    def test_is_not_recorded_for_two_caches(self, store, redis_server, identity, here):
        class Another(CachedDriver):
            def _validator(self):
                return dependencies.validator(int, int)

        another = Another(store, here.cache)

        def look():
            here.exists("a")
            another.exists("a")

        assert not collect(look).is_complete


class TestAFolderListing:
    @pytest.fixture
    def listings(self, here):
        return ListingCache(here)

    @pytest.fixture
    def listed(self, listings):
        return collect(lambda: listings.names("a", str))

    def test_is_valid_while_no_entry_changes(self, there, listed):
        there.put_content("another/folder", b"")
        assert is_good(listed)

    @pytest.mark.parametrize(
        "change",
        [lambda driver: driver.put_content("a/new", b""), lambda driver: driver.remove("a/e")],
        ids=["comes", "goes"],
    )
    def test_is_invalid_after(self, there, listed, listings, change):
        change(there)
        assert not listed.is_current()
        listings.names("a", str)
        assert not listed.is_current()

    def test_is_valid_again_after_rereading_the_same_list(self, there, listed, listings):
        there.put_content("a/b/more", b"")  # changes no name in the folder, but its version
        assert not listed.is_current()
        assert ["b", "e"] == listings.names("a", str)
        assert is_good(listed)

    def test_is_invalid_after_a_write_during_rereading(self, here, there, listed, listings):
        there.put_content("a/b/more", b"")
        version = here.folder_version("a")
        again = here.list_directory("a")
        next(again)
        there.put_content("a/new", b"")
        list(again)
        assert version != here.folder_version("a")
        assert not listed.is_current()

    def test_may_be_of_a_missing_folder(self, there, listings):
        found = collect(lambda: listings.names("none", str))
        assert is_good(found)
        there.put_content("none/no/more", b"")
        assert not found.is_current()
