"""A driver with a cache in real Redis: the contract of drivers, and that no reader ever hides newer content."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.cache import invalidation, leased
from docker_registry.drivers.cache.circuit_breaker import CircuitBreaker
from docker_registry.drivers.cache.connection import RedisAddress, connect
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.file.root import RESERVED
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.testing import DriverSuite
from docker_registry.drivers.testing.races import race
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageUnavailable
from tests.support.servers.redis import PASSWORD, own_redis, redis_server

__all__ = ["redis_server"]


def cached(driver, server, identity, **options):
    """The driver of one process, with its own connections and circuit breaker."""
    redis = connect(RedisAddress(host="127.0.0.1", port=server.port, password=PASSWORD), "cache_lru", timeout_seconds=5)
    # Many threads on a busy machine make every call slow; other tests measure that.
    circuit = CircuitBreaker(redis, "the test", max_wait_seconds=60)
    return CachedDriver(driver, LeasedCache(redis, circuit, lambda: identity), **options)


@pytest.fixture
def identity():
    return secrets.token_hex(8)


class TestTheCounts:
    def test_are_those_of_lookups_hits_and_errors(self, identity):
        with own_redis() as server:
            driver = cached(MemoryDriver(), server, identity)
            driver.put_content("a", b"1")
            for _ in range(3):
                assert b"1" == driver.get_content("a")
            assert (3, 2, 0) == (driver.cache.requests, driver.cache.hits, driver.cache.errors)
            server.kill()
            assert b"1" == driver.get_content("a")
            assert (4, 2, 1) == (driver.cache.requests, driver.cache.hits, driver.cache.errors)


class TestADriverWithACache:
    def test_passes_on_every_method(self):
        old_names = {"together", "short_lived"}  # they call the new ones
        verbs = (
            {name for name in vars(StorageDriver) if not name.startswith("_")} - {"settings", "run_brief"} - old_names
        )
        assert verbs <= set(vars(CachedDriver))

    def test_is_created_without_contacting_the_store(self, redis_server, identity):
        class Away(MemoryDriver):
            @property
            def capabilities(self):
                raise StorageUnavailable

        assert cached(Away(), redis_server, identity).tracks_dependencies


class TestAMemoryDriverWithACache(DriverSuite):
    @pytest.fixture
    def driver(self, redis_server, identity):
        return cached(MemoryDriver(), redis_server, identity)

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("a dictionary does not break")


class TestAFileDriverWithACache(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path, redis_server, identity):
        return cached(FileDriver(str(tmp_path)), redis_server, identity)

    @pytest.fixture
    def broken_driver(self, tmp_path, redis_server, identity):
        """A disk that is no longer mounted, with the empty folder that was under it."""
        driver = FileDriver(str(tmp_path / "store"))
        shutil.rmtree(tmp_path / "store" / RESERVED)
        return cached(driver, redis_server, identity)


@pytest.fixture(scope="module")
def killed_redis():
    with own_redis() as server:
        server.kill()
        yield server


class TestAFileDriverWithAnUnreachableCache(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path, killed_redis, identity):
        return cached(FileDriver(str(tmp_path)), killed_redis, identity)

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("tried with a cache that is there")


ROOT = Path(__file__).parents[3]

PATH = "repositories/a/tag"
BLOB = f"docker/registry/v2/blobs/sha256/ab/{'ab' * 32}/data"


class SlowStore(MemoryDriver):
    """A store that lets a test act between a read and its result, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.meanwhile = []
        self.reads = []

    def get_content(self, path):
        return self._answer(path, super().get_content)

    def stat(self, path):
        return self._answer(path, super().stat)

    def exists(self, path):
        return self._answer(path, super().exists)

    def list_directory(self, path=""):
        return self._answer(path, super().list_directory)

    def link(self, source, target):
        self.put_content(target, super().get_content(source))
        return True

    def _answer(self, path, read):
        self.reads.append(path)
        answer = read(path)
        if self.meanwhile:
            self.meanwhile.pop()()
        return answer


@pytest.fixture(params=[False, True], ids=["", "object store"])
def store(request):
    store = SlowStore()
    # After a write, the cache knows the sizes of files in an object store.
    store.capabilities = replace(store.capabilities, pages=request.param)
    return store


@pytest.fixture
def reader(store, redis_server, identity):
    return cached(store, redis_server, identity)


@pytest.fixture
def writer(store, redis_server, identity):
    """The same store and Redis on another host."""
    return cached(store, redis_server, identity)


#: Every way to replace a file by b"newer"; all but the last also create one.
REPLACEMENTS = {
    "put": lambda driver: driver.put_content(PATH, b"newer"),
    "stream": lambda driver: driver.stream_write(PATH, [b"new", b"er"]),
    "move": lambda driver: (driver.put_content("x", b"newer"), driver.move("x", PATH)),
    "link": lambda driver: (driver.put_content("x", b"newer"), driver.link("x", PATH)),
    "conditional put": lambda driver: driver.put_content(PATH, b"newer", if_match=driver.get_versioned(PATH).version),
}

#: Every way to remove it.
REMOVALS = {
    "remove": lambda driver: driver.remove(PATH),
    "remove the folder": lambda driver: driver.remove("repositories/a"),
    "remove all folders": lambda driver: driver.remove("repositories"),
    "move": lambda driver: driver.move(PATH, "x"),
}


class TestAReadContent:
    def test_is_not_read_again(self, store, reader, writer):
        store.put_content(PATH, b"content")
        for driver in (reader, writer, reader):
            assert (b"content", 7, True) == (driver.get_content(PATH), driver.get_size(PATH), driver.exists(PATH))
        assert [PATH] * 3 == store.reads

    def test_is_read_again_from_the_store_for_a_comparison(self, store, reader):
        store.put_content(PATH, b"content")
        reader.get_content(PATH)
        for _ in range(3):
            assert b"content" == reader.get_versioned(PATH).content
        assert [PATH] * 4 == store.reads

    def test_is_not_cached_if_large(self, store, redis_server, identity):
        driver = cached(store, redis_server, identity, max_bytes=4)
        for path in (PATH, BLOB):
            store.put_content(path, b"12345")
            for _ in range(2):
                assert b"12345" == driver.get_content(path)
                assert b"12345" == b"".join(driver.stream_read(path))
        assert [PATH] * 4 + [BLOB] * 4 == store.reads

    def test_is_not_cached_if_missing(self, store, reader):
        for _ in range(2):
            assert not reader.exists(PATH)
            for verb in (reader.get_content, reader.get_size):
                with pytest.raises(PathNotFound):
                    verb(PATH)
        store.put_content(PATH, b"by another server, which knows no cache")
        assert reader.exists(PATH)
        assert reader.get_content(PATH).startswith(b"by another")

    @pytest.mark.parametrize("path", ["a/_uploads/b/state", "docker/registry/v2/_leases/x", "a/_probes/b"])
    def test_is_not_cached_if_streamed(self, store, reader, path):
        store.put_content(path, b"1")
        reader.get_content(path)
        store.put_content(path, b"2")
        assert b"2" == reader.get_content(path)

    def test_is_cached_for_a_minute_if_mutable(self, store, reader, redis_server, identity):
        for path in (PATH, BLOB):
            store.put_content(path, b"1")
            reader.get_content(path), reader.get_size(path), reader.exists(path)
        with redis_server.connect() as redis:
            keys = [key.decode() for key in redis.keys(f"*{identity}*data") + redis.keys(f"*{identity}*tag")]
            for_ever = [key for key in keys if redis.pttl(key) == -1]
            assert 6 == len(keys)
            assert [f"docker-registry:{{{identity}}}:content:{BLOB}"] == for_ever
            assert all(50_000 < redis.pttl(key) <= 60_000 for key in set(keys) - set(for_ever))


class TestASmallBlob:
    def test_is_cached_after_it_was_sent(self, store, reader):
        store.put_content(BLOB, b"0123456789")
        for length in (None, 10):
            assert b"0123456789" == b"".join(reader.stream_read(BLOB, 0, length))
        store.reads.clear()
        assert b"0123456789" == b"".join(reader.stream_read(BLOB))
        assert b"345" == b"".join(reader.stream_read(BLOB, 3, 3))
        assert [] == [*reader.stream_read(BLOB, 10), *reader.stream_read(BLOB, 5, 0)]
        assert [] == store.reads

    def test_is_sent_completely_if_the_store_fails_afterwards(self, store, reader):
        store.put_content(BLOB, b"0123456789")
        blocks = reader.stream_read(BLOB)
        assert b"0123456789" == next(blocks)
        store.remove(BLOB)  # by another host; the cache asks for the size
        assert [] == list(blocks)

    def test_is_not_cached_if_only_a_part_was_sent(self, store, reader):
        store.put_content(BLOB, b"0123456789")
        for offset, length in ((0, 3), (3, 7), (3, None), (0, 0)):
            list(reader.stream_read(BLOB, offset, length))
        next(reader.stream_read(BLOB))
        assert b"0123456789" == reader.get_content(BLOB)
        assert b"0123456789" == b"".join(reader.stream_read(BLOB))


class TestASlowReader:
    @pytest.mark.parametrize("by", ["reader", "writer"])
    @pytest.mark.parametrize("way", REPLACEMENTS)
    def test_never_hides_a_concurrent_write(self, request, store, reader, writer, way, by):
        store.put_content(PATH, b"old")
        store.meanwhile = [lambda: REPLACEMENTS[way](request.getfixturevalue(by))]
        assert b"old" == reader.get_content(PATH)
        assert (b"newer", b"newer") == (reader.get_content(PATH), writer.get_content(PATH))

    @pytest.mark.parametrize("way", REPLACEMENTS)
    def test_never_hides_the_size_of_a_concurrent_write(self, store, reader, writer, way):
        store.put_content(PATH, b"old")
        store.meanwhile = [lambda: REPLACEMENTS[way](writer)]
        assert 3 == reader.get_size(PATH)
        assert (5, 5) == (reader.get_size(PATH), writer.get_size(PATH))

    @pytest.mark.parametrize("way", REMOVALS)
    def test_never_shows_a_concurrently_removed_file(self, store, reader, writer, way):
        for verb in (reader.get_content, reader.get_size, reader.exists):
            store.put_content(PATH, b"old")
            store.meanwhile = [lambda: REMOVALS[way](writer)]
            assert verb(PATH)
            for driver in (reader, writer):
                assert not driver.exists(PATH)
                for again in (driver.get_content, driver.get_size):
                    with pytest.raises(PathNotFound):
                        again(PATH)

    def test_never_shows_a_concurrently_changed_list(self, store, reader, writer):
        store.put_content(PATH, b"old")
        for change in (lambda: writer.put_content("repositories/b", b""), lambda: writer.remove("repositories/b")):
            seen = self._settled(reader)
            store.meanwhile = [change]
            list(reader.list_directory("repositories"))
            assert reader.folder_version("repositories") != seen
            assert writer.folder_version("repositories") == self._settled(reader)

    def _settled(self, driver):
        return driver.folder_version("repositories") or driver.folder_version("repositories")

    def test_may_be_overtaken_by_a_second_reader(self, store, reader, writer):
        """The second reader shares the lease and reads the new content; the first returns with the old one."""
        store.put_content(PATH, b"old")

        def meanwhile():
            writer.put_content(PATH, b"newer")
            assert b"newer" == writer.get_content(PATH)

        store.meanwhile = [meanwhile]
        assert b"old" == reader.get_content(PATH)
        assert b"newer" == reader.get_content(PATH)

    def test_may_outlive_its_lease(self, store, reader, writer, redis_server):
        """It stores nothing, even after Redis was emptied and another reader has a new lease."""
        store.put_content(PATH, b"old")

        def meanwhile():
            with redis_server.connect() as redis:
                redis.flushall()
            store.put_content(PATH, b"newer")
            store.meanwhile = [lambda: None]

        store.meanwhile = [meanwhile]
        assert b"old" == reader.get_content(PATH)
        assert b"newer" == reader.get_content(PATH)


#: A process that dies as soon as the store has its content.
DYING = """
import os, sys
from docker_registry.drivers.file import FileDriver
from tests.drivers.cache.test_driver import cached
from tests.support.servers.redis import RedisServer

class Dying(FileDriver):
    def put_content(self, path, content, *, if_match=None):
        super().put_content(path, content)
        os._exit(7)

folder, port, identity, path = sys.argv[1:]
cached(Dying(folder), RedisServer(int(port), folder), identity).put_content(path, b"newer")
"""


class TestASlowWriter:
    @pytest.mark.parametrize("way", REPLACEMENTS)
    def test_is_not_undone_by_an_earlier_reader(self, store, reader, writer, way):
        store.put_content(PATH, b"old")
        original = store._put

        def put(path, content):
            if path == PATH:
                assert b"old" == reader.get_content(PATH)  # and keeps it
            original(path, content)

        store._put = put
        original_move = store.move
        store.move = lambda source, target: (reader.get_content(PATH), original_move(source, target))
        REPLACEMENTS[way](writer)
        assert (b"newer", 5) == (reader.get_content(PATH), reader.get_size(PATH))

    def test_that_dies_after_publication_hides_nothing(self, tmp_path, redis_server, identity):
        store = FileDriver(str(tmp_path))
        store.put_content(PATH, b"old")
        reader = cached(store, redis_server, identity)
        reader.get_content(PATH)
        command = [sys.executable, "-c", DYING, str(tmp_path), str(redis_server.port), identity, PATH]
        assert 7 == subprocess.run(command, cwd=ROOT, check=False).returncode
        assert b"newer" == reader.get_content(PATH)

    def test_is_not_undone_by_a_reader_of_a_partial_change(self, tmp_path, redis_server, identity):
        store = FileDriver(str(tmp_path))
        reader, writer = (cached(store, redis_server, identity) for _ in range(2))
        store.put_content(PATH, b"old")
        with writer.batch(), writer.batch():
            writer.put_content(PATH, b"newer")
            assert (b"old", 3) == (reader.get_content(PATH), reader.get_size(PATH))  # and keeps it
        assert (b"newer", 5) == (reader.get_content(PATH), reader.get_size(PATH))

    def test_that_fails_hides_nothing(self, store, reader, writer):
        store.put_content(PATH, b"old")
        reader.get_content(PATH)
        with pytest.raises(PreconditionFailed):
            writer.put_content(PATH, b"newer", if_match="another version")
        assert b"old" == reader.get_content(PATH)


class TestTheSizeOfAFileThatWasWrittenToAnObjectStore:
    @pytest.fixture
    def store(self):
        store = SlowStore()
        store.capabilities = replace(store.capabilities, pages=True)
        return store

    @pytest.fixture
    def meanwhile(self, store):
        """Lets a test do something before or after the store has written PATH for the first time."""
        original, todo = store._put, {}

        def put(path, content):
            before, after = (todo.pop(when, None) if path == PATH else None for when in ("before", "after"))
            if before:
                before()
            original(path, content)
            if after:
                after()

        store._put = put
        return todo

    @pytest.mark.parametrize("way", ["put", "stream", "conditional put"])
    def test_is_known_without_reading(self, store, reader, writer, way):
        store.put_content(PATH, b"old")
        REPLACEMENTS[way](writer)
        store.reads.clear()
        assert (5, True, []) == (reader.get_size(PATH), reader.has_file(PATH), store.reads)

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_is_that_of_the_last_of_two_writers(self, store, reader, writer, meanwhile, when):
        meanwhile[when] = lambda: reader.put_content(PATH, b"by the other")
        writer.put_content(PATH, b"newer")
        assert len(store._files[PATH][0]) == reader.get_size(PATH) == writer.get_size(PATH)

    def test_is_not_known_if_a_reader_saw_the_old_one_meanwhile(self, store, reader, writer, meanwhile):
        store.put_content(PATH, b"old")
        meanwhile["before"] = lambda: reader.get_size(PATH)
        writer.put_content(PATH, b"newer")
        assert 5 == reader.get_size(PATH)

    @pytest.mark.parametrize("folder", [PATH, "repositories"])
    def test_is_gone_if_the_file_is_removed_meanwhile(self, store, reader, writer, meanwhile, folder):
        meanwhile["after"] = lambda: reader.remove(folder)
        writer.put_content(PATH, b"newer")
        assert not reader.has_file(PATH)

    @pytest.mark.parametrize("announced", [(), (PATH, "a/b"), (PATH, "never written")])
    def test_is_known_after_a_batch(self, store, reader, writer, announced):
        store.put_content(PATH, b"old")
        with writer.batch():
            writer.announce_writes(announced)
            writer.put_content(PATH, b"newer")
            writer.put_content("a/b", b"")
        store.reads.clear()
        assert ([5, 0], []) == (reader.find_sizes([PATH, "a/b"]), store.reads)
        assert (b"newer", None) == (reader.get_content(PATH), reader.find_size("never written"))

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("change", [lambda by: by.put_content(PATH, b"by the other"), lambda by: by.remove(PATH)])
    def test_is_that_of_the_last_change_of_a_batch(self, store, reader, writer, meanwhile, when, change):
        store.put_content(PATH, b"old")
        meanwhile[when] = lambda: change(reader)
        with writer.batch():
            writer.announce_writes([PATH])
            assert 3 == reader.get_size(PATH)
            writer.put_content(PATH, b"newer")
            _ = reader.find(PATH), writer.find_size(PATH)  # what they find is cached
        expected = store._files[PATH][0] if PATH in store._files else None
        assert (expected is not None) == writer.has_kept(PATH)
        assert (expected, expected and len(expected)) == (reader.find(PATH), reader.find_size(PATH))

    def test_is_not_that_of_an_earlier_batch(self, store, reader, writer):
        with writer.batch():
            writer.put_content(PATH, b"newer")
        with writer.batch():
            writer.put_content("a/b", b"")
        store.remove(PATH)
        reader.cache.break_leases([("size", PATH)])
        assert not writer.has_kept(PATH)

    def test_is_not_that_of_a_batch_in_an_earlier_request_or_before_an_outer_one(self, reader, writer):
        with writer.batch():
            writer.put_content(PATH, b"newer")
        reader.remove(PATH)
        with writer.batch():
            with writer.batch():
                writer.put_content("a/b", b"")
            assert not writer.has_kept(PATH)
            writer.put_content(PATH, b"newer")
        reader.remove(PATH)
        writer.begin_request()
        assert not writer.has_kept(PATH)

    def test_takes_two_calls_of_redis_for_the_writes_of_a_batch(self, store, writer):
        store.put_content("needed", b"old")
        assert 3 == writer.get_size("needed")
        calls = []
        call = writer.cache._circuit.call
        writer.cache._circuit.call = lambda work: (calls.append(work), call(work))[1]
        assert [3] == writer.announce_writes([PATH, "a/b"], ["needed"])
        with writer.batch():
            writer.put_content(PATH, b"newer")
            writer.put_content("a/b", b"")
        assert (True, 2) == (writer.has_kept("a/b"), len(calls))  # the end of the batch has told it
        assert (True, 3) == (writer.has_kept("a/b"), len(calls))  # but only once

    def test_is_not_known_after_an_error(self, store, reader, writer, meanwhile):
        store.put_content(PATH, b"old")
        with pytest.raises(PreconditionFailed):
            writer.put_content(PATH, b"newer", if_match="another version")
        assert (3, [PATH]) == (reader.get_size(PATH), store.reads)


class TestAFolder:
    @pytest.mark.parametrize("folder", ["a/b/c", "a/b", "a"])
    def test_invalidates_all_entries_below(self, store, reader, writer, folder):
        paths = [f"a/b/c/{number}/d" for number in range(5)]
        for path in paths:
            store.put_content(path, b"old")
            reader.get_content(path), reader.get_size(path), reader.exists(path), reader.exists("a/b/c")
        writer.remove(folder)
        assert [False] * 7 == [reader.exists(path) for path in (*paths, "a/b/c", folder)]
        for path in paths:
            for verb in (reader.get_content, reader.get_size):
                with pytest.raises(PathNotFound):
                    verb(path)

    def test_stays_removed_after_an_eviction(self, store, reader, writer, redis_server, identity):
        store.put_content("a/b", b"old")
        reader.get_content("a/b")
        writer.remove("a")
        store.put_content("a/b", b"newer")
        with redis_server.connect() as redis:
            for key in redis.keys(f"*{identity}*:g:*"):
                redis.delete(key)
        assert b"newer" == reader.get_content("a/b")

    def test_that_is_removed_keeps_its_siblings(self, store, reader, writer):
        for path in ("a/b/c", "a/bc", "a/d/e"):
            store.put_content(path, b"content")
            reader.get_content(path)
        store.reads.clear()
        writer.remove("a/b")
        assert [b"content"] * 2 == [reader.get_content(path) for path in ("a/bc", "a/d/e")]
        assert [] == store.reads

    @pytest.mark.parametrize("change", [lambda d: d.remove("a/b/c"), lambda d: d.move("a/b/c", "x")])
    def test_is_removed_with_its_last_file(self, store, reader, writer, change):
        store.put_content("a/b/c", b"")
        assert (True, True) == (reader.exists("a"), reader.exists("a/b"))
        change(writer)
        assert (False, False) == (reader.exists("a"), reader.exists("a/b"))


class TestTheKeysOfFolders:
    def test_take_little_memory_however_deep_the_names_of_repositories_are(self):
        deep = f"docker/registry/v2/repositories/{'a/' * 120}"
        tracemalloc.start()
        try:
            for number in range(300):
                leased._generations("docker-registry:{identity}", f"{deep}{number}/_layers")
                invalidation._folder_versions(f"{deep}{number}/_layers")
            kept_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 18 * 1024 * 1024 > kept_bytes


class TestTwoStoresInOneRedis:
    def test_never_mix(self, redis_server):
        first, second = (cached(MemoryDriver(), redis_server, secrets.token_hex(8)) for _ in range(2))
        for number, driver in enumerate((first, second)):
            driver.put_content(PATH, b"%d" % number)
        for _ in range(2):
            assert (b"0", b"1") == (first.get_content(PATH), second.get_content(PATH))

    def test_are_not_cached_without_an_identity(self, store, redis_server):
        driver = cached(store, redis_server, None)
        driver.put_content(PATH, b"1")
        driver.get_content(PATH)
        store.put_content(PATH, b"2")
        assert b"2" == driver.get_content(PATH)


class TestARemovalBypassingTheCache:
    def test_is_noticed_at_the_first_access(self, store, reader):
        store.put_content(BLOB, b"content")
        reader.get_size(BLOB)
        MemoryDriver.remove(store, BLOB)
        with pytest.raises(PathNotFound):
            reader.touch(BLOB)
        assert not reader.exists(BLOB)
        with pytest.raises(PathNotFound):
            reader.get_size(BLOB)


class TestManyHosts:
    def test_never_read_content_older_than_their_own_write(self, store, redis_server, identity):
        def work(name):
            driver = cached(store, redis_server, identity)
            for turn in range(60):
                content = f"{name}-{turn}".encode()
                driver.put_content(f"own/{name}", content)
                assert content == driver.get_content(f"own/{name}")
                assert content == driver.get_content(f"own/{name}")
                driver.put_content("shared", content)
                driver.get_content("shared")

        assert [] == race(*(lambda name=name: work(name) for name in range(6)))
        for _ in range(2):
            assert store.get_content("shared") == cached(store, redis_server, identity).get_content("shared")


class TestForeignValues:
    """A foreign value under a key of the cache is a miss, and is replaced."""

    READS = ("get_content", "get_size", "exists", "folder_version")

    @staticmethod
    def spoil(redis, key, value):
        redis.delete(key)
        if value is list:
            redis.rpush(key, "x")
        else:
            redis.set(key, value)

    @pytest.mark.parametrize("value", [b"", b"a b  c", b"\xff\x00", b"not ours" * 100, list], ids=repr)
    def test_are_a_miss(self, store, redis_server, identity, value):
        store.put_content("folder/file", b"content")
        reader = cached(store, redis_server, identity)
        redis = connect(
            RedisAddress(host="127.0.0.1", port=redis_server.port, password=PASSWORD), "cache_lru", timeout_seconds=5
        )
        for _ in range(2):
            assert (b"content", 7, True) == tuple(getattr(reader, each)("folder/file") for each in self.READS[:3])
            reader.folder_version("folder")
            keys = redis.keys(f"docker-registry:{{{identity}}}:*")
            assert 6 <= len(keys)
            for key in keys:
                self.spoil(redis, key, value)
        assert (b"content", 7, True) == tuple(getattr(reader, each)("folder/file") for each in self.READS[:3])
        reader.folder_version("folder")
        assert b"content" == reader.get_content("folder/file")

    @pytest.mark.parametrize("fact", ["size", "content", "presence", "folder"])
    def test_with_a_valid_stamp_are_a_miss(self, store, redis_server, identity, fact):
        store.put_content("folder/file", b"content")
        reader = cached(store, redis_server, identity)
        redis = connect(
            RedisAddress(host="127.0.0.1", port=redis_server.port, password=PASSWORD), "cache_lru", timeout_seconds=5
        )
        reader.get_size("folder/file")
        reader.folder_version("folder")
        for key in redis.keys(f"docker-registry:{{{identity}}}:{fact}:*"):
            redis.set(key, redis.get(key)[:40] + b"V\xff junk")
        assert 7 == reader.get_size("folder/file")
        reader.folder_version("folder")
