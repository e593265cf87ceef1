"""Users of an LDAP directory, with a real one: OpenLDAP's slapd."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from docker_registry import dependencies
from docker_registry.app import create_app
from docker_registry.auth.access_control import VOUCHED_SECONDS
from docker_registry.auth.external import ldap
from docker_registry.auth.external.ldap import (
    MAX_CONNECTIONS,
    MAX_FAILURES,
    REMEMBERED_SECONDS,
    RETRY_SECONDS,
    WRONG_SECONDS,
    LdapUsers,
)
from docker_registry.auth.external.ldap_directory import Directory
from docker_registry.auth.logins import Logins
from docker_registry.auth.users import attempts, login_queue
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, Ldap
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import (
    AuthorityUnavailable,
    ConfigError,
    Overloaded,
    RegistryError,
    TooManyAttempts,
    Unauthorized,
)
from docker_registry.services import build
from tests.support.access import settings, write_users
from tests.support.clock import Clock
from tests.support.processes import free_port
from tests.support.servers import slapd
from tests.support.timing import PATIENCE_SECONDS, wait_until

RULES = """rules:
  - {repositories: ["dev/**"], who: ["@dev"], allow: [pull, push]}
  - {repositories: ["ops/**"], who: ["@ops", dora], allow: [pull]}"""

#: What a directory with defaults needs, for settings that are not correct.
GOOD = {"url": "ldaps://ldap.example.com", "user_base": "ou=people,dc=example,dc=com"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    people = {"carol": ("dev", "everyone"), "dora": ("everyone",), "alice": ("dev",), "eve*": (), "Frank": ("Frank",)}
    with slapd.directory(tmp_path_factory.mktemp("slapd"), people) as directory:
        yield directory


def parsed(**changed):
    section = Ldap(**changed)
    return Directory.parse(**{name: getattr(section, name) for name in Ldap.__dataclass_fields__})


def make_app(folder, directory, **changed):
    """Make the application of a registry in which alice has a password of her own too."""
    settings(folder, RULES, ("alice",))
    section = Auth(
        htpasswd=folder / "users", rules=folder / "rules.yml", ldap=Ldap(**{**directory.settings, **changed})
    )
    return create_app(build(Config(storage="memory", auth=section), MemoryDriver())).test_client()


@pytest.fixture(scope="module")
def app(directory, tmp_path_factory):
    return make_app(tmp_path_factory.mktemp("ldap"), directory)


def end_of(token):
    """When a token of API V1 ends."""
    return int(re.search("signature=([0-9a-f]+)", token)[1], 16)


def status(app, name, path, password=None):
    return app.get(path, auth=(name, password or f"pw-{name}")).status_code


class TestAUserOfTheDirectory:
    def test_may_do_what_the_rules_allow_name_and_groups(self, app):
        assert [404, 403] == [status(app, "carol", f"/v2/{name}/x/tags/list") for name in ("dev", "ops")]
        assert [403, 404] == [status(app, "dora", f"/v2/{name}/x/tags/list") for name in ("dev", "ops")]

    def test_gets_access_tokens_that_carry_the_groups_and_no_refresh_token(self, app):
        query = "/v2/token?scope=repository:dev/x:pull,push&offline_token=true"
        document = app.get(query, auth=("carol", "pw-carol")).get_json()
        assert "repository:dev/x:pull,push" == document["scope"]
        assert "refresh_token" not in document
        headers = {"Authorization": f"Bearer {document['token']}"}
        assert 404 == app.get("/v2/dev/x/tags/list", headers=headers).status_code
        form = {"grant_type": "password", "username": "dora", "password": "pw-dora", "scope": "repository:ops/x:pull"}
        assert "repository:ops/x:pull" == app.post("/v2/token", data=form).get_json()["scope"]

    def test_is_overruled_by_the_file_of_users(self, app):
        assert 200 == status(app, "alice", "/v2/")
        assert 403 == status(app, "alice", "/v2/dev/x/tags/list")  # the group is the directory's

    def test_is_the_same_in_upper_and_lower_case(self, app):
        assert [404, 403] == [status(app, "CarOL", f"/v2/{name}/x/tags/list", "pw-carol") for name in ("dev", "ops")]
        assert 404 == status(app, "DORA", "/v2/ops/x/tags/list", "pw-dora")  # a rule names dora
        assert 403 == status(app, "Alice", "/v2/dev/x/tags/list", "pw-alice")  # of the file

    def test_is_searched_by_the_name_as_it_was_sent(self, directory):
        exact = parsed(**directory.settings | {"user_filter": "(uid:caseExactMatch:={user})"})
        client = Logins(groups=lambda: frozenset({"Frank"}), ldap=LdapUsers(exact)).log_in("Frank", "pw-Frank", None)
        assert ("frank", {"Frank"}) == (client.name, client.groups)
        assert LdapUsers(exact).verify("frank", "pw-Frank") is None
        groups = parsed(**directory.settings | {"group_filter": "(cn:caseExactMatch:={user})"})
        assert {"Frank"} == LdapUsers(groups).verify("fRANK", "pw-Frank")

    @pytest.mark.parametrize("name", ["cn", "CN", "commonName"])
    def test_is_in_groups_that_are_named_by_an_attribute_under_any_of_its_names(self, directory, name):
        users = LdapUsers(parsed(**directory.settings | {"group_name": name}))
        assert {"dev", "everyone"} == users.verify("carol", "pw-carol")

    def test_is_not_one_of_several_of_the_file_in_upper_and_lower_case(self, tmp_path):
        away = LdapUsers(parsed(url=f"ldap://127.0.0.1:{free_port()}", insecure=True, user_base=slapd.PEOPLE))
        logins = Logins(write_users(tmp_path / "users", "Alice", "alice"), ldap=away)
        for name in ("Alice", "alice"):
            assert name == logins.log_in(name, f"pw-{name}", None).name
            with pytest.raises(Unauthorized):
                logins.log_in("ALICE", f"pw-{name}", None)

    def test_pushes_by_api_v1_with_a_token(self, app):
        token = app.get("/v2/token?scope=repository:dev/old:pull,push", auth=("carol", "pw-carol")).get_json()["token"]
        basic = "Basic " + base64.b64encode(b"carol:pw-carol").decode()
        for header in (basic, f"Bearer {token}"):
            answer = app.put("/v1/repositories/dev/old", data="[]", headers={"Authorization": header})
            ends = time.time() + (VOUCHED_SECONDS if header is basic else 300)
            for _ in range(2):  # a token is exchanged for another one, which does not end later
                headers = {"Authorization": answer.headers["X-Docker-Token"]}
                assert ends - 60 < end_of(headers["Authorization"]) <= ends
                ends = end_of(headers["Authorization"])
                assert 404 == app.get("/v1/repositories/dev/old/tags/x", headers=headers).status_code
                answer = app.put("/v1/repositories/dev/old/images", data="[]", headers=headers)


class TestALogin:
    @pytest.mark.parametrize(
        ("name", "password"),
        [("carol", "wrong"), ("carol", ""), ("nobody", "pw-nobody"), ("*", "pw-carol"), ("eve*", "pw-eve*"),
         ("carol)(uid=*", "pw-carol"), ("registry", "pw-registry"), ("carol", "\udcff"), ("carol", "a\0b"),
         ("Anonymous", "pw-carol"), ("\u212aate", "pw-carol"),
         ("carol", "a\nb"), ("carol", "\u00ad"),
         ("carol", "pw-carol" + 1024 * "\u00ad")],
    )  # fmt: skip
    def test_with_another_name_or_password_is_refused(self, directory, name, password):
        assert LdapUsers(parsed(**directory.settings)).verify(name, password) is None

    def test_that_fails_too_often_is_refused_before_the_directory_is_asked(self, directory, tmp_path, monkeypatch):
        monkeypatch.setattr(attempts, "FORGIVEN_EVERY_SECONDS", 600.0)  # none is forgiven on a busy machine
        app = make_app(tmp_path, directory)
        assert 200 == status(app, "dora", "/v2/")
        guesses = ["a\nb", *(f"guess{number}" for number in range(attempts.ACCOUNT_FAILURES + 1))]
        found = [
            status(app, name, "/v2/", guess) for guess, name in zip(guesses, cycle(("dora", "DORA")), strict=False)
        ]
        assert [401] * attempts.ACCOUNT_FAILURES + [429] * 2 == found
        assert 200 == status(app, "dora", "/v2/")  # remembered

    def test_is_limited_beside_others_that_wait_for_the_directory(self, directory, monkeypatch):
        monkeypatch.setattr(attempts, "FORGIVEN_EVERY_SECONDS", 600.0)
        logins = Logins(ldap=LdapUsers(parsed(**directory.settings)))

        def failure(number):
            with pytest.raises(RegistryError) as raised:
                logins.log_in("dora", f"guess{number}", None)
            return type(raised.value)

        logins_at_once = MAX_CONNECTIONS + login_queue.MAX_WAITING_OF_NETWORK
        with ThreadPoolExecutor(logins_at_once) as threads:
            found = list(threads.map(failure, range(logins_at_once)))
        assert attempts.ACCOUNT_FAILURES <= found.count(Unauthorized) < attempts.ACCOUNT_FAILURES + MAX_CONNECTIONS
        assert {Unauthorized, TooManyAttempts} == set(found)

    def test_waits_for_its_network_to_take_a_turn(self, monkeypatch):
        monkeypatch.setattr(ldap, "MAX_CONNECTIONS", 1)
        monkeypatch.setattr(login_queue, "MAX_WAITING_OF_NETWORK", 2)
        users = LdapUsers(parsed(url=f"ldap://127.0.0.1:{free_port()}", insecure=True, user_base=slapd.PEOPLE))
        turns, end = [], threading.Event()

        def log_in(name):
            checks = []

            def check():
                checks.append(name)
                if len(checks) == 2:  # it has waited
                    turns.append(name)
                    assert end.wait(PATIENCE_SECONDS)
                    raise TooManyAttempts(retry_after_seconds=1)

            with pytest.raises(TooManyAttempts):
                users.verify(name, "pw", network=name[0], check=check)

        with ThreadPoolExecutor(5) as threads:
            logins = [threads.submit(log_in, "a1")]
            wait_until(lambda: turns)
            for number, name in enumerate(("a2", "a3", "b1"), 1):
                logins.append(threads.submit(log_in, name))
                wait_until(lambda number=number: len(users._queue) == number)
            with pytest.raises(Overloaded):
                users.verify("a4", "pw", network="a")
            end.set()
            for login in logins:
                login.result(PATIENCE_SECONDS)
        assert ["a1", "a2", "b1", "a3"] == turns

    def test_is_remembered_for_five_minutes(self, directory):
        clock = Clock()
        users = LdapUsers(parsed(**directory.settings), clock)
        assert frozenset({"dev", "everyone"}) == users.verify("carol", "pw-carol")
        assert frozenset({"dev", "everyone"}) == users.recall("carol", "pw-carol")
        assert users.recall("carol", "wrong") is None
        clock.now += REMEMBERED_SECONDS
        assert users.recall("carol", "pw-carol") is None

    def test_that_is_wrong_and_sent_twice_in_a_row_fails_once(self, directory):
        clock, failures = Clock(), []
        users = LdapUsers(parsed(**directory.settings), clock)
        for pause, count in ((0, 1), (0, 1), (WRONG_SECONDS, 2)):
            clock.now += pause
            assert users.verify("carol", "wrong", fail=lambda: failures.append(1)) is None
            assert count == len(failures)
        assert users.verify("carol", "pw-carol") is not None

    def test_limits_the_time_of_a_cached_response(self, directory):
        clock = Clock()
        users = LdapUsers(parsed(**directory.settings), clock)
        for log_in in (users.verify, users.recall):
            with dependencies.collected() as found:
                log_in("carol", "pw-carol")
            assert 1000 + REMEMBERED_SECONDS == found.until
            clock.now += 1


class TestAConnection:
    def test_may_use_starttls(self, directory):
        users = LdapUsers(
            parsed(**directory.settings | {"url": f"ldap://127.0.0.1:{directory.port}", "starttls": True})
        )
        assert frozenset({"everyone"}) == users.verify("dora", "pw-dora")

    def test_may_be_plain_by_a_setting_and_search_no_groups(self, directory):
        plain = {"url": f"ldap://127.0.0.1:{directory.port}", "insecure": True, "group_base": None}
        assert frozenset() == LdapUsers(parsed(**directory.settings | plain)).verify("dora", "pw-dora")

    @pytest.mark.parametrize(
        "changed",
        [{"ca": None}, {"bind_password": "wrong"}, {"bind_dn": None, "bind_password": None}, {"url": "away"},
         {"url": "plain"}, {"bind_password": None, "bind_password_file": "missing"},
         {"bind_password": None, "bind_password_file": "latin-1"}],
        ids=["ca", "account", "anonymous", "away", "plain", "password file", "encoding of the password file"],
    )  # fmt: skip
    def test_that_fails_is_a_503(self, directory, changed, tmp_path):
        if "url" in changed:
            changed = {"url": f"ldaps://127.0.0.1:{directory.port if changed['url'] == 'plain' else free_port()}"}
        if "bind_password_file" in changed:
            (tmp_path / "latin-1").write_bytes(b"p\xe4ssword")
            changed = changed | {"bind_password_file": tmp_path / changed["bind_password_file"]}
        if changed.get("bind_dn", "") is None:  # slapd hides everything from it
            assert LdapUsers(parsed(**directory.settings | changed)).verify("carol", "pw-carol") is None
            return
        with pytest.raises(AuthorityUnavailable):
            LdapUsers(parsed(**directory.settings | changed)).verify("carol", "pw-carol")
        app = make_app(tmp_path, directory, **changed)
        answer = app.get("/v2/", auth=("carol", "pw-carol"))
        assert (503, "UNAVAILABLE") == (answer.status_code, json.loads(answer.data)["errors"][0]["code"])
        assert 200 == status(app, "alice", "/v2/")

    def test_to_a_busy_directory_is_a_503(self):
        settings = {"url": "", "insecure": True, "user_base": slapd.PEOPLE}
        for busy in (1, 2):  # it cannot bind the registry, or the user
            with slapd.busy_directory(busy) as port, pytest.raises(AuthorityUnavailable):
                LdapUsers(parsed(**settings | {"url": f"ldap://127.0.0.1:{port}"})).verify("carol", "pw-carol")

    def test_that_failed_several_times_is_tried_once_in_a_while(self, caplog):
        port, clock = free_port(), Clock()
        url = f"ldap://127.0.0.1:{port}"
        users = LdapUsers(parsed(url=url, insecure=True, user_base=slapd.PEOPLE), clock)

        def attempts_of(logins):
            caplog.clear()
            for _ in range(logins):
                with pytest.raises(AuthorityUnavailable):
                    users.verify("carol", "pw-carol")
            return sum(each.levelname == "ERROR" for each in caplog.records)  # each attempt that fails is logged

        assert MAX_FAILURES == attempts_of(10)
        clock.now += RETRY_SECONDS
        assert 1 == attempts_of(10)
        with slapd.busy_directory(0, port):
            assert 0 == attempts_of(1)
            clock.now += RETRY_SECONDS
            assert [frozenset()] * 2 == [users.verify(name, "x") for name in ("carol", "dora")]

    def test_that_does_not_answer_a_user_does_not_fail_for_others(self, caplog):
        logins = MAX_FAILURES + 2
        with slapd.busy_directory(0, hangs_up=True) as port:
            users = LdapUsers(parsed(url=f"ldap://127.0.0.1:{port}", insecure=True, user_base=slapd.PEOPLE))
            for number in range(logins):
                with pytest.raises(AuthorityUnavailable):
                    users.verify("carol", f"guess {number}")
        assert logins == len(caplog.records)  # all were tried


class TestASetting:
    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"url": "ldap.example.com"}, "url must be"),
            ({"url": "https://ldap.example.com"}, "url must be"),
            ({"url": "ldaps://ldap.example.com:x"}, "url must be"),
            ({"url": "ldaps://[::1"}, "url must be"),
            ({"url": "ldaps://ldap..example.com"}, "url must be"),
            ({"url": "ldap://ldap.example.com"}, "in clear"),
            ({"user_base": None}, "user_base is not set"),
            ({"url": None}, "url is not set"),
            ({"bind_dn": "cn=x"}, "belong together"),
            ({"bind_password": "x"}, "belong together"),
            ({"user_filter": "(uid=x)"}, "user_filter must contain"),
            ({"user_filter": "(uid={user}"}, "user_filter is not an LDAP filter"),
            ({"group_base": "ou=groups", "group_filter": "(cn=x)"}, "group_filter must contain"),
            ({"ca": Path("/nowhere")}, "cannot be read"),
        ],
    )
    def test_that_is_wrong_stops_the_start(self, tmp_path, changed, sentence):
        config = Config(storage="memory", auth=Auth(ldap=Ldap(**GOOD | changed)))
        with pytest.raises(ConfigError, match=r"auth\.ldap") as raised:
            build(config, MemoryDriver())
        assert sentence in str(raised.value)
