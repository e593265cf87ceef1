"""Authentication at upstreams: tokens and passwords, and where they are never sent."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from docker_registry.config.schema import Config, secret_values
from docker_registry.config.sections import Mirroring, MirrorUpstream
from docker_registry.errors import ConfigError
from docker_registry.registry.mirror import hosts
from docker_registry.registry.mirror.challenge import Challenge, parse_challenges
from docker_registry.registry.mirror.upstream import open_credentials, parse_upstream
from tests.registry.mirror.conftest import THERE
from tests.support.clock import Clock
from tests.support.images import make_image
from tests.support.servers.upstream import Answer, Upstream

IMAGE = make_image("private", layer_bytes=100)
LOGIN = {"username": "robot", "password": "s3cret", "insecure": True}
BASIC = f"Basic {base64.b64encode(b'robot:s3cret').decode()}"


class Hub:
    """
    A guard of an upstream by the protocol of Docker Hub.

    Attributes:
        valid: the tokens that are accepted.
        queries: the query and Authorization header of each token request.
    """

    def __init__(self, upstream, token_server=None, **document):
        self.realm = f"{(token_server or upstream).url}/token"
        self.valid = set()
        self.queries = []
        self.document = document
        self.scope = f',scope="repository:{THERE}:pull"'
        upstream.guard = self.check
        (token_server or upstream).contents["/token"] = lambda headers: self.issue(headers)  # noqa: PLW0108 - a test may replace it
        self.server = token_server or upstream

    def issue(self, headers):
        path = self.server.requests[-1][1]
        self.queries.append((parse_qs(urlsplit(path).query), headers.get("authorization")))
        token = f"token{len(self.queries)}"
        self.valid.add(token)
        return Answer(json.dumps({"token": token, "expires_in": 300, **self.document}).encode())

    def check(self, path, headers):
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if path == "/token" or (scheme == "Bearer" and token in self.valid):
            return None
        challenge = f'Negotiate, Bearer realm="{self.realm}",service="a, b"{self.scope}, Basic realm="x"'
        return Answer(status=401, headers={"WWW-Authenticate": challenge})


@pytest.fixture(autouse=True)
def image(upstream):
    upstream.add(THERE, "v1", IMAGE)


def pull(mirrored):
    answers = [mirrored.get("manifests/v1"), *(mirrored.get(f"blobs/{digest}") for digest in IMAGE.blobs)]
    return {answer.status_code for answer in answers}


class TestTokens:
    @pytest.mark.parametrize("login", [{}, LOGIN], ids=["anonymous", "with a password"])
    def test_are_requested_once_for_a_repository(self, open_mirror, upstream, login):
        hub = Hub(upstream)
        assert {200} == pull(open_mirror(**login))
        scope = {"service": ["a, b"], "scope": [f"repository:{THERE}:pull"]}
        assert [(scope, BASIC if login else None)] == hub.queries

    def test_belong_to_one_repository_and_are_not_used_until_their_end(self, mirrored, upstream):
        hub = Hub(upstream)
        clock = mirrored.services.mirror._clients[0].connection._authenticator._now = Clock()
        upstream.add("library/other", "v1", IMAGE)
        assert {200} == pull(mirrored)
        assert 200 == mirrored.get("manifests/v1", "up.example/library/other").status_code
        assert 2 == len(hub.queries)
        clock.now += 299
        hub.valid.clear()
        upstream.requests.clear()
        upstream.add(THERE, "v2", IMAGE)
        assert 200 == mirrored.get("manifests/v2").status_code
        sent = [headers.get("authorization") for _, path, headers in upstream.requests if path.startswith("/v2/")]
        assert [None, "Bearer token3"] == sent

    def test_are_requested_without_a_scope_in_the_challenge(self, mirrored, upstream):
        hub = Hub(upstream, token=None, access_token="token1", expires_in=None)
        hub.scope = ""
        assert {200} == pull(mirrored)
        assert [f"repository:{THERE}:pull"] == hub.queries[0][0]["scope"]

    def test_are_requested_for_pulls_alone(self, mirrored, upstream):
        hub = Hub(upstream)
        hub.scope = f',scope="repository:{THERE}:push,pull registry:catalog:* repository:other/app:push"'
        assert {200} == pull(mirrored)
        assert [f"repository:{THERE}:pull"] == hub.queries[0][0]["scope"]
        hub.valid.clear()
        hub.scope = f',scope="repository:{THERE}:metadata_read,metadata_write"'  # Azure, for a list of tags
        assert 200 == mirrored.get("tags/list").status_code
        assert [f"repository:{THERE}:metadata_read,pull"] == hub.queries[1][0]["scope"], "one token serves both"

    def test_are_replaced_when_they_are_rejected(self, mirrored, upstream):
        hub = Hub(upstream)
        assert 200 == mirrored.get("manifests/v1").status_code
        hub.valid.clear()
        assert {200} == pull(mirrored)
        assert 2 == len(hub.queries)

    def test_are_requested_once_more_and_then_no_more(self, mirrored, upstream):
        hub = Hub(upstream)
        hub.issue = lambda headers: Answer(b'{"token": "bad"}')
        assert 502 == mirrored.get("manifests/v1").status_code
        asked = len(upstream.requests)
        assert 502 == mirrored.get("manifests/v1").status_code
        assert 3 + 3 >= len(upstream.requests) >= asked

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(status=500),
            Answer(b"<html>"),
            Answer(b"[]"),
            Answer(b'{"token": "a\\nb"}'),
            Answer(b'{"token": 7}'),
            Answer(b" " * 2_000_000),
            Answer(status=302, headers={"Location": "/v2/"}),
        ],
        ids=["error", "page", "list", "two lines", "number", "two megabytes", "redirect"],
    )
    def test_must_be_valid(self, mirrored, upstream, answer):
        Hub(upstream).issue = lambda headers: answer
        assert 502 == mirrored.get("manifests/v1").status_code
        assert set() == mirrored.paths()

    def test_must_come_from_a_valid_server(self, mirrored, upstream):
        hub = Hub(upstream)
        for realm in (
            "",
            "token",
            "file:///etc/passwd",
            "http://[",
            "http://a:b@127.0.0.1/",
            "http://169.254.169.254/",
        ):
            hub.realm = realm
            assert 502 == mirrored.get("manifests/v1").status_code, realm

    def test_limited_by_their_server_are_limited_here(self, mirrored, upstream):
        Hub(upstream).issue = lambda headers: Answer(status=429, headers={"Retry-After": "9"})
        answer = mirrored.get("manifests/v1")
        assert (429, "9") == (answer.status_code, answer.headers["Retry-After"])


class TestAPassword:
    def test_is_sent_to_an_upstream_that_wants_it(self, open_mirror, upstream):
        def guard(path, headers):
            allowed = headers.get("authorization") == BASIC
            return None if allowed else Answer(status=401, headers={"WWW-Authenticate": 'basic realm="a"'})

        upstream.guard = guard
        assert {200} == pull(open_mirror(**LOGIN))
        assert 1 == sum("authorization" not in headers for _, _, headers in upstream.requests), "asked once"

    def test_is_not_sent_any_more_to_an_upstream_that_begins_to_issue_tokens(self, open_mirror, upstream):
        challenge = {"WWW-Authenticate": 'Basic realm="a"'}
        upstream.guard = lambda path, headers: (
            None if headers.get("authorization") == BASIC else Answer(status=401, headers=challenge)
        )
        mirrored = open_mirror(**LOGIN)
        assert 200 == mirrored.get("manifests/v1").status_code
        hub = Hub(upstream)
        assert {200} == pull(mirrored)
        assert 1 == len(hub.queries)

    def test_is_sent_to_no_other_host(self, open_mirror, upstream):
        with Upstream() as elsewhere:
            hub = Hub(upstream, elsewhere)
            hub.realm = hub.realm.replace("127.0.0.1", "localhost")
            answer = open_mirror(**LOGIN).get("manifests/v1")
            assert 502 == answer.status_code
            assert {"token_server": "localhost"}.items() <= answer.json["errors"][0]["detail"].items()
            assert [] == elsewhere.requests
            for written in ("localhost", f"LocalHost:{elsewhere.port}", hub.realm):
                trusting = open_mirror(**LOGIN, token_hosts=(written,), ttl=0)
                assert 200 == trusting.get("manifests/v1").status_code
            assert [BASIC] * 3 == [authorization for _, authorization in hub.queries]
        addresses = parse_upstream("up", upstream.url, token_hosts=("2001:DB8::7", "[::1]:5000", "::1", "10.1.1.1:80"))
        assert ("2001:db8::7", "::1", "::1", "10.1.1.1") == addresses.token_hosts

    def test_is_not_sent_by_plain_http(self, upstream, open_mirror):
        with pytest.raises(ConfigError, match="https only"):
            open_mirror(username="robot", password="s3cret")

    def test_and_tokens_are_not_sent_to_the_target_of_a_redirect(self, open_mirror, upstream):
        Hub(upstream)
        digest, content = next(iter(IMAGE.blobs.items()))
        with Upstream() as elsewhere:
            elsewhere.contents["/data"] = Answer(content)
            location = {"Location": f"{elsewhere.url}/data"}
            upstream.contents[f"{THERE}/blobs/{digest}"] = Answer(b"moved", status=307, headers=location)
            assert content == open_mirror(**LOGIN).get(f"blobs/{digest}").data
            ((_, _, headers),) = elsewhere.requests
            assert not {"authorization", "cookie"} & headers.keys()
            assert (3, 1) == (len(upstream.requests), len(upstream._connections)), "the connection is used again"

    def test_in_a_file_is_read_again(self, open_mirror, upstream, tmp_path):
        file = tmp_path / "password"
        file.write_text("old\n")
        hub = Hub(upstream)
        mirrored = open_mirror(username="robot", password_file=file, insecure=True)
        assert 200 == mirrored.get("manifests/v1").status_code
        file.write_text("s3cret\n")
        hub.valid.clear()
        assert {200} == pull(mirrored)
        assert BASIC == hub.queries[-1][1] != hub.queries[0][1]

    def test_comes_from_a_credential_helper(self, open_mirror, upstream, tmp_path):
        helper = tmp_path / "docker-credential-test"
        document = json.dumps({"ServerURL": "x", "Username": "robot", "Secret": "s3cret"})
        helper.write_text(f"#!/bin/sh\nread url; echo \"$1 $url\" > '{tmp_path}/asked'; echo '{document}'\n")
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        hub = Hub(upstream)
        assert 200 == open_mirror(command=str(helper), insecure=True).get("manifests/v1").status_code
        assert [BASIC] == [authorization for _, authorization in hub.queries]
        assert f"get {upstream.url}\n" == (tmp_path / "asked").read_text()
        helper.write_text("#!/bin/sh\nexit 1\n")
        assert 503 == open_mirror(command=str(helper), insecure=True).get("manifests/v2").status_code

    def test_of_a_helper_is_asked_for_again_when_the_token_server_refuses_it(self, open_mirror, upstream, tmp_path):
        helper, secret = tmp_path / "docker-credential-test", tmp_path / "secret"
        secret.write_text('{"Username": "robot", "Secret": "old"}')
        helper.write_text(f"#!/bin/sh\necho >> '{tmp_path}/runs'; exec cat '{secret}'\n")
        helper.chmod(0o700)
        hub = Hub(upstream)
        issue = hub.issue
        hub.issue = lambda headers: issue(headers) if headers["authorization"] == BASIC else Answer(status=401)
        mirrored = open_mirror(command=str(helper), insecure=True)
        assert 502 == mirrored.get("manifests/v1").status_code
        secret.write_text('{"Username": "robot", "Secret": "s3cret"}')
        assert {200} == pull(mirrored)
        assert [BASIC] == [authorization for _, authorization in hub.queries]
        assert "\n" * 3 == (tmp_path / "runs").read_text()
        hub.issue = lambda headers: Answer(status=401)
        secret.unlink()
        assert 502 == mirrored.get("manifests/v1", "up.example/other").status_code, "denied, although the helper fails"

    def test_that_everyone_may_use_is_warned_of(self, open_mirror, caplog):
        open_mirror(**LOGIN).services.check_start()
        assert "everyone who reaches this registry may pull what the account at up.example may" in caplog.text
        assert "s3cret" not in caplog.text

    def test_is_a_secret_of_the_configuration(self):
        section = MirrorUpstream(name="a", url="https://a", username="robot", password="s3cret")
        assert {"s3cret"} == secret_values(Config(mirroring=Mirroring(upstreams=(section,))))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"username": "a"}, "needs a password"),
            ({"password": "a"}, "needs a password"),
            ({"username": "a", "command": "a"}, "username and command exclude each other"),
            ({"username": "a", "password": "a", "command": "a"}, "exclude each other"),
            ({"username": "a", "password_file": Path("/none")}, "cannot be read"),
            ({"command": '"'}, "no command line"),
        ],
        ids=str,
    )
    def test_that_is_incomplete_makes_the_start_fail(self, given, message):
        values = {"username": None, "password": None, "password_file": None, "command": None} | given
        with pytest.raises(ConfigError, match=message):
            open_credentials(parse_upstream("a", "https://a"), **values)


class TestAChallenge:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("", []),
            ("Negotiate", [Challenge("negotiate")]),
            ('BEARER realm="a, \\"b\\"" , scope = c', [Challenge("bearer", {"realm": 'a, "b"', "scope": "c"})]),
            (
                "Basic realm=x, Bearer realm=y,a=b",
                [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "a": "b"})],
            ),
            ('Bearer realm="x', [Challenge("bearer", {"realm": ""})]),
            ("Bearer " + "a" * 20_000, []),
        ],
        ids=["none", "scheme", "quoted", "two", "unbalanced", "long"],
    )
    def test_is_parsed(self, header, expected):
        assert expected == parse_challenges(header)


class TestHosts:
    @pytest.mark.parametrize(
        ("host", "other", "expected"),
        [
            ("a.example.com", "a.example.com", True),
            ("auth.docker.io", "registry-1.docker.io", True),
            ("evil.io", "docker.io", False),
            ("a.co.uk", "b.co.uk", False),
            ("a.github.io", "b.github.io", False),
            ("127.0.0.1", "1.0.0.1", False),
        ],
    )
    def test_are_related_by_their_registrable_domain(self, host, other, expected):
        pytest.importorskip("publicsuffixlist")
        assert expected is hosts.is_related(host, other)

    def test_of_a_public_upstream_are_public(self):
        assert not hosts.is_safe_redirect("10.1.2.3", "1.1.1.1")
        assert not hosts.is_safe_token_server("127.0.0.1", "1.1.1.1")
        assert not hosts.is_safe_redirect("169.254.169.254", "10.1.1.1")
        assert not hosts.is_safe_redirect("::ffff:169.254.169.254", "10.1.1.1")
        assert hosts.is_safe_redirect("10.1.2.3", "10.1.1.1")
        assert hosts.is_safe_redirect("1.0.0.1", "1.1.1.1")
        assert not hosts.is_safe_token_server("10.1.2.3", "10.1.1.1")
