"""Passwords are verified slowly once, then remembered; failures are limited."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from docker_registry.auth import credentials
from docker_registry.auth.users import attempts, login_queue, passwords
from docker_registry.auth.users.attempts import Attempts
from docker_registry.auth.users.failure_table import MAX_ENTRIES, FailureTable
from docker_registry.auth.users.passwords import Passwords
from docker_registry.auth.users.redis_failures import RedisFailures
from docker_registry.config.schema import Config
from docker_registry.config.sections import Cache
from docker_registry.errors import Overloaded, TooManyAttempts, Unauthorized
from docker_registry.http.clients import parse_address
from docker_registry.services.store import open_shared_redis
from tests.support.clock import Clock
from tests.support.gevent_program import under_gevent
from tests.support.servers.redis import PASSWORD, redis_server
from tests.support.timing import PATIENCE_SECONDS, wait_until

__all__ = ["redis_server"]

HERE, THERE = parse_address("192.0.2.1"), parse_address("192.0.2.2")


#: Verifies passwords in a process like a worker of the server.
IN_A_WORKER = """
import os, signal
import bcrypt
from docker_registry.auth.users.login_queue import LoginQueue
from docker_registry.auth.users.passwords import Passwords
from docker_registry.concurrency import watching_client
from docker_registry.errors import ClientLeft
from tests.support.processes import children
from tests.support.timing import wait_until

stored = bcrypt.hashpw(b"right", bcrypt.gensalt(4))
passwords = Passwords(lambda: {"alice": stored})
print(*(passwords.verify("alice", each, None) for each in ("wrong", "right", "\\udcff")))
(child,) = children(os.getpid())
print(os.getpriority(os.PRIO_PROCESS, child) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19))
departures = iter([False, True])
with watching_client(lambda: next(departures)):  # a client that leaves meanwhile has failed nevertheless
    print(passwords.verify("alice", "guess", None))
with watching_client(lambda: True):
    try:
        passwords.verify("alice", "another guess", None)
    except ClientLeft:
        print(next(departures))
os.kill(child, signal.SIGKILL)
wait_until(lambda: open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] == "Z")
print(passwords.verify("alice", "another", None))
queue = LoginQueue()
def take(network):
    with queue.turn(network):
        return network
with queue.turn("a"):
    logins = [gevent.spawn(take, network) for network in "bbc"]
    wait_until(lambda: len(queue) == 3)
    logins.pop(0).kill()  # it leaves the queue
    print(len(queue))
logins.pop(0).kill()  # it has got the turn, and passes it on
print(logins.pop().get(timeout=60), take("a"))
"""


def hashed(password):
    return bcrypt.hashpw(password, bcrypt.gensalt(4))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def users():
    return {"alice": hashed(b"right"), "bob": hashed(b"other")}


@pytest.fixture
def checks(monkeypatch):
    """The hashes against which bcrypt was run."""
    found = []

    def checkpw(password, stored):
        found.append(stored)
        return original(password, stored)

    original = bcrypt.checkpw
    monkeypatch.setattr(passwords.bcrypt, "checkpw", checkpw)
    return found


@pytest.fixture
def verify(users, clock, checks):
    return Passwords(lambda: users, clock).verify


class TestAPassword:
    def test_is_right_or_wrong(self, verify):
        assert verify("alice", "right", HERE)
        assert not verify("alice", "wrong", HERE)
        assert not verify("alice", "other", HERE)
        assert not verify("alice", "", HERE)
        assert not verify("bob", "right", HERE)

    def test_is_hashed_once_in_five_minutes(self, verify, clock, checks):
        assert all(verify("alice", "right", HERE) for _ in range(10))
        assert 1 == len(checks)
        clock.now += passwords.REMEMBERED_SECONDS + 1
        assert verify("alice", "right", HERE)
        assert 2 == len(checks)

    def test_is_forgotten_when_the_user_changes_it_or_goes(self, verify, users):
        assert verify("alice", "right", HERE)
        users["alice"] = hashed(b"new")
        assert not verify("alice", "right", HERE)
        assert verify("alice", "new", HERE)
        del users["alice"]
        assert not verify("alice", "new", HERE)

    def test_of_an_unknown_user_costs_one_hash_of_the_same_cost(self, verify, users, checks):
        assert not verify("mallory", "x", HERE)
        (decoy,) = checks
        assert users["alice"][:7] == decoy[:7]

    @pytest.mark.parametrize("password", ["ä" * 40, "x" * 70_000, "\udcff"])
    def test_may_be_anything(self, verify, password):
        assert not verify("alice", password, HERE)

    def test_is_remembered_in_bounded_memory(self, verify, users, monkeypatch):
        monkeypatch.setattr(passwords, "MAX_REMEMBERED", 1)
        assert verify("alice", "right", HERE)
        assert verify("bob", "other", HERE)
        assert verify("alice", "right", HERE)


class TestAWorker:
    def test_hashes_in_a_process_of_low_priority(self):
        assert ["False", "True", "False", "True", "False", "True", "False", "2", "c", "a"] == under_gevent(
            IN_A_WORKER, errors=True
        )


class TestLoginsThatWait:
    @pytest.fixture
    def slow(self, users, clock, monkeypatch):
        """Passwords of which the first waits for an event; and what was hashed."""

        def checkpw(password, stored):
            hashed.append(password.decode())
            assert event.wait(PATIENCE_SECONDS)
            return original(password, stored)

        hashed, event, original = [], threading.Event(), bcrypt.checkpw
        monkeypatch.setattr(passwords.bcrypt, "checkpw", checkpw)
        return Passwords(lambda: users, clock), hashed, event

    def test_take_turns_by_network_and_share_the_queue(self, slow, monkeypatch):
        monkeypatch.setattr(login_queue, "MAX_WAITING", 3)
        monkeypatch.setattr(login_queue, "MAX_WAITING_OF_NETWORK", 2)
        one, hashed, event = slow
        with ThreadPoolExecutor(6) as threads:
            logins = [threads.submit(one.verify, "alice", "guess 1", HERE)]
            wait_until(lambda: hashed)
            logins.append(threads.submit(one.verify, "alice", "guess 1", HERE))  # needs no place of its own
            for number, (password, address) in enumerate((("guess 2", HERE), ("guess 3", HERE), ("right", THERE)), 1):
                if address is THERE:
                    with pytest.raises(Overloaded):
                        one.verify("alice", "guess 4", HERE)
                logins.append(threads.submit(one.verify, "alice", password, address))
                wait_until(lambda number=number: len(one._queue) == number)
            with pytest.raises(Overloaded):
                one.verify("alice", "guess 5", THERE)
            event.set()
            assert [False] * 4 + [True] == [login.result(PATIENCE_SECONDS) for login in logins]
        assert ["guess 1", "guess 2", "right", "guess 3"] == hashed
        assert one.verify("bob", "other", HERE)  # the turn is free again

    def test_are_compared_with_the_users_after_the_wait(self, slow, users):
        one, hashed, event = slow
        with ThreadPoolExecutor(3) as threads:
            threads.submit(one.verify, "alice", "guess", HERE)
            wait_until(lambda: hashed)
            logins = [threads.submit(one.verify, *each, THERE) for each in (("alice", "right"), ("bob", "other"))]
            wait_until(lambda: len(one._queue) == len(logins))
            users["alice"] = bcrypt.hashpw(b"new", bcrypt.gensalt(4))
            del users["bob"]
            event.set()
            assert [False, False] == [login.result(PATIENCE_SECONDS) for login in logins]

    def test_rest_for_a_limited_time_after_a_wrong_password(self, verify, clock, monkeypatch):
        def checkpw(*_):
            clock.now += 1
            return False

        rests = []
        monkeypatch.setattr(passwords.bcrypt, "checkpw", checkpw)
        monkeypatch.setattr(passwords.time, "sleep", rests.append)
        assert not any(verify("alice", password, HERE) for password in ("guess 1", "guess 2"))
        assert [passwords.MAX_REST_SECONDS] == rests


class TestFailedLogins:
    def test_are_refused_beyond_the_limit_without_hashing(self, verify, checks, clock):
        for number in range(attempts.ACCOUNT_FAILURES):
            assert not verify("alice", f"wrong{number}", HERE)
        for number in range(3):
            with pytest.raises(TooManyAttempts) as raised:
                verify("alice", f"other{number}", HERE)
        assert attempts.ACCOUNT_FAILURES == len(checks)
        assert 0 < raised.value.retry_after_seconds <= attempts.FORGIVEN_EVERY_SECONDS + 1
        clock.now += raised.value.retry_after_seconds
        assert verify("alice", "right", HERE)

    def test_with_the_same_password_count_once(self, verify, checks):
        assert not any(verify("alice", "wrong", HERE) for _ in range(100))
        assert 1 == len(checks)
        assert verify("alice", "right", HERE)

    def test_do_not_lock_other_networks_out(self, verify):
        for number in range(attempts.ACCOUNT_FAILURES):
            verify("alice", f"wrong{number}", HERE)
        with pytest.raises(TooManyAttempts):
            verify("alice", "another", HERE)
        assert verify("alice", "right", THERE)
        assert verify("alice", "right", HERE)  # remembered, so it is no guess

    def test_of_many_accounts_are_limited_by_network(self, verify, checks):
        with pytest.raises(TooManyAttempts):
            for number in range(1000):
                verify(f"user{number}", "guess", HERE)
        assert attempts.NETWORK_FAILURES == len(checks)
        assert not verify("user1", "guess", THERE)

    def test_count_for_a_whole_ipv6_network(self, clock):
        counted = Attempts(clock)
        for number in range(attempts.ACCOUNT_FAILURES):
            counted.fail("alice", parse_address(f"2001:db8::{number:x}"))
        assert counted.wait_seconds("alice", parse_address("2001:db8::ffff"))
        assert not counted.wait_seconds("alice", parse_address("2001:db8:0:1::1"))
        assert not counted.wait_seconds("alice", None)

    def test_are_counted_in_bounded_memory(self, clock):
        counted = Attempts(clock)
        for number in range(MAX_ENTRIES + 100):
            counted.fail(f"user{number}" + "x" * 1000, HERE)
        assert attempts.NETWORK_FAILURES < len(counted) <= MAX_ENTRIES


class TestFailuresOnSeveralWorkersAndHosts:
    def test_are_counted_together_by_the_workers_of_a_server(self, users, clock, checks, tmp_path):
        table = tmp_path / "failures"
        workers = [Passwords(lambda: users, clock, Attempts(clock, FailureTable(table))) for _ in range(2)]
        assert table.stat().st_blocks * 512 >= table.stat().st_size  # a write of a worker can never lack space
        for number in range(attempts.ACCOUNT_FAILURES):
            assert not workers[number % 2].verify("alice", f"wrong{number}", HERE)
        for worker in workers:
            with pytest.raises(TooManyAttempts):
                worker.verify("alice", "another", HERE)
        assert attempts.ACCOUNT_FAILURES == len(checks)
        assert workers[0].verify("alice", "right", THERE)

    def test_are_counted_together_by_hosts_with_redis(self, users, checks, redis_server, monkeypatch):
        pytest.importorskip("redis", reason="redis is not installed")
        monkeypatch.setattr(attempts, "FORGIVEN_EVERY_SECONDS", 600.0)  # none is forgiven on a busy machine
        config = Config(cache=Cache(host="127.0.0.1", port=redis_server.port, password=PASSWORD))
        call = open_shared_redis(config, max_wait_seconds=60.0)
        hosts = [Passwords(lambda: users, attempts=Attempts(hosts=RedisFailures(call))) for _ in range(2)]
        for number in range(attempts.ACCOUNT_FAILURES):
            assert not hosts[number % 2].verify("alice", f"wrong{number}", HERE)
        for host in hosts:
            with pytest.raises(TooManyAttempts) as raised:
                host.verify("alice", "another", HERE)
            assert 0 < raised.value.retry_after_seconds <= attempts.FORGIVEN_EVERY_SECONDS + 1
        assert attempts.ACCOUNT_FAILURES == len(checks)
        away = open_shared_redis(Config(cache=Cache(host="127.0.0.1", port=1)))
        alone = Passwords(lambda: users, attempts=Attempts(hosts=RedisFailures(away)))
        assert not alone.verify("alice", "yet another", HERE)  # without Redis each server counts its own


class TestAnAuthorizationHeader:
    @pytest.mark.parametrize("header", [None, "", " ", "Basic Og==", "Bearer QQ==", "Basic", "Bearer", "Basic "])
    def test_without_credentials_is_anonymous(self, header):
        assert credentials.parse(header) is None

    @pytest.mark.parametrize(
        ("header", "name", "password"),
        [
            ("Basic YWxpY2U6cHc=", "alice", "pw"),
            ("basic   YWxpY2U6cHc=", "alice", "pw"),
            ("Basic YWxpY2U6YTpi", "alice", "a:b"),
            ("Basic YTr/", "a", "\udcff"),
            ("Basic Ong=", "", "x"),
        ],
    )
    def test_has_a_name_and_a_password(self, header, name, password):
        assert credentials.Basic(name, password) == credentials.parse(header)
        assert password not in repr(credentials.parse(header)) or password == "a:b"

    @pytest.mark.parametrize(
        "header",
        ["Basic x", "Basic YWxpY2U=", "Basic YWxpY2U6cHc=,Basic YWxpY2U6cHc=", "Basic YQA6Yg==", "Basic é", "Digest x",
         "Bearer a b", "Bearer a,b", "Negotiate", "Basic " + "A" * 65536, "\t\x00"],
    )  # fmt: skip
    def test_that_is_malformed_is_refused(self, header):
        with pytest.raises(Unauthorized):
            credentials.parse(header)
