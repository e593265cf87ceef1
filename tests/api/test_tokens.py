"""The token endpoint, its challenge, and what tokens allow (distribution's token specification; RFC 6750)."""

from __future__ import annotations

import base64
import json
import math
import time
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from docker_registry.app import create_app
from docker_registry.auth.tokens import json_web_tokens, scopes
from docker_registry.auth.tokens.access_tokens import AccessTokens
from docker_registry.auth.tokens.refresh_tokens import FOLDER, RefreshTokens
from docker_registry.auth.tokens.signing_keys import (
    ACTIVATION_DELAY_SECONDS,
    OVERLAP_SECONDS,
    PATH,
    REFRESH_SECONDS,
    SigningKey,
    SigningKeys,
)
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError, StorageFull, StorageUnavailable, Unauthorized
from docker_registry.services import build
from tests.support.access import PASSWORD, RULES, hashed, settings
from tests.support.clients.v2 import Client, digest_of
from tests.support.clock import Clock
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

IMAGE = make_image(1)
GRANT = scopes.Grant({"acme/web": frozenset({"pull"})}, {}, True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    audit = str(folder / "audit.log")
    with Server(folder / "store", workers=2, REGISTRY_AUDIT_LOG=audit, **settings(folder)) as server:
        with Client(server.url) as root:
            root.session.auth = ("root", "pw-root")
            for name in ("acme/web", "public/web", "alice/own"):
                push(root, name, "v1", IMAGE)
        yield server


def ask(server, scope=(), user=None, **parameters):
    auth = None if user is None else (user, PASSWORD + user)
    query = {"service": "docker-registry", "scope": scope, **parameters}
    return requests.get(f"{server.url}/v2/token", params=query, auth=auth, timeout=30)


def post(server, **form):
    return requests.post(f"{server.url}/v2/token", data=form, timeout=30)


def token(server, scope=(), user=None):
    answer = ask(server, scope, user)
    assert 200 == answer.status_code, answer.text
    return answer.json()["token"]


def get(server, path, text=None, method="GET", **options):
    headers = {} if text is None else {"Authorization": f"Bearer {text}"}
    return requests.request(method, server.url + path, headers=headers, timeout=30, **options)


def challenge(answer):
    (header,) = answer.raw.headers.getlist("WWW-Authenticate")
    return header


def make_app(folder, auth, driver=None, **others):
    """A client of an application over a store in memory."""
    settings(folder)
    section = Auth(htpasswd=folder / "users", rules=folder / "rules.yml", **auth)
    config = Config(storage="memory", auth=section, **others)
    return create_app(build(config, driver or MemoryDriver())).test_client()


class TestTheChallenge:
    def test_is_one_and_names_the_realm_as_the_client_reached_it(self, server):
        answer = get(server, "/v2/")
        assert f'Bearer realm="{server.url}/v2/token",service="docker-registry"' == challenge(answer)
        headers = {"Host": "registry.example.com", "X-Forwarded-Proto": "https"}
        answer = requests.get(f"{server.url}/v2/", headers=headers, timeout=30)
        assert 'realm="https://registry.example.com/v2/token"' in challenge(answer)
        headers["X-Forwarded-Host"] = "other.example.com:8443"
        answer = requests.get(f"{server.url}/v2/", headers=headers, timeout=30)
        assert 'realm="https://other.example.com:8443/v2/token"' in challenge(answer)

    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [
            ("GET", "/v2/acme/web/manifests/v1", "repository:acme/web:pull"),
            ("PUT", "/v2/acme/web/manifests/v1", "repository:acme/web:pull,push"),
            ("DELETE", "/v2/acme/web/manifests/v1", "repository:acme/web:delete"),
            ("POST", "/v2/a/b/blobs/uploads/?mount=x&from=c/d", "repository:a/b:pull,push repository:c/d:pull"),
        ],
    )
    def test_names_the_scope_that_is_needed(self, server, method, path, scope):
        answer = get(server, path, method=method)
        assert 401 == answer.status_code
        assert f'scope="{scope}"' in challenge(answer)
        assert "error=" not in challenge(answer)

    @pytest.mark.parametrize("host", ['x"y', "a b", ""])
    def test_is_not_broken_by_a_host(self, server, host):
        answer = requests.get(f"{server.url}/v2/", headers={"X-Forwarded-Host": host}, timeout=30)
        assert f'Bearer realm="{server.url}/v2/token",service="docker-registry"' == challenge(answer)

    def test_ignores_a_host_that_an_untrusted_address_forwards(self, tmp_path):
        headers = {"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "https", "Forwarded": "host=evil"}
        app = make_app(tmp_path, {})
        answer = app.get("/v2/", headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})
        assert 'realm="http://localhost/v2/token"' in answer.headers["WWW-Authenticate"]

    def test_is_basic_by_a_setting_and_of_another_url_by_another(self, tmp_path):
        app = make_app(tmp_path, {"challenge": "basic"})
        assert 'Basic realm="docker-registry"' == app.get("/v2/").headers["WWW-Authenticate"]
        text = app.get("/v2/token").get_json()["token"]
        assert 200 == app.get("/v2/", headers={"Authorization": f"Bearer {text}"}).status_code
        app = make_app(tmp_path, {}, external_url="https://r.example.com/")
        answer = app.get("/v2/", headers={"X-Forwarded-Host": "evil.example.com"})
        assert 'realm="https://r.example.com/v2/token"' in answer.headers["WWW-Authenticate"]
        app = make_app(tmp_path, {}, external_url="/below")
        answer = app.get("/below/v2/", headers={"X-Forwarded-Host": "r.example.com"})
        assert 'realm="http://r.example.com/below/v2/token"' in answer.headers["WWW-Authenticate"]


class TestATokenRequest:
    def test_has_the_answer_of_the_specification(self, server):
        answer = ask(server, "repository:acme/web:pull,push", "alice")
        content = answer.json()
        assert content["token"] == content["access_token"]
        assert 300 == content["expires_in"]
        assert abs(time.time() - time.mktime(time.strptime(content["issued_at"], "%Y-%m-%dT%H:%M:%SZ"))) < 86400
        assert "repository:acme/web:pull,push" == content["scope"]
        assert "refresh_token" not in content
        assert "no-store" == answer.headers["Cache-Control"]
        claims = jwt.decode(content["token"], options={"verify_signature": False})
        assert ("docker-registry", "alice", "docker-registry") == (claims["iss"], claims["sub"], claims["aud"])
        assert [{"type": "repository", "name": "acme/web", "actions": ["pull", "push"]}] == claims["access"]

    @pytest.mark.parametrize(
        ("user", "wanted", "granted"),
        [
            ("alice", ["repository:acme/web:pull", "repository:alice/x:push,pull,delete"],
             "repository:acme/web:pull repository:alice/x:delete,pull,push"),
            ("alice", ["repository:acme/web:pull repository:alice/x:pull"],
             "repository:acme/web:pull repository:alice/x:pull"),
            ("alice", ["repository:alice/x:*"], "repository:alice/x:delete,pull,push"),
            ("alice", ["repository:acme/web:*"], "repository:acme/web:pull,push"),
            ("bob", ["repository:acme/web:pull,push"], "repository:acme/web:pull"),
            ("bob", ["repository:alice/own:pull"], ""),
            (None, ["repository:public/web:pull", "repository:acme/web:pull"], "repository:public/web:pull"),
            ("alice", ["repository(plugin):acme/web:pull"], "repository:acme/web:pull"),
            ("alice", ["registry:catalog:*"], "registry:catalog:*"),
            ("alice", ["registry:catalog:search"], "registry:catalog:*"),
            ("alice", ["repository:host:5000/acme/web:pull", "x", "repository:acme/web", "a:b:c", "repository:A:pull",
                       "repository:acme/web:pull,,admin", "repository::pull", "x" * 2000],
             "repository:acme/web:pull"),
            ("alice", ["repository:acme/web:pull"] * 120, "repository:acme/web:pull"),
        ],
    )  # fmt: skip
    def test_grants_what_the_rules_allow_and_leaves_out_the_rest(self, server, user, wanted, granted):
        assert granted == ask(server, wanted, user).json()["scope"]

    def test_with_a_wrong_password_is_one_401_that_counts_once(self, server):
        form = {"grant_type": "password", "username": "alice", "password": "bad", "service": "x", "client_id": "c"}
        assert 401 == post(server, **form).status_code
        for _ in range(20):  # containerd posts, then gets, with the same password
            answer = requests.get(f"{server.url}/v2/token", auth=("alice", "bad"), timeout=30)
            assert 401 == answer.status_code
            assert challenge(answer).startswith("Basic ")

    @pytest.mark.parametrize(
        "body",
        [b"", b"x", b"grant_type=client_credentials", b"grant_type=password&grant_type=password", b"\xff=\xff",
         b"&".join(b"a%d=1" % n for n in range(300)), b"grant_type=password&username=%ff"],
    )  # fmt: skip
    def test_with_a_bad_form_is_refused(self, server, body):
        answer = requests.post(f"{server.url}/v2/token", data=body, timeout=30)
        assert answer.status_code in (400, 401)
        assert answer.json()["errors"]

    def test_needs_a_password_and_no_token(self, server):
        assert 401 == get(server, "/v2/token", token(server, user="alice")).status_code


class TestALogin:
    def test_is_audited_whether_it_succeeds_or_not(self, server):
        agent = {"User-Agent": "audited/1"}
        url = f"{server.url}/v2/token"
        form = {"grant_type": "password", "username": "bob", "password": "pw-bob"}
        assert 200 == requests.get(url, auth=("alice", "pw-alice"), headers=agent, timeout=30).status_code
        assert 200 == requests.post(url, data=form, headers=agent, timeout=30).status_code
        assert 401 == requests.post(url, data={**form, "password": "x"}, headers=agent, timeout=30).status_code
        assert 200 == requests.get(url, headers=agent, timeout=30).status_code  # anonymous: no login
        path = Path(server.environment["REGISTRY_AUDIT_LOG"])
        expected = [("login", "alice"), ("login", "bob"), ("refusal", "anonymous")]

        def audited():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            return sorted((line["event"], line["principal"]) for line in lines if line["user_agent"] == "audited/1")

        wait_until(lambda: len(audited()) >= len(expected))
        assert expected == audited()


class TestTheServiceInTheChallenge:
    @pytest.mark.parametrize("service", ["", 'a"b', "registry\n", "\u2603"])
    def test_stops_the_start_if_no_header_can_contain_it(self, tmp_path, service):
        settings(tmp_path)
        with pytest.raises(ConfigError, match=r"auth\.service"):
            build(Config(storage="memory", auth=Auth(htpasswd=tmp_path / "users", service=service)))


class TestARefreshToken:
    def test_gets_tokens_until_the_password_changes_or_it_is_revoked(self, tmp_path):
        with Server(tmp_path / "store", workers=2, **settings(tmp_path)) as server:
            refresh = ask(server, user="alice", offline_token="true", client_id="docker").json()["refresh_token"]
            form = {"grant_type": "password", "username": "bob", "password": "pw-bob", "access_type": "offline"}
            other = post(server, **form).json()["refresh_token"]
            form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": "repository:alice/x:pull"}
            answer = post(server, **form)
            assert ("repository:alice/x:pull", refresh) == (answer.json()["scope"], answer.json()["refresh_token"])
            files = [path for path in (tmp_path / "store").rglob("*") if "_auth" in path.parts and path.is_file()]
            assert 3 == len(files)
            assert {0o600} == {path.stat().st_mode & 0o777 for path in files}
            assert not any(refresh.encode() in path.read_bytes() for path in files)
            access = answer.json()["token"]
            assert 200 == get(server, "/v2/", access).status_code
            users = (tmp_path / "users").read_text()
            (tmp_path / "users").write_text(users.replace(users.splitlines()[0], f"alice:{hashed('new')}"))
            assert 401 == post(server, **form).status_code
            answer = get(server, "/v2/", access)
            assert 401 == answer.status_code
            assert 'error="invalid_token"' in challenge(answer)
            assert 200 == post(server, grant_type="refresh_token", refresh_token=other).status_code
            log = server.log.read_text()
            assert refresh not in log
            assert access not in log

    @pytest.mark.parametrize("text", ["", "x", "drt_" + "A" * 43, "../signing-keys", "drt_" + "A" * 5000])
    def test_that_is_unknown_is_refused(self, server, text):
        assert 401 == post(server, grant_type="refresh_token", refresh_token=text).status_code

    @pytest.mark.parametrize("last_used", [math.nan, math.inf, 1e300, "never"])
    def test_whose_record_is_damaged_is_refused(self, last_used):
        driver = MemoryDriver()
        tokens = RefreshTokens(driver)
        secret = tokens.issue("alice", "docker", "v")
        (path,) = (each.path for each in driver.walk(FOLDER))
        driver.put_content(path, json.dumps({**json.loads(driver.get_content(path)), "last_used": last_used}).encode())
        assert tokens.verify(secret, lambda _: "v") is None

    def test_is_accepted_while_the_store_is_full(self, clock, monkeypatch):
        driver = MemoryDriver()
        tokens = RefreshTokens(driver, clock)
        secret = tokens.issue("alice", "docker", "v")
        clock.now += 2 * 86400

        def fail(*_, **__):
            raise StorageFull

        monkeypatch.setattr(driver, "put_content", fail)
        assert "alice" == tokens.verify(secret, lambda _: "v").user
        monkeypatch.undo()
        assert clock.now == tokens.verify(secret, lambda _: "v").last_used == next(tokens.list()).last_used


class TestARevocation:
    def test_on_one_host_holds_on_another(self, tmp_path):
        driver = MemoryDriver()
        hosts = [make_app(tmp_path / str(number), {}, driver) for number in range(2)]
        answer = hosts[0].get("/v2/token?offline_token=true", auth=("alice", PASSWORD + "alice")).get_json()
        form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
        # The hosts have different hashes of the same password, as after a change on one of them only.
        assert [200, 401] == [host.post("/v2/token", data=form).status_code for host in hosts]
        (tmp_path / "1" / "users").write_bytes((tmp_path / "0" / "users").read_bytes())
        assert [200, 200] == [host.post("/v2/token", data=form).status_code for host in hosts]
        assert 1 == RefreshTokens(driver).revoke(lambda _: True)
        assert [401, 401] == [host.post("/v2/token", data=form).status_code for host in hosts]

    def test_of_a_rule_or_user_holds_on_another_host_at_its_next_request(self, tmp_path):
        driver = MemoryDriver()
        here, there = (make_app(tmp_path, {}, driver) for _ in range(2))
        basic = {"auth": ("alice", PASSWORD + "alice")}
        text = here.get("/v2/token?scope=repository:acme/web:pull", **basic).get_json()["token"]
        bearer = {"headers": {"Authorization": f"Bearer {text}"}}
        answer = here.put("/v1/repositories/acme/web/", data="[]", **basic)
        old = {"headers": {"Authorization": f"Token {answer.headers['X-Docker-Token']}"}}
        v2, v1 = "/v2/acme/web/tags/list", "/v1/repositories/acme/web/tags"

        def seen():
            found = [there.get(path, **options).status_code for path, options in ((v2, basic), (v2, bearer), (v1, old))]
            return [status if status in (401, 403) else "allowed" for status in found]

        assert ["allowed"] * 3 == seen()
        without_alice = RULES.replace("dev: [alice, bob]", "dev: [bob]").replace("who: [alice]", "who: [bob]")
        (tmp_path / "rules.yml").write_text(without_alice)
        assert [403, 403, 403] == seen()
        (tmp_path / "rules.yml").write_text(RULES)
        assert ["allowed"] * 3 == seen()
        users = tmp_path / "users"
        users.write_text("".join(line for line in users.read_text().splitlines(True) if not line.startswith("alice")))
        assert [401, 401, 401] == seen()


class TestAToken:
    def test_allows_what_its_scopes_name(self, server):
        text = token(server, "repository:acme/web:pull", "alice")
        assert 200 == get(server, "/v2/", text).status_code
        assert 200 == get(server, "/v2/acme/web/manifests/v1", text).status_code
        assert 200 == get(server, "/v2/acme/web/manifests/v1", text).status_code  # from the response cache

    def test_without_the_scope_is_told_which_one_it_needs(self, server):
        answer = get(server, "/v2/alice/own/manifests/v1", token(server, "repository:acme/web:pull", "alice"))
        assert 401 == answer.status_code
        assert 'scope="repository:alice/own:pull",error="insufficient_scope"' in challenge(answer)

    def test_of_a_user_who_was_refused_is_denied(self, server):
        text = token(server, "repository:acme/web:pull,push", "bob")
        answer = get(server, "/v2/acme/web/blobs/uploads/", text, "POST")
        assert (403, "DENIED") == (answer.status_code, answer.json()["errors"][0]["code"])
        assert "bob may not push in the repository acme/web." == answer.json()["errors"][0]["message"]

    def test_of_an_anonymous_client_that_was_refused_is_challenged(self, server):
        answer = get(server, "/v2/acme/web/manifests/v1", token(server, "repository:acme/web:pull"))
        assert (401, "Authentication is required.") == (answer.status_code, answer.json()["errors"][0]["message"])
        assert challenge(answer).endswith('scope="repository:acme/web:pull",error="insufficient_scope"')

    def test_is_limited_to_its_scopes_in_mounts(self, server):
        digest = digest_of(IMAGE.config)
        path = f"/v2/alice/mounted/blobs/uploads/?mount={digest}&from=acme/web"
        narrow = token(server, "repository:alice/mounted:pull,push", "alice")
        wide = token(server, "repository:alice/mounted:pull,push repository:acme/web:pull", "alice")
        assert 202 == get(server, path, narrow, "POST").status_code
        assert 202 == get(server, path.partition("&")[0], wide, "POST").status_code
        assert 201 == get(server, path, wide, "POST").status_code

    def test_lists_repositories_with_the_scope_for_it(self, server):
        answer = get(server, "/v2/_catalog", token(server, "repository:acme/web:pull", "alice"))
        assert 401 == answer.status_code
        assert 'scope="registry:catalog:*",error="insufficient_scope"' in challenge(answer)
        names = get(server, "/v2/_catalog", token(server, "registry:catalog:*", "alice")).json()["repositories"]
        assert {"acme/web", "alice/own", "public/web"} <= set(names)

    def test_allows_no_more_than_the_rules_of_now(self, tmp_path):
        app = make_app(tmp_path, {})
        basic = f"Basic {base64.b64encode(b'alice:pw-alice').decode()}"
        answer = app.get("/v2/token?scope=repository:acme/web:pull", headers={"Authorization": basic})
        headers = {"Authorization": f"Bearer {answer.get_json()['token']}"}
        assert 404 == app.get("/v2/acme/web/tags/list", headers=headers).status_code
        (tmp_path / "rules.yml").write_text(RULES.replace("dev: [alice, bob]", "dev: [x]").replace("[alice]", "[x]"))
        assert 403 == app.get("/v2/acme/web/tags/list", headers=headers).status_code

    def test_ends_although_its_response_is_cached(self, tmp_path):
        with Server(tmp_path / "store", REGISTRY_AUTH_TOKEN_SECONDS="60", **settings(tmp_path)) as server:
            with Client(server.url) as root:
                root.session.auth = ("root", "pw-root")
                push(root, "acme/web", "v1", IMAGE)
            version = jwt.decode(token(server, user="alice"), options={"verify_signature": False})["user_version"]
            keys = SigningKeys(_Folder(server.store))
            path = "/v2/acme/web/manifests/v1"
            for seconds in (2, 4, 8, 16, 32):  # more on a busy machine
                short = AccessTokens(
                    keys,
                    issuer="docker-registry",
                    service="docker-registry",
                    now=lambda seconds=seconds: time.time() - 300 + seconds,
                )
                text = short.issue("alice", version, GRANT).text
                statuses = [get(server, path, text).status_code for _ in range(2)]
                if statuses == [200, 200]:
                    break
            assert [200, 200] == statuses
            time.sleep(seconds + 0.5)
            answer = get(server, path, text)
            assert (401, True) == (answer.status_code, 'error="invalid_token"' in challenge(answer))


class _Folder(MemoryDriver):
    """A copy of the signing keys of a running server."""

    def __init__(self, store):
        super().__init__()
        self.put_content(PATH, (store / PATH).read_bytes())


@pytest.fixture
def clock():
    return Clock(float(int(time.time())))


@pytest.fixture
def keys(clock):
    return SigningKeys(MemoryDriver(), now=clock)


@pytest.fixture
def tokens(keys, clock):
    return AccessTokens(keys, issuer="us", service="here", now=clock)


def encode(part):
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed(keys, header=None, claims=None, key=None):
    """A token with other headers and claims than ours."""
    now = int(keys._now())
    body = {"iss": "us", "sub": "alice", "aud": "here", "exp": now + 60, "nbf": now, "iat": now, **(claims or {})}
    head = {"kid": keys.current().key_id, **(header or {})}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, key or keys.current().private, "ES256", head)


def forged(keys, header, signature=b"x" * 64):
    payload = signed(keys).split(".")[1]
    return f"{encode(header)}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def hmac_forged(keys):
    """A token that is signed with the public key as if it were a secret."""
    public = keys.current().public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head, payload = encode({"alg": "HS256", "typ": "JWT", "kid": keys.current().key_id}), signed(keys).split(".")[1]
    mac = hmac.HMAC(public, hashes.SHA256())
    mac.update(f"{head}.{payload}".encode())
    return f"{head}.{payload}.{base64.urlsafe_b64encode(mac.finalize()).rstrip(b'=').decode()}"


class TestATokenThatIsNotOurs:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda keys: signed(keys, claims={"aud": "there"}), "another service"),
            (lambda keys: signed(keys, claims={"iss": "them"}), "another issuer"),
            (lambda keys: signed(keys, claims={"exp": int(keys._now()) - 1}), "has expired"),
            (lambda keys: signed(keys, claims={"nbf": int(keys._now()) + 600}), "not valid yet"),
            (lambda keys: signed(keys, claims={"exp": None}), "lacks a claim"),
            (lambda keys: signed(keys, claims={"exp": "soon"}), "malformed"),
            (lambda keys: signed(keys, claims={"sub": 5}), "malformed"),
            (lambda keys: signed(keys, claims={"access": "all"}), "access is malformed"),
            (lambda keys: signed(keys, claims={"access": [{"type": "repository"}]}), "access is malformed"),
            (lambda keys: signed(keys, claims={"access": [{}] * 500}), "access is malformed"),
            (lambda keys: signed(keys, key=ec.generate_private_key(ec.SECP256R1())), "signature is wrong"),
            (lambda keys: signed(keys, {"kid": "../../etc/passwd"}), "key is unknown"),
            (lambda keys: signed(keys, {"jku": "https://evil.example.com"}), "names a key"),
            (lambda keys: signed(keys, {"x5u": "https://evil.example.com"}), "names a key"),
            (lambda keys: signed(keys, {"jwk": {"kty": "EC"}}), "names a key"),
            (lambda keys: signed(keys, {"crit": ["x"], "x": 1}), ""),
            (lambda keys: forged(keys, {"alg": "none", "kid": keys.current().key_id}, b""), "algorithm"),
            (lambda keys: forged(keys, {"alg": "ES256", "kid": 5}), ""),
            (lambda keys: forged(keys, {"alg": "RS256", "kid": keys.current().key_id}), "algorithm"),
            (hmac_forged, "algorithm"),
            (lambda keys: forged(keys, {"alg": "ES256", "kid": keys.current().key_id}), "signature is wrong"),
            (lambda keys: signed(keys) + "x", ""),
            (lambda keys: "a.b.c", "malformed"),
            (lambda keys: signed(keys) + "." + signed(keys), "malformed"),
            (lambda keys: "A" * 20_000, "too long"),
        ],
    )  # fmt: skip
    def test_is_refused_with_the_reason(self, keys, tokens, make, reason):
        assert "alice" == tokens.verify(signed(keys)).user
        with pytest.raises(Unauthorized) as raised:
            tokens.verify(make(keys))
        assert "invalid_token" == raised.value.error
        assert reason in raised.value.sentence

    def test_is_refused_over_http(self, server):
        answer = get(server, "/v2/public/web/manifests/v1", "a.b.c")
        assert 401 == answer.status_code
        assert 'error="invalid_token"' in challenge(answer)


class TestASigningKey:
    def test_is_made_once_for_all_hosts(self, clock):
        driver = MemoryDriver()
        here, there = SigningKeys(driver, now=clock), SigningKeys(driver, now=clock)
        assert here.current().key_id == there.current().key_id

    def test_is_parsed_again_only_if_the_file_has_changed(self, keys, clock):
        key = keys.current()
        clock.now += REFRESH_SECONDS
        assert keys.current() is key
        assert keys.rotate() is not key
        assert 2 == len(keys.all())

    def test_is_read_again_after_the_clock_was_set_back(self, clock):
        driver = MemoryDriver()
        here, there = SigningKeys(driver, now=clock), SigningKeys(driver, now=clock)
        for keys in (here, there):
            keys.all()
        clock.now -= 3600
        new = there.rotate()
        assert here.find(new.key_id) is not None
        assert 2 == len(here.all())

    def test_that_is_known_is_used_while_the_store_fails(self, keys, tokens, clock, monkeypatch):
        texts = [tokens.issue("alice", "", GRANT).text for _ in range(2)]

        def fail(_):
            raise StorageUnavailable

        monkeypatch.setattr(keys._driver, "get_versioned", fail)
        for text in texts:
            clock.now += REFRESH_SECONDS
            assert "alice" == tokens.verify(text).user
        for pause in (1, REFRESH_SECONDS):
            clock.now += pause
            with pytest.raises(StorageUnavailable):
                keys.find("unknown")
        monkeypatch.undo()
        SigningKeys(keys._driver, now=clock).rotate()
        clock.now += REFRESH_SECONDS
        assert 2 == len(keys.all())

    def test_has_an_id_in_the_form_of_libtrust(self, keys):
        groups = keys.current().key_id.split(":")
        assert [4] * 12 == [len(group) for group in groups]

    @pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
    def test_signs_with_either_algorithm(self, clock, algorithm):
        keys = SigningKeys(MemoryDriver(), algorithm=algorithm, now=clock)
        tokens = AccessTokens(keys, issuer="us", service="here", now=clock)
        text = tokens.issue("alice", "v", GRANT).text
        assert algorithm == jwt.get_unverified_header(text)["alg"]
        assert "alice" == tokens.verify(text).user

    def test_is_replaced_with_overlap(self, keys, tokens, clock):
        there = AccessTokens(SigningKeys(keys._driver, now=clock), issuer="us", service="here", now=clock)
        old, text = keys.current(), tokens.issue("alice", "", GRANT).text
        assert "alice" == there.verify(text).user
        assert not keys.rotate_if_due()
        clock.now += 91 * 86400
        assert keys.rotate_if_due()
        assert old.key_id == keys.current().key_id  # other hosts do not know the new one yet
        clock.now += ACTIVATION_DELAY_SECONDS
        assert old.key_id != keys.current().key_id
        assert "alice" == there.verify(tokens.issue("alice", "", GRANT).text).user
        assert 2 == len(keys.all())
        clock.now += OVERLAP_SECONDS + 1
        assert old.key_id not in [key.key_id for key in keys.all()]
        assert keys.find(old.key_id) is None
        keys.rotate()
        assert 2 == len(json.loads(keys._driver.get_content(PATH))["keys"])

    def test_that_is_damaged_is_an_error(self, keys):
        endless = [{"keys": [{**keys.current().to_json(), "created": time}]} for time in (math.nan, 1e300)]
        for content in (b"", b"{", *(json.dumps(each).encode() for each in endless)):
            keys._driver.put_content(PATH, content)
            with pytest.raises(Exception, match="damaged"):
                SigningKeys(keys._driver).current()

    def test_shows_no_secret(self, keys):
        assert "PRIVATE" not in repr(keys.current())
        assert SigningKey.from_json(keys.current().to_json()) is not None


class TestManyTokens:
    def test_are_verified_once_each_in_bounded_memory(self, tokens, monkeypatch):
        monkeypatch.setattr(json_web_tokens, "MAX_REMEMBERED", 3)
        texts = [tokens.issue("alice", "", GRANT).text for _ in range(10)]
        for text in texts:
            assert tokens.verify(text) is tokens.verify(text)
        assert 3 == len(tokens._verified)

    def test_are_remembered_up_to_a_total_length(self, tokens, monkeypatch):
        texts = [tokens.issue("alice", "", GRANT).text for _ in range(10)]
        monkeypatch.setattr(json_web_tokens, "MAX_REMEMBERED_CHARACTERS", 3 * max(map(len, texts)))
        for text in texts:
            assert tokens.verify(text) is tokens.verify(text)
        assert 3 == len(tokens._verified)
