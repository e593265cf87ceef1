"""Redis that dies, freezes, is slow, is full or has another password costs one warning and 100 ms."""

from __future__ import annotations

import contextlib
import gc
import logging
import secrets
import socket
import socketserver
import threading
import time
import warnings

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from redis import Redis

from docker_registry.drivers.cache.circuit_breaker import (
    MAX_WAIT_SECONDS,
    SOCKET_SECONDS,
    CircuitBreaker,
    Unavailable,
    _WaitTime,
)
from docker_registry.drivers.cache.connection import RedisAddress, connect
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.memory import MemoryDriver
from tests.support.servers.redis import PASSWORD, own_redis, sentinel
from tests.support.timing import PATIENCE_SECONDS, quickest, wait_until

PATH = "repositories/a/tag"

#: Tolerance for a busy machine; a request that waited for each answer would take six seconds longer.
SLACK_SECONDS = 3

PAUSE_SECONDS = 0.3


@pytest.fixture(autouse=True, scope="class")
def collected():
    """Collect the sockets of clients that a test has not closed, so that no later test fails by a warning."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def server():
    with own_redis() as server:
        yield server


@pytest.fixture
def store():
    return MemoryDriver()


@pytest.fixture
def host(store):
    """Makes the driver of one host; all have the same store."""
    identity = secrets.token_hex(8)
    connected = []

    def make(port, password=PASSWORD):
        address = RedisAddress(host="127.0.0.1", port=port, password=password)
        redis = connect(address, "cache_lru", timeout_seconds=SOCKET_SECONDS)
        connected.append(redis)
        circuit = CircuitBreaker(redis, str(address), pause_seconds=PAUSE_SECONDS)
        driver = CachedDriver(store, LeasedCache(redis, circuit, lambda: identity))
        set_limits(driver, PATIENCE_SECONDS, PATIENCE_SECONDS)
        return driver

    yield make
    for redis in connected:
        redis.connection_pool.disconnect()


@pytest.fixture
def driver(host, server, store):
    driver = host(server.port)
    store.put_content(PATH, b"content")
    driver.get_content(PATH)
    return driver


def lines(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno == level and record.name != "asyncio"]


def set_limits(driver, wait_seconds=MAX_WAIT_SECONDS, socket_seconds=SOCKET_SECONDS):
    """Limit how long a request waits for Redis; on a busy machine it takes longer than that without any fault."""
    circuit = driver.cache._circuit
    circuit._wait_time = _WaitTime(wait_seconds)
    pool = circuit._redis.connection_pool
    pool.connection_kwargs.update(socket_timeout=socket_seconds, socket_connect_timeout=socket_seconds)
    pool.disconnect()
    pool.reset()  # a connection keeps the limits that it was made with


def request(driver):
    """Make the calls of a request, repeatedly."""
    driver.begin_request()
    started = time.monotonic()
    for number in range(20):
        assert b"content" == driver.get_content(PATH)
        driver.put_content(f"b/{number}", b"")
        assert driver.exists(PATH)
    return time.monotonic() - started


def is_cached(driver, store):
    """Return whether the cache answers, tested by a change that it cannot notice."""
    driver.begin_request()
    driver.put_content("c", b"1")
    driver.get_content("c")
    store.put_content("c", b"2")
    return driver.get_content("c") == b"1"


TROUBLES = {
    "killed": (lambda server: server.kill(), lambda server: server.start(), "cannot be reached"),
    "frozen": (lambda server: server.freeze(), lambda server: server.thaw(), "does not answer in time"),
    "another password": (
        lambda server: change_password(server, PASSWORD, "another"),
        lambda server: change_password(server, "another", PASSWORD),
        "refuses the user or the password",
    ),
}


def change_password(server, old, new):
    with Redis("127.0.0.1", server.port, password=old) as redis:
        redis.config_set("requirepass", new)
        redis.client_kill_filter(skipme=True, _type="normal")


class TestFailingRedis:
    @pytest.mark.parametrize("trouble", TROUBLES)
    def test_is_logged_once_and_recovers(self, server, driver, store, caplog, trouble):
        caplog.set_level(logging.INFO)
        assert is_cached(driver, store)
        begin, end, reason = TROUBLES[trouble]
        begin(server)
        if trouble == "frozen":
            set_limits(driver)
        durations = [request(driver)]
        for _ in range(3):
            time.sleep(PAUSE_SECONDS)
            durations.append(request(driver))
        assert max(durations) < MAX_WAIT_SECONDS + SLACK_SECONDS
        assert min(durations) < MAX_WAIT_SECONDS + 1
        assert not is_cached(driver, store)
        (warning,) = lines(caplog)
        assert f"Redis at 127.0.0.1:{server.port} is unavailable: it {reason}" in warning
        end(server)
        set_limits(driver, PATIENCE_SECONDS, PATIENCE_SECONDS)
        wait_until(lambda: is_cached(driver, store))
        assert [f"Redis at 127.0.0.1:{server.port} is available again"] == lines(caplog, logging.INFO)
        assert 1 == len(lines(caplog))
        assert PASSWORD not in caplog.text

    def test_is_not_asked_during_the_pause(self, server, driver):
        driver.cache._circuit._pause_seconds = 60
        server.freeze()
        set_limits(driver)
        request(driver)
        assert quickest(lambda: request(driver)) < MAX_WAIT_SECONDS
        server.thaw()

    def test_does_not_count_as_recovered_by_a_late_answer(self, driver, caplog):
        caplog.set_level(logging.INFO)
        circuit = driver.cache._circuit
        circuit._pause_seconds = 60
        circuit.call(lambda _: circuit._open("a test"))
        assert [] == lines(caplog, logging.INFO)
        with pytest.raises(Unavailable):
            circuit.call(lambda redis: redis.ping())

    def test_may_be_restarted_between_two_requests(self, server, driver, store, caplog):
        server.kill()
        server.start()
        assert is_cached(driver, store)
        assert [] == lines(caplog)

    def test_may_be_emptied(self, server, driver, store, caplog):
        server.flush()
        assert b"content" == driver.get_content(PATH)
        assert is_cached(driver, store)
        assert [] == lines(caplog)

    def test_may_lose_its_scripts(self, server, driver, store, caplog):
        with server.connect() as redis:
            redis.script_flush()
        assert is_cached(driver, store)
        assert [] == lines(caplog)


class TestANetworkThatDropsPackets:
    def test_takes_no_longer_than_frozen_redis(self, host, store, caplog):
        store.put_content(PATH, b"content")
        with socket.create_server(("127.0.0.1", 0), backlog=1) as silent, contextlib.ExitStack() as stack:
            for _ in range(3):  # the queue of the kernel is full: new connections receive no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(silent.getsockname())
            driver = host(silent.getsockname()[1])
            set_limits(driver)
            assert request(driver) < MAX_WAIT_SECONDS + SLACK_SECONDS
        assert 1 == len(lines(caplog))


class Delay(socketserver.BaseRequestHandler):
    """Forwards both directions, and delays each answer."""

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as redis:
            while said := self.request.recv(65536):
                redis.sendall(said)
                time.sleep(self.server.seconds)
                self.request.sendall(redis.recv(65536))


class TestSlowRedis:
    @pytest.fixture
    def dawdling(self, server):
        """The port of a proxy that delays every answer."""
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Delay) as proxy:
            proxy.target, proxy.seconds, proxy.daemon_threads = server.port, 0.0, True
            thread = threading.Thread(target=proxy.serve_forever)
            thread.start()
            yield proxy
            proxy.shutdown()
            thread.join()

    def test_delays_a_request_no_longer_than_frozen_redis(self, host, store, dawdling, caplog):
        driver = host(dawdling.server_address[1])
        store.put_content(PATH, b"content")
        assert is_cached(driver, store)
        dawdling.seconds = 0.03
        set_limits(driver)
        for _ in range(3):
            assert request(driver) < MAX_WAIT_SECONDS + SLACK_SECONDS
        (warning,) = lines(caplog)
        assert "it is too slow" in warning or "in time" in warning


class TestFullRedis:
    def test_keeps_serving_its_entries(self, server, driver, store, caplog):
        caplog.set_level(logging.INFO)
        server.configure("maxmemory", "1")
        for number in range(3):
            store.put_content("c", b"%d" % number)
            assert b"%d" % number == driver.get_content("c")
        store.put_content(PATH, b"past the cache")
        assert b"content" == driver.get_content(PATH)
        driver.put_content(PATH, b"newer")  # leases are broken nevertheless
        assert b"newer" == driver.get_content(PATH)
        (warning,) = lines(caplog)
        assert "is full" in warning
        server.configure("maxmemory", "0")
        assert is_cached(driver, store)
        assert [f"Redis at 127.0.0.1:{server.port} accepts writes again"] == lines(caplog, logging.INFO)


class TestAFailedMaster:
    def test_is_replaced_by_the_replica_that_sentinels_name(self, store):
        with (
            own_redis("--masterauth", PASSWORD) as master,
            own_redis("--masterauth", PASSWORD, "--replicaof", "127.0.0.1", str(master.port)) as replica,
            sentinel(master) as port,
        ):
            with Redis("127.0.0.1", port, password=PASSWORD, decode_responses=True) as known:
                wait_until(lambda: known.sentinel_slaves("registry"))
            place = RedisAddress(
                sentinels=(f"127.0.0.1:{port}",),
                sentinel_service="registry",
                sentinel_password=PASSWORD,
                password=PASSWORD,
            )
            redis = connect(place, "cache_lru", timeout_seconds=SOCKET_SECONDS)
            circuit = CircuitBreaker(redis, str(place), pause_seconds=PAUSE_SECONDS)
            driver = CachedDriver(store, LeasedCache(redis, circuit, lambda: "store"))
            set_limits(driver, PATIENCE_SECONDS, PATIENCE_SECONDS)
            assert is_cached(driver, store)
            master.kill()
            assert not is_cached(driver, store)
            wait_until(lambda: is_cached(driver, store))
            with replica.connect() as promoted:
                assert promoted.keys("*store*")


class TestAHostThatAloneLostRedis:
    def test_invalidates_its_own_writes_first(self, server, host, store):
        lost, other = host(server.port), host(server.port)
        store.put_content(PATH, b"old")
        for driver in (lost, other):
            assert b"old" == driver.get_content(PATH)
        lost.cache._circuit._open("a test")
        lost.put_content(PATH, b"newer")
        assert b"newer" == lost.get_content(PATH)
        time.sleep(PAUSE_SECONDS)
        assert b"newer" == lost.get_content(PATH)
        assert b"newer" == other.get_content(PATH)

    def test_stores_no_earlier_reads(self, server, host, store):
        """It has a lease, loses Redis, writes, reconnects, and only then receives the answer of the store."""
        lost = host(server.port)
        store.put_content(PATH, b"old")
        read = store.get_content

        def get_content(path):
            content = read(path)
            store.get_content = read
            lost.cache._circuit._open("a test")
            lost.put_content(PATH, b"newer")
            time.sleep(PAUSE_SECONDS)
            return content

        store.get_content = get_content
        assert b"old" == lost.get_content(PATH)
        assert b"newer" == lost.get_content(PATH)
