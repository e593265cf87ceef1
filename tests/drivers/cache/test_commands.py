"""Commands of Redis that are sent without redis-py's client."""

from __future__ import annotations

import select

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError

from docker_registry.drivers.cache import commands
from docker_registry.drivers.cache.circuit_breaker import CircuitBreaker
from docker_registry.drivers.cache.commands import RedisCommands, Script
from docker_registry.drivers.cache.connection import RedisAddress, connect
from docker_registry.drivers.cache.leased import LeasedCache
from tests.support.servers.redis import PASSWORD, own_redis


@pytest.fixture
def server():
    with own_redis() as server:
        yield server


@pytest.fixture(params=["hiredis", "Python"])
def sender(server, request, monkeypatch):
    redis = connect(
        RedisAddress(host="127.0.0.1", port=server.port, password=PASSWORD), "cache_lru", timeout_seconds=60
    )
    sender = RedisCommands(redis)
    if request.param == "Python":
        monkeypatch.setattr(sender, "_pack", commands.packed)
    yield sender
    redis.close()


def clients(server):
    """Return how many connections Redis has, besides the one that asks."""
    with server.connect() as redis:
        return len(redis.client_list()) - 1


class TestACommand:
    def test_is_sent_again_on_the_same_connection(self, server, sender):
        for value in ("text ü\r\n", b"\0bytes\xff", 7, ""):
            assert b"OK" == sender.send("SET", "key", value)
            assert (value if isinstance(value, bytes) else str(value).encode()) == sender.send("GET", "key")
        assert 1 == clients(server)

    def test_that_is_refused_leaves_the_connection_usable(self, server, sender):
        for _ in range(3):
            with pytest.raises(ResponseError):
                sender.send("GET")
            assert b"PONG" in (answer := sender.send("PING"), str(answer).encode())
        assert 1 == clients(server)

    def test_finds_that_redis_has_closed_an_idle_connection(self, server, sender):
        sender.send("SET", "key", "1")
        with server.connect() as redis:
            redis.client_kill_filter(skipme=True, _type="normal")
        assert b"1" == sender.send("GET", "key")

    def test_never_gets_the_response_to_an_earlier_one(self, server, sender):
        sender.send("SET", "key", "1")
        connection = sender._idle[0]
        connection.send_packed_command([commands.packed(("ECHO", "late"))])
        assert select.select([connection._sock], [], [], 60)[0]
        assert b"1" == sender.send("GET", "key")
        assert 1 == clients(server)

    def test_fails_without_redis_and_succeeds_afterwards(self, server, sender):
        sender.send("SET", "key", "1")
        server.kill()
        with pytest.raises((LostConnection, OSError)):
            sender.send("GET", "key")
        server.start()
        assert sender.send("GET", "key") is None

    def test_needs_no_connection_after_its_sender_is_closed(self, server, sender):
        sender.send("PING")
        sender.close()
        assert 0 == clients(server)


class TestManyCommandsAtOnce:
    def test_have_a_connection_each_and_leave_a_few(self, server, sender):
        for connection in [sender._connection() for _ in range(commands.MAX_IDLE + 20)]:
            sender._keep(connection)
        assert sender.send("GET", "key") is None
        assert commands.MAX_IDLE == clients(server)


class TestAConnection:
    def test_to_a_former_master_is_not_used_again(self, server, sender, monkeypatch):
        sender.send("PING")
        (former,) = sender._idle
        monkeypatch.setattr(sender._pool, "owns_connection", lambda _: False)  # as that of Sentinel after a failover
        sender.send("PING")
        assert former not in sender._idle
        assert 1 == clients(server)

    def test_is_opened_by_earlier_versions_of_redis_py(self, server, sender, monkeypatch):
        pool = sender._pool
        opened = pool.get_connection
        monkeypatch.setattr(pool, "get_connection", lambda command_name, *_: command_name and opened(*sender._options))
        with server.connect() as redis:
            monkeypatch.setattr(redis, "connection_pool", pool)
            assert RedisCommands(redis).send("GET", "key") is None

    def test_serves_pending_invalidations_too(self, server):
        place = RedisAddress(url=f"redis://:{PASSWORD}@127.0.0.1:{server.port}?max_connections=1")
        redis = connect(place, "cache_lru", timeout_seconds=60)
        cache = LeasedCache(redis, CircuitBreaker(redis, str(place), max_wait_seconds=60), lambda: "store")
        cache.look_up("size", "a")
        cache._pending.add(["key"], "everything")
        assert cache.look_up("size", "a").lease is not None
        assert (0, set()) == (cache.errors, cache._pending._keys)
        redis.close()


class TestAScript:
    def test_is_known_by_its_hash_even_after_redis_forgot_it(self, server, sender):
        script = Script(sender, "return {KEYS[1], ARGV[1], ARGV[2]}")
        for _ in range(2):
            assert [b"k", b"a", b"2"] == script.run(["k"], [b"a", 2])
            assert [b"k", b"a", b"2"] == script.run(["k"], [b"a", 2])
            sender.send("SCRIPT", "FLUSH")
