"""Tokens of OpenID Connect issuers as passwords at the token endpoint (``auth.oidc``)."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest

from docker_registry.app import create_app
from docker_registry.auth.tokens.json_web_tokens import MAX_CHARACTERS
from docker_registry.config import schema
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, Issuer
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.services import build
from tests.support.access import write_users
from tests.support.servers.identity_provider import IdentityProvider, Key, key_set

RULES = """rules:
  - {repositories: ["acme/*"], who: ["acme/web", "@deploy"], allow: [pull, push]}
  - {repositories: ["own/*"], who: ["robot:ci", alice], allow: [pull]}"""
DISCOVERY = "/.well-known/openid-configuration"
SCOPE = "repository:acme/web:pull,push"
PATH = "/v2/acme/web/tags/list"


@pytest.fixture(scope="module")
def key():
    return Key()


@pytest.fixture(scope="module")
def provider(tmp_path_factory, key):
    with IdentityProvider(tmp_path_factory.mktemp("provider")) as provider:
        publish(provider, key)
        yield provider


def publish(provider, *keys):
    document = {"issuer": provider.url, "jwks_uri": f"{provider.url}/keys"}
    provider.documents |= {DISCOVERY: json.dumps(document).encode(), "/keys": key_set(*keys)}


def issuer(provider, **others):
    match = {"repository_owner": "acme", "ref": "refs/heads/*"}
    settings = {"issuer": provider.url, "audience": "here", "match": match, "as_": "${repository}", "ca": provider.ca}
    return Issuer(**{**settings, **others})


def make_app(folder, *issuers, driver=None, **auth):
    (folder / "rules.yml").write_text(RULES)
    config = Config(storage="memory", auth=Auth(rules=folder / "rules.yml", oidc=issuers, **auth))
    return create_app(build(config, driver or MemoryDriver())).test_client()


@pytest.fixture
def app(provider, tmp_path):
    write_users(tmp_path / "users", "alice")
    return make_app(tmp_path, issuer(provider, groups="roles"), htpasswd=tmp_path / "users")


def claims(provider, **others):
    now = int(time.time())
    found = {
        "iss": provider.url, "aud": "here", "exp": now + 600, "iat": now, "nbf": now, "sub": "repo:acme/web:x",
        "repository": "acme/web", "repository_owner": "acme", "ref": "refs/heads/main",
    }  # fmt: skip
    return {name: value for name, value in (found | others).items() if value is not None}


def ask(app, text, user="x", scope=SCOPE, **parameters):
    query = {"scope": scope, **parameters}
    credentials = base64.b64encode(f"{user}:{text}".encode("utf-8", "surrogateescape")).decode()
    return app.get("/v2/token", query_string=query, headers={"Authorization": f"Basic {credentials}"})


def get(app, text):
    return app.get(PATH, headers={"Authorization": f"Bearer {text}"}).status_code


class TestAWorkload:
    def test_gets_access_tokens_by_its_own(self, app, provider, key):
        text = key.sign(claims(provider))
        content = ask(app, text, offline_token="true").get_json()
        assert SCOPE == content["scope"]
        assert "refresh_token" not in content
        assert 404 == get(app, content["token"])
        assert "acme/web" == jwt.decode(content["token"], options={"verify_signature": False})["sub"]
        form = {"grant_type": "password", "username": "any", "password": text, "access_type": "offline"}
        content = app.post("/v2/token", data={**form, "scope": SCOPE}).get_json()
        assert (SCOPE, False) == (content["scope"], "refresh_token" in content)
        assert 401 == app.get(PATH, auth=("x", text)).status_code  # at the token endpoint only
        assert 401 == get(app, text)

    def test_gets_no_token_that_outlives_its_own(self, app, provider, key):
        now = int(time.time())
        content = ask(app, key.sign(claims(provider, exp=now + 60))).get_json()
        assert 60 <= content["expires_in"] <= 120  # a minute for clocks that differ
        assert 300 == ask(app, key.sign(claims(provider))).get_json()["expires_in"]

    def test_may_do_what_rules_allow_its_name_and_its_groups(self, app, provider, key):
        other = claims(provider, repository="acme/other")
        assert "" == ask(app, key.sign(other)).get_json()["scope"]
        assert SCOPE == ask(app, key.sign(other | {"roles": ["x", "deploy"]})).get_json()["scope"]
        many = [f"00000000-0000-0000-0000-{n:012}" for n in range(290)]  # more than Entra ID names
        long = key.sign(other | {"roles": [*many, "deploy"]})
        assert 15_000 < len(long) < MAX_CHARACTERS
        text = ask(app, long).get_json()["token"]
        assert 404 == get(app, text)
        assert ["deploy"] == jwt.decode(text, options={"verify_signature": False})["groups"]

    def test_is_no_longer_accepted_when_its_issuer_is_not(self, provider, key, tmp_path):
        driver = MemoryDriver()
        text = ask(make_app(tmp_path, issuer(provider), driver=driver), key.sign(claims(provider))).get_json()["token"]
        assert 404 == get(make_app(tmp_path, issuer(provider), driver=driver), text)
        assert 401 == get(make_app(tmp_path, issuer(provider, audience="there"), driver=driver), text)
        assert 401 == get(make_app(tmp_path, driver=driver), text)

    def test_is_accepted_by_the_entry_of_its_issuer_that_matches(self, provider, key, tmp_path):
        tags = issuer(provider, match={"ref": "refs/tags/**"}, as_="tag-of/${repository}")
        app = make_app(tmp_path, issuer(provider), tags)
        assert SCOPE == ask(app, key.sign(claims(provider))).get_json()["scope"]
        answer = ask(app, key.sign(claims(provider, ref="refs/tags/v1/x")))
        assert "tag-of/acme/web" == jwt.decode(answer.get_json()["token"], options={"verify_signature": False})["sub"]


class TestATokenOfAWorkload:
    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"aud": "there"}, "another service"),
            ({"iss": "https://other.example.com"}, "issuer is unknown"),
            ({"iss": None}, "issuer is unknown"),
            ({"exp": 1}, "has expired"),
            ({"exp": None}, "lacks a claim"),
            ({"iat": None}, "lacks a claim"),
            ({"exp": float("nan")}, "times are malformed"),
            ({"exp": 10**400}, "times are malformed"),
            ({"nbf": 4_000_000_000}, "not valid yet"),
            ({"ref": "refs/heads/a/b"}, "claim ref"),
            ({"ref": "refs/tags/v1"}, "claim ref"),
            ({"ref": None}, "claim ref"),
            ({"ref": {"a": 1}}, "claim ref"),
            ({"repository_owner": "acme2"}, "claim repository_owner"),
            ({"repository_owner": "acme\n"}, "claim repository_owner"),
            ({"repository": None}, "lacks the claim repository"),
            ({"repository": ["acme/web"]}, "lacks the claim repository"),
            ({"repository": "a b"}, "no name"),
            ({"repository": "anonymous"}, "no name"),
            ({"repository": "10.0.0.0/8"}, "no name"),
            ({"repository": "robot:ci"}, "no name"),
            ({"repository": "alice"}, "name of a user"),
        ],
    )
    def test_that_does_not_fit_is_refused_with_the_reason(self, app, provider, key, changed, reason):
        answer = ask(app, key.sign(claims(provider, **changed)))
        assert 401 == answer.status_code
        assert reason in answer.get_json()["errors"][0]["message"]

    def test_of_another_key_or_algorithm_is_refused(self, app, provider, key):
        body = claims(provider)
        own = ask(app, key.sign(body)).get_json()["token"]  # of this registry: no token renews itself
        for text in (
            Key().sign(body),
            jwt.encode(body, "s" * 32, "HS256", {"kid": "one"}),
            jwt.encode(body, None, "none", {"kid": "one"}),
            key.sign(body, kid="../x"),
            key.sign(body, jku=f"{provider.url}/keys"),
            own,
            "eyJ.eyJ.x",
            "eyJ" + "A" * 5000 + "..",
            b"eyJ\xe9.eyJ.x".decode("utf-8", "surrogateescape"),  # bytes that are not UTF-8
        ):
            assert 401 == ask(app, text).status_code

    def test_may_be_of_a_clock_that_differs_by_a_minute(self, app, provider, key):
        now = int(time.time())
        assert 200 == ask(app, key.sign(claims(provider, iat=now + 45, nbf=now + 45))).status_code
        assert 200 == ask(app, key.sign(claims(provider, exp=now - 45))).status_code
        assert 401 == ask(app, key.sign(claims(provider, iat=now + 90))).status_code


class TestTheKeys:
    def test_are_discovered_rotated_and_kept_during_an_outage(self, provider, key, tmp_path, monkeypatch):
        monkeypatch.setattr("docker_registry.auth.external.remote_keys.RETRY_SECONDS", 0.0)
        app, other = make_app(tmp_path, issuer(provider)), Key("two")
        assert 401 == ask(app, other.sign(claims(provider))).status_code
        publish(provider, key, other)
        assert 200 == ask(app, other.sign(claims(provider))).status_code
        provider.documents[DISCOVERY] = 503
        assert 200 == ask(app, key.sign(claims(provider))).status_code
        assert 401 == ask(app, Key("three").sign(claims(provider))).status_code
        publish(provider, key)

    @pytest.mark.parametrize(
        "document",
        [503, 302, b"{", b"[]", b"[" * 50_000, b'{"issuer": "https://other.example.com", "jwks_uri": "https://x/keys"}',
         b'{"issuer": "URL", "jwks_uri": "http://x/keys"}', b'{"issuer": "URL", "jwks_uri": "file:///etc/passwd"}',
         b'{"issuer": "URL"}', b'{"issuer": "URL", "jwks_uri": "URL/none"}'],
        ids=["5xx", "3xx", "damaged", "list", "deep", "issuer", "http", "file", "none", "404"],
    )  # fmt: skip
    def test_are_missing_while_the_issuer_does_not_answer_well(self, provider, key, tmp_path, document):
        is_text = isinstance(document, bytes)
        provider.documents[DISCOVERY] = document.replace(b"URL", provider.url.encode()) if is_text else document
        try:
            answer = ask(make_app(tmp_path, issuer(provider)), key.sign(claims(provider)))
        finally:
            publish(provider, key)
        assert (503, "UNAVAILABLE") == (answer.status_code, answer.get_json()["errors"][0]["code"])

    def test_may_be_in_a_file(self, key, tmp_path):
        (tmp_path / "keys.json").write_bytes(key_set(key))

        class Cluster:
            url, ca = "https://kubernetes.default.svc", None

        app = make_app(tmp_path, issuer(Cluster, jwks_file=tmp_path / "keys.json", match={"sub": "repo:acme/*:*"}))
        assert 200 == ask(app, key.sign(claims(Cluster))).status_code


class TestASetting:
    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"issuer": "http://x"}, "begins with https"),
            ({"match": {}}, "must not be empty"),
            ({"audience": ""}, "must not be empty"),
            ({"match": {"sub": ""}}, "empty or has more"),
            ({"match": {"sub": "*a*b*c*d*"}}, "empty or has more"),
            ({"as_": "workload"}, "must contain a claim"),
            ({"as_": "ci ${sub}"}, "makes no name"),
            ({"as_": "${sub}/${a claim}"}, "makes no name"),
            ({"ca": "missing"}, "cannot be read"),
            ({"jwks_file": "missing"}, "^auth.oidc: jwks_file: .*x cannot be read"),
        ],
    )
    def test_that_is_wrong_stops_the_start(self, provider, tmp_path, changed, sentence):
        changed = {name: tmp_path / "x" if "missing" == value else value for name, value in changed.items()}
        with pytest.raises(ConfigError, match=sentence):
            make_app(tmp_path, issuer(provider, **changed))

    def test_is_read_from_the_file(self, tmp_path):
        (tmp_path / "config.yml").write_text("""
dev:
    storage: memory
    auth:
        oidc:
            - issuer: https://token.actions.githubusercontent.com
              audience: registry.example.com
              match: {repository_owner: acme, ref: refs/heads/*}
              as: "${repository}"
""")
        environ = {"DOCKER_REGISTRY_CONFIG": str(tmp_path / "config.yml")}
        (found,) = schema.load_config(environ).auth.oidc
        assert ("${repository}", "refs/heads/*") == (found.as_, found.match["ref"])
        text = (tmp_path / "config.yml").read_text()
        for changed in (text.replace("audience:", "audiences:"), text.replace("match: {", "match: [{")[:-40] + "]"):
            (tmp_path / "config.yml").write_text(changed)
            with pytest.raises(ConfigError):
                schema.load_config(environ)
