"""Real servers with Redis as a cache of their store: what it saves, and that its failures never affect a client."""

from __future__ import annotations

import itertools
import json
import secrets
import sys
import threading
import time

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from docker_registry.config.schema import Config, load_config
from docker_registry.config.sections import CacheLru
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.services import open_driver
from tests.support.clients.v2 import Client
from tests.support.servers.redis import PASSWORD, own_redis
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

#: The longest delay of a request by Redis.
BOUND_SECONDS = 0.1

#: Tolerance for a busy machine; a request that waited for each answer would take that long for each.
SLACK_SECONDS = 20


@pytest.fixture
def redis():
    with own_redis() as redis:
        yield redis


@pytest.fixture
def server(tmp_path, redis):
    with Server(tmp_path / "store", **redis.cache_environment) as server:
        yield server


@pytest.fixture
def client(server):
    return Client(server.url)


def manifest(blobs, **more):
    """Return a manifest that names blobs, the first as its configuration."""
    described = [{"mediaType": "application/octet-stream", "digest": digest, "size": size} for digest, size in blobs]
    media_type = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "config": described[0], "layers": described[1:], **more}
    return json.dumps(document).encode()


def push(client, name, tag, meanwhile=lambda: None):
    """Push an image with new blobs only, and call a function between them."""
    contents = [secrets.token_bytes(size) for size in (500, 300_000, 3_000_000)]
    blobs = []
    for content in contents:
        blobs.append((client.push_blob(name, content), len(content)))
        meanwhile()
    payload = manifest(blobs)
    client.put_manifest(name, tag, payload)
    return payload


def pull(client, name, tag, meanwhile=lambda: None):
    """Pull an image, verified, and return its manifest."""
    pulled = client.get_manifest(name, tag)
    document = json.loads(pulled.payload)
    for blob in (document["config"], *document["layers"]):
        meanwhile()
        assert client.has_blob(name, blob["digest"])
        assert blob["size"] == len(client.get_blob(name, blob["digest"]))
    return pulled.payload


def durations(client, name, tag, count=30):
    """Return the shortest and the longest duration of many requests."""
    seconds = []
    for _ in range(count):
        started = time.monotonic()
        client.get_manifest(name, tag)
        seconds.append(time.monotonic() - started)
    return min(seconds), max(seconds)


TROUBLES = {
    "killed": (lambda redis: redis.kill(), lambda redis: redis.start()),
    "frozen": (lambda redis: redis.freeze(), lambda redis: redis.thaw()),
    "emptied": (lambda redis: redis.flush(), lambda redis: None),
    "restarted": (lambda redis: (redis.kill(), redis.start()), lambda redis: None),
    "full": (lambda redis: redis.configure("maxmemory", "1mb"), lambda redis: redis.configure("maxmemory", "0")),
}


def at(moment, action):
    """Return a function that acts when it is called for the *moment*-th time."""
    calls = itertools.count(1)
    return lambda: action() if next(calls) == moment else None


def log(server, text):
    return [line for line in server.log.read_text().splitlines() if text in line]


class TestTheConfiguration:
    def test_without_redis_has_no_cache(self):
        assert isinstance(open_driver(Config(storage="memory")), MemoryDriver)

    def test_with_redis_caches_the_store(self, tmp_path, redis):
        config = load_config(
            {
                "STORAGE_PATH": str(tmp_path),
                "CACHE_LRU_MAX_BYTES": "1000",
                "SEARCH_BACKEND": "",
                **redis.cache_environment,
            }
        )
        driver = open_driver(config)
        assert isinstance(driver, CachedDriver)
        assert isinstance(driver.driver, FileDriver)
        driver.put_content("a", b"x" * 1000)
        driver.put_content("b", b"x" * 1001)
        for path in ("a", "b"):
            driver.get_content(path)
        with redis.connect() as connection:
            kept = [key for key in connection.keys("*:content:*") if connection.strlen(key) > 1000]
        assert [True] == [key.endswith(b":content:a") for key in kept]
        assert driver.driver.exists("docker/registry/v2/_identity")

    def test_with_a_missing_library_prevents_the_start(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ConfigError, match=r"^cache_lru.host: the Redis library is missing: pip install "):
            open_driver(Config(storage="memory", cache_lru=CacheLru(host="h")))


class TestFailingRedis:
    @pytest.mark.parametrize("trouble", TROUBLES)
    def test_fails_neither_pushes_nor_pulls(self, redis, server, client, trouble):
        begin, end = TROUBLES[trouble]
        push(client, "a/b", "latest")  # the cache is filled
        payload = push(client, "a/b", "latest", at(1, lambda: begin(redis)))
        assert payload == pull(client, "a/b", "latest")
        end(redis)
        assert payload == pull(client, "a/b", "latest", at(2, lambda: begin(redis)))
        assert durations(client, "a/b", "latest")[1] < BOUND_SECONDS + SLACK_SECONDS
        end(redis)
        # One per failure; on a busy machine the server may lose Redis more often.
        assert len(log(server, "is unavailable")) <= 2 + len(log(server, "is available again"))
        assert PASSWORD not in server.log.read_text()
        if trouble in ("killed", "frozen"):
            assert log(server, "is unavailable")

    def test_delays_no_request_beyond_the_limit(self, redis, server, client):
        payload = push(client, "a/b", "latest")
        usual, _ = durations(client, "a/b", "latest")
        redis.freeze()
        for _ in range(2):
            shortest, longest = durations(client, "a/b", "latest")
            assert shortest < 4 * usual + BOUND_SECONDS / 2
            assert longest < BOUND_SECONDS + SLACK_SECONDS
            push(client, "a/b", "other")
        assert 1 == len(log(server, "is unavailable")) - len(log(server, "is available again"))
        redis.thaw()
        wait_until(lambda: payload == pull(client, "a/b", "latest") and log(server, "is available again"))
        assert len(log(server, "is unavailable")) <= 1 + len(log(server, "is available again"))

    def test_does_not_prevent_the_start(self, tmp_path, redis):
        redis.kill()
        with Server(tmp_path / "store", **redis.cache_environment) as server:
            payload = push(Client(server.url), "a/b", "latest")
            assert payload == pull(Client(server.url), "a/b", "latest")
            assert 2 == len(log(server, "is unavailable"))  # the check before the start, and the one worker
        redis.start()


class TestTwoServersOfOneStore:
    TURNS = 16

    @pytest.fixture
    def clients(self, tmp_path, redis):
        environment = redis.cache_environment
        with Server(tmp_path / "store", **environment) as one, Server(tmp_path / "store", **environment) as other:
            self.servers = (one, other)
            yield Client(one.url), Client(other.url)

    def test_see_changes_of_each_other_at_once(self, clients):
        config = clients[0].push_blob("a/b", b"{}")

        def work(number):
            return [
                mistake for turn in range(self.TURNS) for mistake in self._write_and_read(clients, config, number, turn)
            ]

        assert [] == self._undisturbed(clients, work)

    def _write_and_read(self, clients, config, number, turn):
        """Let one server write and the other read; return the changes that the reader did not see."""
        writer, reader = clients[turn % 2], clients[1 - turn % 2]
        payload = manifest([(config, 2)], annotations={"turn": f"{number}-{turn}"})
        writer.put_manifest("a/b", "latest", payload)
        seen = {
            "the manifest": payload == reader.get_manifest("a/b", "latest").payload,
            "its own manifest": payload == writer.get_manifest("a/b", "latest").payload,
        }
        writer.put_manifest("a/b", f"v{turn}", payload)
        seen["the tag among others"] = f"v{turn}" in reader.tags("a/b")
        seen["the tag"] = reader.has_manifest("a/b", f"v{turn}")
        reader.delete_manifest("a/b", f"v{turn}")
        seen["that it is gone"] = not writer.has_manifest("a/b", f"v{turn}")
        seen["that it is gone from the list"] = f"v{turn}" not in writer.tags("a/b")
        return [(turn, what) for what, is_seen in seen.items() if not is_seen]

    def test_never_go_back_to_an_older_tag(self, clients):
        """Each moves a tag repeatedly while both read it: an acknowledged target never disappears."""
        config = clients[0].push_blob("a/b", b"{}")

        def work(number):
            return self._move_and_read(clients, config, f"tag{number}")

        assert [] == self._undisturbed(clients, work)

    def _undisturbed(self, clients, work):
        """Repeat some work until Redis was used throughout: on a busy machine it may be unavailable for seconds."""
        for number in range(5):
            alarms = self._said("is unavailable")
            mistakes = work(number)
            if alarms == self._said("is unavailable"):
                break
            deadline = time.monotonic() + 60
            while self._said("is available again") < self._said("is unavailable"):
                assert time.monotonic() < deadline
                for client in clients:
                    client.has_manifest("a/b", "whatever")
                time.sleep(0.05)
        return mistakes

    def _said(self, text):
        return sum(len(log(server, text)) for server in self.servers)

    def _move_and_read(self, clients, config, tag):
        acknowledged, mistakes = [-1], []
        is_over = threading.Event()

        def read(url):
            client = Client(url)
            while not is_over.is_set():
                least = acknowledged[0]
                if least < 0:
                    time.sleep(0.01)
                else:
                    seen = json.loads(client.get_manifest("a/b", tag).payload)["annotations"]["turn"]
                    if int(seen) < least:
                        mistakes.append((least, seen))

        readers = [threading.Thread(target=read, args=(client.url,)) for client in clients]
        for reader in readers:
            reader.start()
        for turn in range(self.TURNS):
            payload = manifest([(config, 2)], annotations={"turn": str(turn)})
            clients[turn % 2].put_manifest("a/b", tag, payload)
            acknowledged[0] = turn
        is_over.set()
        for reader in readers:
            reader.join()
        return mistakes


class TestTwoServersOfOneBucket(TestTwoServersOfOneStore):
    """They send responses again without the application, as long as Redis confirms them."""

    TURNS = 6

    @pytest.fixture
    def clients(self, tmp_path, redis, seaweedfs):
        options = seaweedfs.options()
        environment = {
            "SETTINGS_FLAVOR": "s3",
            "STORAGE_PATH": options["storage_path"],
            "AWS_BUCKET": options["s3_bucket"],
            "AWS_KEY": options["s3_access_key"],
            "AWS_SECRET": options["s3_secret_key"],
            "AWS_ENDPOINT_URL": options["s3_endpoint"],
            "AWS_SECURE": "false",
            "GUNICORN_OPTS": "tests.support.counting_application:application",
            **redis.cache_environment,
        }
        self.counted = [tmp_path / "counted-one", tmp_path / "counted-other"]
        one, other = (
            Server(tmp_path / f"store-{counted.name}", COUNTED=str(counted), **environment) for counted in self.counted
        )
        with one, other:
            self.servers = (one, other)
            yield Client(one.url), Client(other.url)

    @pytest.mark.parametrize("path", ["/v2/a/b/manifests/v1", "/v2/a/b/tags/list"])
    def test_answer_unchanged_content_from_the_response_cache(self, clients, path):
        config = clients[0].push_blob("a/b", b"{}")
        clients[0].put_manifest("a/b", "v1", manifest([(config, 2)]))
        for client, counted in zip(clients, self.counted, strict=True):
            expected = client.request("GET", path, 200).content

            def are_answered_from_the_cache(client=client, counted=counted, expected=expected):
                asked = counted.stat().st_size
                answers = [client.request("GET", path, 200).content for _ in range(5)]
                assert [expected] * 5 == answers
                return asked == counted.stat().st_size

            wait_until(are_answered_from_the_cache)  # not while Redis is slow, as on a busy machine

    def test_answer_without_redis(self, clients, redis):
        config = clients[0].push_blob("a/b", b"{}")
        payload = manifest([(config, 2)])
        clients[0].put_manifest("a/b", "v1", payload)
        assert [payload] * 5 == [clients[0].get_manifest("a/b", "v1").payload for _ in range(5)]
        redis.kill()
        assert [payload] * 5 == [clients[0].get_manifest("a/b", "v1").payload for _ in range(5)]
        newer = manifest([(config, 2)], annotations={"newer": "yes"})
        clients[0].put_manifest("a/b", "v1", newer)
        assert newer == clients[0].get_manifest("a/b", "v1").payload


class TestAServerThatAloneLostRedis:
    @pytest.fixture
    def servers(self, tmp_path, redis):
        environment = redis.cache_environment
        self.allow(redis, "on")
        own = {**environment, "CACHE_LRU_REDIS_USERNAME": "one"}
        with Server(tmp_path / "store", **own) as one, Server(tmp_path / "store", **environment) as other:
            yield one, other

    def allow(self, redis, word):
        with redis.connect() as connection:
            connection.execute_command("ACL", "SETUSER", "one", word, f">{PASSWORD}", "~*", "+@all")
            connection.execute_command("CLIENT", "KILL", "USER", "one")

    def test_invalidates_its_writes_without_further_requests(self, redis, servers):
        one, other = (Client(server.url) for server in servers)
        push(one, "a/b", "latest")
        pull(other, "a/b", "latest")
        self.allow(redis, "off")
        payload = push(one, "a/b", "latest")
        assert payload == one.get_manifest("a/b", "latest").payload
        assert payload != other.get_manifest("a/b", "latest").payload  # the server cannot notice it
        self.allow(redis, "on")
        wait_until(lambda: payload == other.get_manifest("a/b", "latest").payload)
        assert "is unavailable" in servers[0].log.read_text()
