"""Users, rules and Basic authentication, over HTTP."""

from __future__ import annotations

import base64
import itertools
import json
import re
import socket
import time

import pytest
import requests

from docker_registry.api.access_control import WITHOUT_REPOSITORY, Requirement
from docker_registry.api.routes import ACTIONS
from docker_registry.app import create_app
from docker_registry.auth.users.attempts import ACCOUNT_FAILURES, FORGIVEN_EVERY_SECONDS
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.server import launch
from docker_registry.services import build
from docker_registry.services.access import SMALL_RULES_BYTES
from tests.support.access import PASSWORD, RULES, hashed, settings
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of
from tests.support.gevent_program import under_gevent
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import wait_until
from tests.support.v1_images import make

#: Two workers' caches would make some tests depend on who answers; revocation is tested with two.
IMAGE, OTHER = make_image(1), make_image(2)
ANONYMOUS = None

#: A value for each part of a route.
ROUTE_VALUES = {
    "name": "secret/x", "repository": "secret/x", "image_id": "a" * 64, "reference": "v1", "tag": "v1",
    "digest": IMAGE.digest, "upload_id": "6f1f8a35-4d0e-4f0c-9c51-0d5a8f4e2a11", "username": "x",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    others = {"SEARCH_BACKEND": "sqlalchemy", "REGISTRY_METRICS": "true"}
    with Server(folder / "store", workers=2, **others, **settings(folder)) as server:
        with as_user(server, "root") as root:
            for name in ("acme/web", "public/web", "alice/own", "bob/own", "tags/web"):
                push(root, name, "v1", IMAGE)
            root.put_manifest("tags/web", "latest", IMAGE.manifest)
            root.put_manifest("acme/web", "latest", IMAGE.manifest)
        yield server


def as_user(server, name):
    client = Client(server.url)
    if name is not ANONYMOUS:
        client.session.auth = (name, PASSWORD + name)
    return client


def client_fixture(name):
    @pytest.fixture
    def client(server):
        with as_user(server, name) as client:
            yield client

    return client


alice, bob, root, anonymous = map(client_fixture, ("alice", "bob", "root", ANONYMOUS))


def status(client, method, path, **options):
    return client.session.request(method, client.url + path, timeout=30, **options).status_code


def put_manifest(client, path, image=IMAGE):
    return client.session.put(
        f"{client.url}/v2/{path}", data=image.manifest, headers={"Content-Type": OCI_MANIFEST}, timeout=30
    )


class TestTheVersionCheck:
    def test_challenges_a_client_without_credentials_once(self, server):
        answer = requests.get(f"{server.url}/v2/", timeout=30)
        assert 401 == answer.status_code
        assert "UNAUTHORIZED" == answer.json()["errors"][0]["code"]
        assert 1 == len(answer.raw.headers.getlist("WWW-Authenticate"))

    def test_welcomes_a_user(self, alice):
        assert 200 == status(alice, "GET", "/v2/")

    @pytest.mark.parametrize("header", ["Basic Og==", "Bearer QQ==", "Basic"])
    def test_takes_empty_credentials_as_none(self, server, header):
        answer = requests.get(f"{server.url}/v2/", headers={"Authorization": header}, timeout=30)
        assert 401 == answer.status_code
        answer = requests.get(f"{server.url}/v2/public/web/tags/list", headers={"Authorization": header}, timeout=30)
        assert 200 == answer.status_code

    @pytest.mark.parametrize(
        "header",
        ["Basic x", "Basic YWxpY2U6eA==", "Digest x", "Basic " + "A" * 60_000, "Basic " + "QTpi" * 20_000, "Bearer x"],
        ids=["malformed", "wrong", "scheme", "long", "too-long", "token"],
    )
    def test_refuses_bad_credentials_also_where_none_are_needed(self, server, header):
        for path in ("/v2/", "/v2/public/web/tags/list"):
            answer = requests.get(server.url + path, headers={"Authorization": header}, timeout=30)
            assert answer.status_code in (400, 401, 431)
        log = server.log.read_text()
        assert "Traceback" not in log
        assert "QTpi" not in log

    def test_refuses_two_authorization_headers(self, server):
        basic = base64.b64encode(b"alice:pw-alice").decode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            header = f"Authorization: Basic {basic}\r\n"
            connection.sendall(f"GET /v2/ HTTP/1.1\r\nHost: x\r\n{header}{header}Connection: close\r\n\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] in (b"400", b"401")

    def test_needs_no_credentials_for_options(self, anonymous):
        assert 200 == status(anonymous, "OPTIONS", "/v2/acme/web/manifests/v1")


class TestPulling:
    @pytest.mark.parametrize(
        ("user", "name", "expected"),
        [
            ("alice", "acme/web", 200), ("bob", "acme/web", 200), (ANONYMOUS, "acme/web", 401),
            (ANONYMOUS, "public/web", 200), ("alice", "public/web", 200),
            ("alice", "alice/own", 200), ("bob", "alice/own", 403), (ANONYMOUS, "alice/own", 401),
        ],
    )  # fmt: skip
    def test_is_decided_by_the_rules(self, server, user, name, expected):
        with as_user(server, user) as client:
            paths = [f"/v2/{name}/manifests/v1", f"/v2/{name}/manifests/{IMAGE.digest}", f"/v2/{name}/tags/list",
                     f"/v2/{name}/blobs/{digest_of(IMAGE.config)}", f"/v2/{name}/referrers/{IMAGE.digest}"]  # fmt: skip
            assert {expected} == {status(client, "GET", path) for path in paths}
            assert {expected} == {status(client, "GET", path) for path in paths}  # now from the response cache

    @pytest.mark.parametrize(("user", "expected"), [("bob", 403), (ANONYMOUS, 401)])
    def test_is_refused_alike_for_what_is_there_and_what_is_missing(self, server, user, expected):
        with as_user(server, user) as client:
            for method, path in (("GET", "manifests/v1"), ("GET", f"blobs/{IMAGE.digest}"), ("GET", "tags/list")):
                answers = [
                    client.session.request(method, f"{server.url}/v2/{name}/{path}", timeout=30)
                    for name in ("alice/own", "alice/xxx")
                ]
                assert [expected] * 2 == [answer.status_code for answer in answers]
                assert answers[0].text == answers[1].text.replace("xxx", "own")

    def test_names_user_action_and_repository_in_the_refusal(self, bob):
        (error,) = bob.session.get(f"{bob.url}/v2/alice/own/tags/list", timeout=30).json()["errors"]
        assert ("DENIED", "bob may not pull in the repository alice/own.") == (error["code"], error["message"])
        assert {"user": "bob", "action": "pull", "repository": "alice/own"} == error["detail"]


class TestPushing:
    def test_is_allowed_for_the_tags_of_a_rule(self, alice):
        push(alice, "acme/web", "v2", OTHER)
        assert 403 == put_manifest(alice, "acme/web/manifests/edge", OTHER).status_code
        assert 201 == put_manifest(alice, f"acme/web/manifests/{OTHER.digest}", OTHER).status_code

    def test_is_refused_before_the_body_is_read(self, bob):
        upload = "blobs/uploads/6f1f8a35-4d0e-4f0c-9c51-0d5a8f4e2a11"
        for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/v9"), ("PATCH", upload)):
            assert 403 == status(bob, method, f"/v2/acme/web/{path}", data=b"x" * 100_000)

    def test_of_a_reader_creates_nothing(self, bob, root):
        assert 403 == status(bob, "POST", "/v2/acme/new/blobs/uploads/")
        assert 403 == put_manifest(bob, "acme/new/manifests/v1").status_code
        assert "acme/new" not in root.repositories()

    def test_moves_no_tag_without_overwrite(self, alice, root):
        push(root, "acme/move", "v1", IMAGE)
        push(root, "acme/move", "other", OTHER)
        answer = put_manifest(alice, "acme/move/manifests/v1", OTHER)
        assert (403, "DENIED") == (answer.status_code, answer.json()["errors"][0]["code"])
        assert "alice may not overwrite the tag v1" in answer.json()["errors"][0]["message"]
        assert 201 == put_manifest(alice, "acme/move/manifests/v1", IMAGE).status_code  # it stays where it is
        assert IMAGE.digest == root.get_manifest("acme/move", "v1").digest
        assert 201 == put_manifest(root, "acme/move/manifests/v1", OTHER).status_code

    def test_by_digest_checks_each_tag_in_the_query(self, alice, root):
        push(root, "acme/many", "v1", IMAGE)
        push(root, "acme/many", "other", OTHER)
        path = f"acme/many/manifests/{OTHER.digest}"
        assert 403 == put_manifest(alice, f"{path}?tag=v2&tag=edge", OTHER).status_code
        assert 403 == put_manifest(alice, f"{path}?tag=v2&tag=v1", OTHER).status_code
        assert ["other", "v1"] == root.tags("acme/many")
        assert 201 == put_manifest(alice, f"{path}?tag=v2&tag=v3", OTHER).status_code

    def test_mounts_only_what_the_user_may_pull(self, alice, bob):
        digest = digest_of(IMAGE.config)
        assert not bob.mount("bob/new", digest, "alice/own")
        assert not bob.mount("bob/new", digest, "no/such")
        assert not bob.mount("bob/new", digest)
        assert bob.mount("bob/new", digest, "acme/web")


class TestDeleting:
    def test_needs_a_rule_for_it(self, alice, root):
        push(root, "acme/del", "v1", IMAGE)
        paths = [f"manifests/{IMAGE.digest}", "manifests/v1", f"blobs/{digest_of(IMAGE.config)}"]
        assert {403} == {status(alice, "DELETE", f"/v2/acme/del/{path}") for path in paths}
        push(alice, "alice/del", "v1", IMAGE)
        assert 202 == status(alice, "DELETE", "/v2/alice/del/manifests/v1")
        assert 202 == status(alice, "DELETE", f"/v2/alice/del/manifests/{IMAGE.digest}")


class TestLists:
    def test_of_repositories_show_what_one_may_pull(self, server, alice, root, anonymous):
        assert {"acme/web", "public/web", "alice/own"} <= set(alice.repositories())
        assert all(name.split("/")[0] in ("acme", "public", "alice") for name in alice.repositories())
        assert "public/web" in anonymous.repositories()
        assert {"bob/own", "tags/web"} <= set(root.repositories())
        answer = alice.session.get(f"{server.url}/v2/_catalog?n=1&last=alice/own", timeout=30)
        assert answer.json()["repositories"] in (["public/web"], ["public/secret"])

    def test_of_tags_show_what_one_may_pull(self, bob, root):
        assert ["v1"] == bob.tags("tags/web")
        assert ["latest", "v1"] == root.tags("tags/web")
        assert 403 == status(bob, "GET", "/v2/tags/web/manifests/latest")

    def test_of_search_results_count_only_what_one_may_pull(self, server, alice, root, anonymous):
        def search(client):
            return client.session.get(f"{server.url}/v1/search?q=own&page_size=1", timeout=30).json()

        assert (1, ["alice/own"]) == (search(alice)["num_results"], [each["name"] for each in search(alice)["results"]])
        assert 2 == search(root)["num_results"]
        assert 0 == search(anonymous)["num_results"]


class TestAPrivateRepository:
    def test_is_visible_to_users_whose_rules_allow_it(self, alice, bob, root, anonymous):
        push(root, "public/secret", "v1", IMAGE)
        answer = root.session.put(
            f"{root.url}/v1/repositories/public/secret/properties", data='{"access": "private"}', timeout=30
        )
        assert 200 == answer.status_code
        assert {200} == {status(client, "GET", "/v2/public/secret/tags/list") for client in (alice, bob)}
        assert 404 == status(anonymous, "GET", "/v2/public/secret/tags/list")
        assert "public/secret" not in anonymous.repositories()
        assert "public/secret" in alice.repositories()


class TestAnImageOfApiV1:
    def test_that_derives_from_v2_or_is_private_is_served_to_users_who_may_pull_it(self, root, bob, anonymous):
        push(root, "root/own", "v1", IMAGE)
        image_id = root.session.get(f"{root.url}/v1/repositories/root/own/tags/v1", timeout=30).json()
        body = {"access": "private"}
        assert 200 == status(root, "PUT", "/v1/repositories/root/own/properties", json=body)
        for path in ("json", "layer", "ancestry", "files", "diff"):
            assert 200 == status(root, "GET", f"/v1/images/{image_id}/{path}"), path
            assert 403 == status(bob, "GET", f"/v1/images/{image_id}/{path}"), path
            assert 401 == status(anonymous, "GET", f"/v1/images/{image_id}/{path}"), path


class TestTheNamesOfOneRepositoryInBothApis:
    """API V1 and API V2 show `foo` under `library/foo` too."""

    def test_show_only_their_own_content_to_a_client_that_may_not_see_the_other(self, tmp_path):
        rules = """rules:
          - {repositories: ["library/**"], who: [alice], allow: [pull]}
          - {repositories: ["foo"], who: [bob], allow: [pull, delete]}
          - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete]}"""
        settings(tmp_path, rules)
        section = Auth(htpasswd=tmp_path / "users", rules=tmp_path / "rules.yml")
        services = build(Config(storage="memory", auth=section), MemoryDriver())
        app = create_app(services).test_client()
        assert 200 == app.put("/v1/repositories/foo/", data="[]", auth=("root", "pw-root")).status_code
        assert 404 == app.get("/v2/library/foo/tags/list", auth=("alice", "pw-alice")).status_code
        assert 200 == app.get("/v2/library/foo/tags/list", auth=("root", "pw-root")).status_code
        path = f"/v2/library/foo/manifests/{IMAGE.digest}"
        options = {"data": IMAGE.manifest, "content_type": OCI_MANIFEST, "auth": ("root", "pw-root")}
        for content in (IMAGE.config, *IMAGE.layers):
            url = f"/v2/library/foo/blobs/uploads/?digest={digest_of(content)}"
            assert 201 == app.post(url, data=content, auth=("root", "pw-root")).status_code
        assert 201 == app.put(f"{path}?tag=v1", **options).status_code
        # V1's foo also shows the tags of V2's library/foo, which bob may not see, and must not delete.
        tags = "/v1/repositories/library/foo/tags"
        assert ["v1"] == list(app.get(tags, auth=("root", "pw-root")).get_json())
        assert {} == app.get(tags, auth=("bob", "pw-bob")).get_json()
        assert 404 == app.delete(f"{tags}/v1", auth=("bob", "pw-bob")).status_code
        assert 200 == app.delete(f"{tags}/v1", auth=("root", "pw-root")).status_code

    def test_lead_to_nothing_that_the_rules_do_not_allow(self, tmp_path):
        rules = """rules:
          - {repositories: ["library/**"], who: [alice], allow: [pull, push]}
          - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete]}"""
        with Server(tmp_path / "store", **settings(tmp_path, rules)) as server, as_user(server, "root") as root:
            root.session.put(f"{server.url}/v1/repositories/foo/", data="[]", timeout=30).raise_for_status()
            push(root, "foo", "v1", IMAGE)
            push(root, "library/bar", "v1", IMAGE)
            with as_user(server, "alice") as alice:
                assert 200 == status(root, "GET", "/v2/library/foo/tags/list")
                assert 404 == status(alice, "GET", "/v2/library/foo/tags/list")
                assert 404 == status(alice, "GET", "/v2/library/foo/manifests/v1")
                assert 403 == status(alice, "GET", "/v1/repositories/library/foo/tags")
                assert 403 == status(alice, "GET", "/v1/repositories/foo/tags")
                assert 403 == status(alice, "GET", "/v2/foo/tags/list")
                assert 200 == status(alice, "GET", "/v2/library/bar/tags/list")
                push(alice, "library/foo", "v2", IMAGE)


class TestAChange:
    """On both workers, also while the response cache holds answers."""

    def test_of_a_file_holds_at_once(self, tmp_path):
        audit = tmp_path / "audit.log"
        files = {**settings(tmp_path), "REGISTRY_AUDIT_LOG": str(audit)}
        users, rules = tmp_path / "users", tmp_path / "rules.yml"
        with Server(tmp_path / "store", workers=2, **files) as server:
            with as_user(server, "root") as root:
                push(root, "acme/web", "v1", IMAGE)
            path = "/v2/acme/web/manifests/v1"

            def seen():
                """Over new connections, so that both workers answer."""
                basic = ("alice", "pw-alice")
                return {requests.get(server.url + path, auth=basic, timeout=30).status_code for _ in range(8)}

            assert {200} == seen()
            rules.write_text(RULES.replace("dev: [alice, bob]", "dev: [bob]").replace("who: [alice]", "who: [bob]"))
            assert {403} == seen()
            wait_until(lambda: server.log.read_text().count("rules.yml was reloaded") == 2)
            rules.write_text(RULES)
            # Also without a request: otherwise the last usable version of an idle worker would be an older one.
            wait_until(lambda: server.log.read_text().count("rules.yml was reloaded") == 4)
            assert {200} == seen()
            rules.write_text("rules: [{")
            assert {200} == seen()
            old = users.read_text()
            users.write_text(old.replace(old.splitlines()[0], f"alice:{hashed('another')}"))
            assert {401} == seen()
            users.write_text(old)
            assert {200} == seen()
            assert "rules.yml, line 1" in server.log.read_text()
            for file in (users, rules):
                line = f'"message":"{file} was reloaded","principal":"system","reason":"reload"'
                wait_until(lambda line=line: line in audit.read_text(), audit.read_text)
            assert "rules.yml, line 1" not in audit.read_text()  # that version is not in force

    def test_of_many_rules_lets_requests_be_answered_by_the_previous_ones_meanwhile(self, tmp_path):
        path = tmp_path / "rules.yml"
        path.write_text(RULES + "#" * SMALL_RULES_BYTES)
        program = """
import sys
from pathlib import Path
from docker_registry.auth.rules import rules
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build

parse, requests = rules.parse, ["the start"]

def parse_during_a_request(content, path):
    for _ in range(200):
        if requests:
            return parse(content, path)
        native_sleep(0.01)
    raise RuntimeError("The event loop is blocked.")

rules.parse = parse_during_a_request
path = Path(sys.argv[1])
with build(Config(storage="memory", auth=Auth(rules=path)), MemoryDriver()) as services:
    current = services.access_control.rules
    before = current()
    requests.clear()
    path.write_text(path.read_text() + "#")
    first = gevent.spawn(current)
    gevent.sleep(0)
    print(current() is before)
    requests.append("a request")
    print(first.get() is before, current() is first.get())
"""
        assert ["True", "False", "True"] == under_gevent(program, str(path))


class TestFailedLogins:
    def test_are_refused_with_429_beyond_a_limit(self, tmp_path):
        with Server(tmp_path / "store", workers=2, **settings(tmp_path)) as server, requests.Session() as session:
            # Over connections of their own, so that both workers answer.
            began = time.monotonic()
            answers = [requests.get(f"{server.url}/v2/", auth=("alice", f"guess{n}"), timeout=30) for n in range(25)]
            forgiven = int((time.monotonic() - began) / FORGIVEN_EVERY_SECONDS) + 1
            hashed = [answer.status_code for answer in answers].count(401)
            assert ACCOUNT_FAILURES <= hashed <= ACCOUNT_FAILURES + forgiven
            answers = [answer for answer in answers if answer.status_code == 429]
            assert "TOOMANYREQUESTS" == answers[-1].json()["errors"][0]["code"]
            assert int(answers[-1].headers["Retry-After"]) > 0
            assert 200 == session.get(f"{server.url}/v2/", auth=("bob", "pw-bob"), timeout=30).status_code
            elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # the loopback is a trusted proxy
            answer = session.get(f"{server.url}/v2/", auth=("alice", "pw-alice"), headers=elsewhere, timeout=30)
            assert 200 == answer.status_code
            assert "guess" not in server.log.read_text()


class TestARuleForANetwork:
    @pytest.mark.parametrize(
        ("header", "peer", "trusted", "expected"),
        [
            ("10.1.2.3", "127.0.0.1", "127.0.0.1", 404),
            ("10.1.2.3", "127.0.0.1", "192.0.2.1", 401),
            ("10.1.2.3, 192.0.2.9", "127.0.0.1", "127.0.0.1", 401),
            ("192.0.2.9, 10.1.2.3", "127.0.0.1", "127.0.0.1", 404),
            ("10.1.2.3, 127.0.0.1", "127.0.0.1", "127.0.0.1", 404),
            ("10.1.2.3:4711", "127.0.0.1", "127.0.0.1", 404),
            ("for=10.1.2.3;proto=https", "127.0.0.1", "127.0.0.1", 404),
            ("10.1.2.3," * 200, "127.0.0.1", "127.0.0.1", 401),
            ("x", "127.0.0.1", "127.0.0.1", 401),
            ("10.1.2.3", "", "unix", 404),
            ("10.1.2.3", "", "127.0.0.1", 401),
            ("10.1.2.3", "x", "unix", 401),
        ],
    )
    def test_applies_to_the_address_that_trusted_proxies_report(self, tmp_path, header, peer, trusted, expected):
        rules = "rules: [{repositories: ['**'], who: [10.0.0.0/8], allow: [pull]}]"
        name = "Forwarded" if "=" in header else "X-Forwarded-For"
        answer = self.app(tmp_path, rules, trusted).get(
            "/v2/acme/web/tags/list", headers={name: header}, environ_base={"REMOTE_ADDR": peer}
        )
        assert expected == answer.status_code

    def app(self, folder, rules, trusted):
        (folder / "rules.yml").write_text(rules)
        config = Config(storage="memory", auth=Auth(rules=folder / "rules.yml"), trusted_proxies=(trusted,))
        return create_app(build(config, MemoryDriver())).test_client()

    def test_stops_the_start_where_a_proxy_is_no_network(self, tmp_path):
        with pytest.raises(ConfigError, match="trusted_proxies"):
            self.app(tmp_path, "", "localhost")


class TestAServerThatOthersReach:
    def test_warns_that_everyone_may_do_everything(self, tmp_path):
        with Server(tmp_path / "open", REGISTRY_HOST="0.0.0.0") as server:
            assert "anyone who reaches 0.0.0.0:" in server.log.read_text()

    def test_warns_of_nothing_with_access_control_or_on_loopback(self, server):
        assert "anyone who reaches" not in server.log.read_text()
        assert [True, True, True, False, False] == [
            launch.is_loopback({"REGISTRY_HOST": host}) for host in ("127.0.0.1", "[::1]", "localhost", "::", "")
        ]


class TestEveryRoute:
    def test_has_an_action_or_a_requirement(self, tmp_path):
        settings(tmp_path)
        config = Config(storage="memory", metrics=True, auth=Auth(htpasswd=tmp_path / "users"))
        with build(config, MemoryDriver()) as services:
            endpoints = {rule.endpoint for rule in create_app(services).url_map.iter_rules()}
        assert endpoints == {*ACTIONS, *WITHOUT_REPOSITORY}
        assert not ACTIONS.keys() & WITHOUT_REPOSITORY.keys()

    def test_allows_readers_to_read_and_writers_to_push(self, tmp_path):
        """The whole table: each route and method for anonymous clients, a reader, a writer and an owner."""
        rules = """rules:
          - {repositories: ["**"], who: [reader], allow: [pull]}
          - {repositories: ["**"], who: [writer], allow: [pull, push]}
          - {repositories: ["**"], who: [owner], allow: [pull, push, overwrite, delete]}"""
        users = (ANONYMOUS, "reader", "writer", "owner")
        settings(tmp_path, rules, users[1:])
        section = Auth(htpasswd=tmp_path / "users", rules=tmp_path / "rules.yml")
        with build(Config(storage="memory", metrics=True, auth=section), MemoryDriver()) as services:
            application = create_app(services)
            app, table, wrong = application.test_client(), 0, {}
            for rule in application.url_map.iter_rules():
                path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: ROUTE_VALUES[name[1]], rule.rule)
                for method in sorted(rule.methods - {"OPTIONS"}):
                    found = [self.outcome(app, method, path, user) for user in users]
                    table += 1
                    if found != self.expected(rule.endpoint):
                        wrong[rule.endpoint, method] = found
        assert {} == wrong
        assert table > 60

    def outcome(self, app, method, path, user):
        """401, 403, or 0 for everything that a client without rights would not get."""
        auth = None if user is ANONYMOUS else (user, PASSWORD + user)
        status = app.open(path, method=method, auth=auth, data=b"{}").status_code
        return status if status in (401, 403) else 0

    def expected(self, endpoint):
        if endpoint == "v1_tags.put_tag":
            return [401, 403, 0, 0]
        if endpoint in ACTIONS:
            return {"pull": [401, 0, 0, 0], "push": [401, 403, 0, 0], "delete": [401, 403, 403, 0]}[
                ACTIONS[endpoint].value
            ]
        if endpoint == "v2_token.post_token" or WITHOUT_REPOSITORY[endpoint] is Requirement.NOTHING:
            return [0, 0, 0, 0]
        return [401, 0, 0, 0]

    def test_for_users_is_closed_to_holders_of_anonymous_tokens(self, server):
        text = requests.get(f"{server.url}/v2/token", timeout=30).json()["token"]
        headers, paths = {"Authorization": f"Bearer {text}"}, ("/metrics", "/v1/users", "/v2/")
        answers = [requests.get(f"{server.url}{path}", headers=headers, timeout=30) for path in paths]
        assert [401, 401, 200] == [answer.status_code for answer in answers]

    def test_is_closed_to_a_client_without_rights(self, server):
        """Anonymous: 401, but for what needs nothing; a user without rights: 403."""
        with build(Config(storage="memory", metrics=True), MemoryDriver()) as services:
            rules = list(create_app(services).url_map.iter_rules())
        found = {}
        for rule, (user, index) in itertools.product(rules, ((ANONYMOUS, 0), ("bob", 1))):
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: ROUTE_VALUES[name[1]], rule.rule)
            with as_user(server, user) as client:
                for method in sorted(rule.methods - {"OPTIONS", "HEAD"}):
                    found.setdefault((rule.endpoint, method), [0, 0])[index] = status(client, method, path)
        wrong = {}
        for (endpoint, method), statuses in found.items():
            if endpoint in ACTIONS:
                expected = [401, 403]
            elif WITHOUT_REPOSITORY[endpoint] is Requirement.NOTHING:
                expected = [200, 200]
            elif WITHOUT_REPOSITORY[endpoint] is Requirement.LISTING:
                expected = [200, 200]  # anonymous clients may pull public/**
            else:
                expected = [401, statuses[1]]
            if statuses != expected or statuses[1] == 401:
                wrong[endpoint, method] = statuses
        assert {} == wrong


class TestApiV1:
    """Docker sends its password to the index, and the token that it gets to everything else."""

    @pytest.fixture
    def docker(self, server):
        with Docker(server.url) as docker:
            yield docker

    def tokens(self, server, user, name, method="PUT"):
        url = f"{server.url}/v1/repositories/{name}/"
        if method == "GET":
            url += "images"
        answer = requests.request(method, url, data="[]", auth=user and (user, PASSWORD + user), timeout=30)
        assert answer.status_code in (200, 404), answer.text
        return answer.headers.get("X-Docker-Token")

    def test_pushes_and_pulls_with_a_token(self, server, docker):
        image = make(9100)
        listed = json.dumps([{"id": image.text, "Tag": "v1"}])
        answer = requests.put(
            f"{server.url}/v1/repositories/root/old/", data=listed, auth=("root", "pw-root"), timeout=30
        )
        assert 200 == answer.status_code
        docker.session.headers["Authorization"] = f"Token {answer.headers['X-Docker-Token']}"  # as Docker repeats it
        docker.push_images(image)
        assert 200 == docker.put("/repositories/root/old/tags/v1", json.dumps(image.text)).status_code
        assert 200 == docker.get("/repositories/root/old/tags").status_code
        assert image.layer == docker.get(f"/images/{image.text}/layer").content
        read = requests.get(f"{server.url}/v1/repositories/root/old/images", auth=("root", "pw-root"), timeout=30)
        docker.session.headers["Authorization"] = read.headers["X-Docker-Token"]
        assert image.layer == docker.get(f"/images/{image.text}/layer").content
        assert 401 == docker.put(f"/images/{make(9101).text}/json", make(9101).payload).status_code
        assert 401 == docker.put("/repositories/root/old/tags/v2", json.dumps(image.text)).status_code
        assert 401 == docker.get("/repositories/acme/web/tags").status_code  # another repository

    def test_tags_no_image_of_another_repository(self, server, docker):
        image = make(9100)
        for headers in ({"Authorization": self.tokens(server, "alice", "alice/old")}, {}):
            auth = None if headers else ("alice", "pw-alice")
            answer = docker.put("/repositories/alice/old/tags/x", json.dumps(image.text), headers=headers, auth=auth)
            assert 403 == answer.status_code
        assert 403 == docker.get(f"/images/{image.text}/layer", auth=("alice", "pw-alice")).status_code

    def test_refuses_other_tokens(self, server, docker):
        own = self.tokens(server, "alice", "alice/old")
        assert own is not None
        signature, _, rest = own.partition(",")
        for token in (
            own.replace("alice/old", "bob/old"),
            own.replace("write", "delete"),
            f"{signature.rpartition('.')[0]},{rest}",
            own.replace(signature[-4:], "0000"),
            "Token signature=x",
            "Token " * 1000,
            own.partition(".")[0],
        ):
            docker.session.headers["Authorization"] = token
            assert 401 == docker.get("/repositories/alice/old/tags").status_code, token
        docker.session.headers["Authorization"] = own
        assert docker.get("/repositories/alice/old/tags").status_code in (200, 404)
        assert 403 == docker.get(f"/images/{'a' * 64}/json").status_code  # alice may not pull everywhere

    def test_logs_in_with_the_right_password_only(self, docker):
        assert 401 == docker.get("/users/").status_code
        assert 401 == docker.ask("POST", "/users/", data="{}").status_code
        assert 200 == docker.get("/users/", auth=("alice", "pw-alice")).status_code
        assert 401 == docker.get("/users/", auth=("alice", "x")).status_code
