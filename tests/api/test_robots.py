"""Robots: tokens of programs, from the command to the registry."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import suppress

import pytest
import requests

from docker_registry.app import create_app
from docker_registry.auth.logins import Logins
from docker_registry.auth.users import robots as module
from docker_registry.auth.users.robots import PATH, Robots, is_token
from docker_registry.cli import main
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import Invalid, StorageError, Unauthorized
from docker_registry.services import build
from tests.support.access import settings
from tests.support.clients.v2 import Client
from tests.support.clock import Clock
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

RULES = """rules:
  - {repositories: ["acme/*"], who: ["robot:ci"], allow: [pull, push, delete]}
  - {repositories: ["base/*"], who: [authenticated], allow: [pull]}"""
DAY = 86400


@pytest.fixture
def driver():
    return MemoryDriver()


@pytest.fixture
def app(driver, tmp_path):
    settings(tmp_path, RULES)
    config = Config(storage="memory", auth=Auth(htpasswd=tmp_path / "users", rules=tmp_path / "rules.yml"))
    return create_app(build(config, driver)).test_client()


def statuses(app, token, paths, user="x"):
    return [app.get(f"/v2/{path}/tags/list", auth=(user, token)).status_code for path in paths]


class TestARobot:
    @pytest.fixture(autouse=True)
    def refreshed(self, monkeypatch):
        """Changes are seen at once."""
        monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)

    def test_may_do_what_its_scopes_and_the_rules_both_allow(self, app, driver):
        robots = Robots(driver)
        token = robots.add("ci", ["acme/w*:pull,push", "base/**:pull", "other/**:pull"], DAY)
        assert is_token(token)
        assert [404, 403, 404, 403] == statuses(app, token, ["acme/web", "acme/api", "base/x", "other/x"])
        assert 202 == app.post("/v2/acme/web/blobs/uploads/", auth=("x", token)).status_code
        assert 403 == app.delete("/v2/acme/web/manifests/v1", auth=("x", token)).status_code
        (error,) = app.get("/v2/acme/api/tags/list", auth=("x", token)).get_json()["errors"]
        assert "robot:ci" == error["detail"]["user"]
        other = robots.add("other", ["acme/**:pull"], DAY)
        assert [403] == statuses(app, other, ["acme/web"])

    def test_gets_tokens_that_end_with_it(self, app, driver):
        robots = Robots(driver)
        token = robots.add("ci", ["acme/web:pull,push"], DAY)
        wanted = "scope=repository:acme/web:pull,delete&scope=repository:acme/api:pull&offline_token=true"
        content = app.get(f"/v2/token?{wanted}", auth=("x", token)).get_json()
        assert "repository:acme/web:pull" == content["scope"]
        form = {"grant_type": "refresh_token", "refresh_token": content["refresh_token"]}
        headers = {"Authorization": f"Bearer {content['token']}"}
        path = "/v2/acme/web/tags/list"
        v1 = app.put("/v1/repositories/acme/web/", data="[]", auth=("x", token))
        v1_path, v1_headers = "/v1/repositories/acme/web/tags", {"Authorization": v1.headers["X-Docker-Token"]}
        assert [200, 200] == [
            app.get(path, headers=headers).status_code,
            app.get(v1_path, headers=v1_headers).status_code,
        ]
        assert 200 == app.post("/v2/token", data=form).status_code
        form_login = {"grant_type": "password", "username": "x", "password": token}
        assert 200 == app.post("/v2/token", data=form_login).status_code
        robots.revoke("ci")
        assert [401, 401] == [
            app.get(path, headers=headers).status_code,
            app.get(v1_path, headers=v1_headers).status_code,
        ]
        assert [401, 401] == [app.post("/v2/token", data=each).status_code for each in (form, form_login)]
        robots.add("ci", ["acme/web:pull"], DAY)  # another one of this name
        assert 401 == app.get(path, headers=headers).status_code

    def test_of_a_catalog_sees_what_it_may_pull(self, app, driver):
        root = Robots(driver).add("ci", ["**:pull,push"], DAY)
        token = Robots(driver).add("two", ["base/*:pull"], DAY)
        assert [] == app.get("/v2/_catalog", auth=("x", token)).get_json()["repositories"]
        assert 202 == app.post("/v2/acme/web/blobs/uploads/", auth=("x", root)).status_code


class TestARobotsToken:
    def test_ends_when_it_expires_is_revoked_or_replaced(self, driver):
        clock = Clock()
        robots = Robots(driver, clock)
        token = robots.add("ci", ["acme/*:pull"], 100)
        assert "ci" == robots.verify(token).name
        assert token.encode() not in driver.get_content(PATH)
        with pytest.raises(Invalid, match="already"):
            robots.add("ci", ["acme/*:pull"], 100)
        clock.now += 100
        assert robots.verify(token) is robots.find("robot:ci") is None
        assert token != robots.add("ci", ["acme/*:pull"], 100)
        assert robots.verify(token) is None
        robots.revoke("ci")
        with pytest.raises(Invalid, match="no robot"):
            robots.revoke("ci")

    def test_is_never_without_its_scopes_when_it_ends_during_a_login(self):
        granted = []
        for life in range(12):
            ticks = itertools.count()
            robots = Robots(MemoryDriver(), lambda ticks=ticks: float(next(ticks)))
            token, logins = robots.add("ci", ["acme/**:pull"], life), Logins(robots=robots)
            with suppress(Unauthorized):
                granted.append(logins.log_in("x", token, None).limits)
            with suppress(Unauthorized):
                granted.append(logins.client("robot:ci", None).limits)
        assert granted
        assert None not in granted

    def test_ends_on_other_hosts_within_five_seconds(self, driver):
        clock = Clock()
        here, there = Robots(driver, clock), Robots(driver, clock)
        token = here.add("ci", ["acme/*:pull"], 100)
        assert there.verify(token) is not None
        here.revoke("ci")
        clock.now += module.REFRESH_SECONDS
        there.refresh()
        assert there.verify(token) is None
        assert module.REFRESH_SECONDS * 2 <= 5

    def test_of_another_robot_is_not_parsed_again_when_one_changes(self, driver):
        clock = Clock()
        here, there = Robots(driver, clock), Robots(driver, clock)
        for name in ("ci", "other"):
            here.add(name, ["acme/*:pull"], 100)
        ci, other = there.find("robot:ci"), there.find("robot:other")
        here.revoke("ci")
        here.add("ci", ["acme/*:push"], 100)
        clock.now += module.REFRESH_SECONDS
        assert there.find("robot:other") is other
        assert ("acme/*:pull", "acme/*:push") == (*ci.scopes, *there.find("robot:ci").scopes)

    def test_is_returned_if_the_store_fails_once_the_robot_was_added(self):
        class FailingDriver(MemoryDriver):
            fails = False

            def put_content(self, path, content, *, if_match=None):
                super().put_content(path, content, if_match=if_match)
                self.fails = True

            def get_versioned(self, path):
                if self.fails:
                    raise StorageError
                return super().get_versioned(path)

        driver = FailingDriver()
        token = Robots(driver).add("ci", ["acme/*:pull"], DAY)
        driver.fails = False
        assert "ci" == Robots(driver).verify(token).name

    @pytest.mark.parametrize(
        "change",
        [{}, {"scopes": [1]}, {"scopes": 1}, {"hash": []}, {"name": {}}]
        + [{"expires": time} for time in ("never", 10**400, 1e300, -1, math.inf, math.nan)],
    )
    def test_of_a_damaged_file_is_refused_and_the_file_is_kept(self, driver, change):
        whole = {"name": "ci", "hash": "", "scopes": ["a:pull"], "created": 1, "expires": 2}
        content = json.dumps({"robots": [{**whole, **change} if change else {}]}).encode()
        driver.put_content(PATH, content)
        robots = Robots(driver)
        assert robots.verify("dr_" + "A" * 43) is robots.find("robot:ci") is None
        for use in (robots.list, lambda: robots.add("new", ["a:pull"], DAY), lambda: robots.revoke("ci")):
            with pytest.raises(StorageError, match="damaged"):
                use()
        assert content == driver.get_content(PATH)

    def test_may_replace_an_expired_one_if_there_are_as_many_as_possible(self, driver, monkeypatch):
        monkeypatch.setattr(module, "MAX_ROBOTS", 1)
        clock = Clock()
        robots = Robots(driver, clock)
        robots.add("ci", ["a:pull"], 100)
        clock.now += 100
        with pytest.raises(Invalid, match="There are 1 robots"):
            robots.add("other", ["a:pull"], 100)
        assert "ci" == robots.verify(robots.add("ci", ["a:pull"], 100)).name

    def test_is_kept_while_the_store_fails_and_ends_when_its_file_is_damaged(self, driver, monkeypatch):
        clock = Clock()
        robots = Robots(driver, clock)
        token = robots.add("ci", ["acme/*:pull"], 100)

        def fail(_):
            raise StorageError

        with monkeypatch.context() as patch:
            patch.setattr(driver, "get_versioned", fail)
            clock.now += 10
            assert robots.verify(token) is not None
        driver.put_content(PATH, b'{"robots": [{}]}')
        clock.now += 10
        assert robots.verify(token) is None
        with pytest.raises(StorageError, match="damaged"):
            Robots(driver, clock).list()

    @pytest.mark.parametrize(
        ("name", "scopes"),
        [
            ("", ["a:pull"]), ("A", ["a:pull"]), ("a/b", ["a:pull"]), ("a" * 65, ["a:pull"]), ("a", []),
            ("a", ["a"]), ("a", ["a:"]), ("a", ["a:admin"]), ("a", ["a:pull,x"]), ("a", ["${user}/*:pull"]),
            ("a", ["***:pull"]), ("a", ["a b:pull"]), ("a", [":pull"]), ("a", ["a:pull"] * 101),
        ],
    )  # fmt: skip
    def test_is_not_made_for_a_bad_name_or_scope(self, driver, name, scopes):
        with pytest.raises(Invalid):
            Robots(driver).add(name, scopes, DAY)
        assert [] == Robots(driver).list()

    @pytest.mark.parametrize("token", ["dr_" + "A" * 43, "dr_" + "A" * 42, "dr_", "dr_" + "é" * 43])
    def test_that_is_unknown_is_refused(self, app, token):
        assert 401 == app.get("/v2/", auth=("robot", token)).status_code


class TestTheCommand:
    def test_adds_lists_and_revokes_for_two_running_hosts(self, tmp_path, monkeypatch, capsys):
        audit, store = tmp_path / "audit.log", tmp_path / "store"
        files = settings(tmp_path, RULES + "\n  - {repositories: ['**'], who: [root], allow: [pull, push]}")
        section = f"storage: file, storage_path: {store}, audit_log: {audit}, auth: {{htpasswd: {tmp_path / 'users'}}}"
        (tmp_path / "config.yml").write_text(f"dev: {{{section}}}")
        monkeypatch.setenv("DOCKER_REGISTRY_CONFIG", str(tmp_path / "config.yml"))
        monkeypatch.delenv("SETTINGS_FLAVOR", raising=False)
        with Server(store, **files) as here, Server(store, **files) as there:
            with Client(here.url) as root:
                root.session.auth = ("root", "pw-root")
                push(root, "acme/web", "v1", make_image(1))
            assert 0 == main(["robot", "add", "ci", "--scope", "acme/*:pull", "--days", "7", "--json"])
            token = json.loads(capsys.readouterr().out)["token"]

            def seen():
                urls = [f"{server.url}/v2/acme/web/manifests/v1" for server in (here, there)]
                return [requests.get(url, auth=("x", token), timeout=30).status_code for url in urls]

            for _ in range(3):  # the last ones from the response cache
                assert [200, 200] == seen()
            assert 0 == main(["access", "check", "robot:ci", "pull", "acme/web:v1"])
            assert 1 == main(["access", "check", "robot:ci", "push", "acme/web:v1"])
            assert 0 == main(["robot", "list"])
            assert "ci" in capsys.readouterr().out
            assert 0 == main(["robot", "revoke", "ci"])
            wait_until(lambda: [401, 401] == seen())
            assert token not in here.log.read_text() + audit.read_text()
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        messages = [line["message"] for line in lines if "cli" == line.get("reason")]
        added = "docker-registry robot add ci --scope 'acme/*:pull' --days 7 --json"
        assert [added, "docker-registry robot revoke ci"] == messages
        capsys.readouterr()
        assert 0 == main(["robot", "list", "--json"])
        assert {"robots": []} == json.loads(capsys.readouterr().out)
        for arguments in (
            ["revoke", "ci"],
            ["add", "x", "--scope", "a:pull", "--days", "0"],
            ["add", "x", "--scope", "a"],
        ):
            assert 2 == main(["robot", *arguments])
            assert 1 == len(capsys.readouterr().err.splitlines())
        assert 2 == main(["access", "check", "robot:ci", "pull", "acme/web:v1"])
