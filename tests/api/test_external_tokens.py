"""Tokens of another token server (distribution's ``auth.token``)."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from docker_registry.app import create_app
from docker_registry.auth.access_control import AccessControl
from docker_registry.auth.external import external_tokens, https_documents, key_sets
from docker_registry.auth.external.remote_keys import MAX_AGE_SECONDS, RENEWED_SECONDS, RETRY_SECONDS, RemoteKeys
from docker_registry.auth.logins import Logins
from docker_registry.auth.tokens.access_tokens import AccessTokens
from docker_registry.auth.tokens.key_export import certificate
from docker_registry.auth.tokens.scopes import Grant
from docker_registry.auth.tokens.signing_keys import SigningKeys
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, TokenServer
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import AuthorityUnavailable, ConfigError
from docker_registry.registry.access import OpenPolicy
from docker_registry.services import build
from tests.support.access import write_users
from tests.support.clock import Clock
from tests.support.servers.identity_provider import IdentityProvider, Key, key_set
from tests.support.timing import wait_until

REALM = "https://auth.example.com/token"
PATH = "/v2/acme/web/tags/list"
ACCESS = [{"type": "repository", "name": "acme/web", "actions": ["pull"]}]


@pytest.fixture(scope="module")
def key():
    return Key()


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    with IdentityProvider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


def make_app(auth=None, metrics=False, **server):
    section = TokenServer(**{"realm": REALM, "service": "here", "issuer": "them", **server})
    config = Config(storage="memory", metrics=metrics, auth=Auth(token=section, **(auth or {})))
    return create_app(build(config, MemoryDriver())).test_client()


@pytest.fixture
def bundle(tmp_path, key):
    (tmp_path / "bundle.pem").write_bytes(key.certificate())
    return tmp_path / "bundle.pem"


@pytest.fixture
def app(bundle):
    return make_app(rootcertbundle=bundle)


def claims(**others):
    now = int(time.time())
    found = {"iss": "them", "sub": "alice", "aud": "here", "exp": now + 300, "nbf": now, "access": ACCESS, **others}
    return {name: value for name, value in found.items() if value is not None}


def get(app, text, path=PATH, method="GET"):
    return app.open(path, method=method, headers={} if text is None else {"Authorization": f"Bearer {text}"})


def libtrust_id(key):
    return key_sets.parse_certificates(key.public_pem)[0].key_ids


class TestATokenOfAnotherServer:
    def test_allows_its_scopes(self, app, key):
        for key_id in sorted(libtrust_id(key)):  # of distribution 2 and 3
            text = key.sign(claims(), kid=key_id)
            assert 404 == get(app, text).status_code
            assert 200 == get(app, text, "/v2/").status_code
            assert 401 == get(app, text, "/v2/acme/other/tags/list").status_code
            assert 401 == get(app, text, "/v2/acme/web/blobs/uploads/", "POST").status_code
        actions = [{"type": "repository", "name": "acme/web", "actions": ["*"]}]
        for name in ("", "anonymous"):
            text = jwt.encode(claims(access=actions, sub=name), key.private, "ES256")  # without a key id
            assert 202 == get(app, text, "/v2/acme/web/blobs/uploads/", "POST").status_code
        assert 401 == get(app, jwt.encode(claims(sub="", access=[]), key.private, "ES256")).status_code
        nothing = {"type": "repository", "name": "acme/other", "actions": None}  # as Go writes an empty list
        many = [{**nothing, "name": f"a{number}"} for number in range(150)]
        assert 404 == get(app, jwt.encode(claims(access=[*many, *ACCESS]), key.private, "ES256")).status_code

    def test_is_a_login_only_if_it_names_a_user(self, bundle, key):
        app = make_app(rootcertbundle=bundle, metrics=True)
        for name, status in (("", 401), ("anonymous", 401), ("token", 200)):
            text = key.sign(claims(sub=name), kid=min(libtrust_id(key)))
            assert status == get(app, text, "/metrics").status_code

    def test_is_requested_from_its_server(self, app):
        answer = get(app, None)
        assert 401 == answer.status_code
        expected = f'Bearer realm="{REALM}",service="here",scope="repository:acme/web:pull"'
        assert expected == answer.headers["WWW-Authenticate"]
        assert 404 == app.get("/v2/token").status_code

    def test_is_limited_by_rules_and_stands_beside_passwords(self, bundle, key, tmp_path):
        (tmp_path / "rules.yml").write_text("rules: [{repositories: ['acme/*'], who: [alice], allow: [pull]}]")
        write_users(tmp_path / "users", "alice", "bob")
        app = make_app({"rules": tmp_path / "rules.yml", "htpasswd": tmp_path / "users"}, rootcertbundle=bundle)
        key_id = min(libtrust_id(key))
        assert 404 == get(app, key.sign(claims(), kid=key_id)).status_code
        assert 403 == get(app, key.sign(claims(sub="bob"), kid=key_id)).status_code
        for name in ("", "anonymous"):
            assert 401 == get(app, key.sign(claims(sub=name), kid=key_id)).status_code
        assert 404 == app.get(PATH, auth=("alice", "pw-alice")).status_code
        assert 403 == app.get(PATH, auth=("bob", "pw-bob")).status_code

    def test_of_a_registry_of_ours_is_accepted_by_its_exported_certificate(self, tmp_path):
        keys = SigningKeys(MemoryDriver())
        (tmp_path / "bundle.pem").write_text(certificate(keys.current()))
        app = make_app(rootcertbundle=tmp_path / "bundle.pem")
        tokens = AccessTokens(keys, issuer="them", service="here")
        text = tokens.issue("alice", "v", Grant({"acme/web": frozenset({"pull"})})).text
        assert 404 == get(app, text).status_code

    def test_ends_with_its_key(self, bundle, key):
        app = make_app(rootcertbundle=bundle)
        text = key.sign(claims(), kid=min(libtrust_id(key)))
        assert 404 == get(app, text).status_code
        bundle.write_bytes(Key().certificate())
        assert 401 == get(app, text).status_code
        bundle.write_bytes(b"")
        assert 401 == get(app, text).status_code  # the last usable version stays in force
        bundle.write_bytes(key.certificate())
        assert 404 == get(app, text).status_code


def encode(part):
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def hmac_forged(key):
    """Signed with the public key as if it were a secret."""
    head = f"{encode({'alg': 'HS256', 'kid': min(libtrust_id(key))})}.{encode(claims())}"
    mac = hmac.HMAC(key.public_pem, hashes.SHA256())
    mac.update(head.encode())
    return f"{head}.{base64.urlsafe_b64encode(mac.finalize()).rstrip(b'=').decode()}"


class TestABadToken:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda sign, key: sign(aud="there"), "another service"),
            (lambda sign, key: sign(aud=["there", "elsewhere"]), "another service"),
            (lambda sign, key: sign(iss="us"), "another issuer"),
            (lambda sign, key: sign(exp=int(time.time()) - 90), "has expired"),
            (lambda sign, key: sign(exp=None), "lacks a claim"),
            (lambda sign, key: sign(exp=True), "malformed"),
            (lambda sign, key: sign(nbf=int(time.time()) + 600), "not valid yet"),
            (lambda sign, key: sign(nbf="x"), "malformed"),
            (lambda sign, key: sign(sub=5), "malformed"),
            (lambda sign, key: sign(sub="a\nb"), "malformed"),
            (lambda sign, key: sign(access={"a": 1}), "malformed"),
            (lambda sign, key: sign({"kid": "../../etc/passwd"}), "key is unknown"),
            (lambda sign, key: sign({"jku": "https://evil.example.com"}), "names a key"),
            (lambda sign, key: sign({"x5u": "https://evil.example.com"}), "names a key"),
            (lambda sign, key: sign({"jwk": Key().jwk()}), "names a key"),
            (lambda sign, key: sign({"x5c": ["x"]}), "names a key"),
            (lambda sign, key: sign({"crit": ["x"], "x": 1}), ""),
            (lambda sign, key: sign({"cty": "JWT"}), "another token"),
            (lambda sign, key: Key().sign(claims(), kid=min(libtrust_id(key))), "signature is wrong"),
            (lambda sign, key: f"{encode({'alg': 'none'})}.{encode(claims())}.", "algorithm"),
            (lambda sign, key: f"{encode({'alg': 'RS256'})}.{encode(claims())}.eHh4", "algorithm"),
            (lambda sign, key: f"{encode({'alg': 'ES256', 'kid': 5})}.{encode(claims())}.eHh4", "malformed"),
            (lambda sign, key: hmac_forged(key), "algorithm"),
            (lambda sign, key: f"{sign()}.{sign()}", ""),
            (lambda sign, key: f"{encode([[]] * 1000)}.e30.eHh4", "malformed"),
            (lambda sign, key: "A" * 16_370, "malformed"),
        ],
    )
    def test_is_refused_with_the_reason(self, app, key, make, reason):
        def sign(header=None, **others):
            return key.sign(claims(**others), **{"kid": min(libtrust_id(key)), **(header or {})})

        answer = get(app, make(sign, key))
        assert 401 == answer.status_code
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert reason in answer.get_json()["errors"][0]["message"]


class TestTheAlgorithms:
    def test_are_those_that_fit_the_key_and_are_configured(self, tmp_path, key):
        pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = pair.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / "bundle.pem").write_bytes(pem + key.public_pem)
        app = make_app(rootcertbundle=tmp_path / "bundle.pem", signingalgorithms=("RS256",))
        assert 404 == get(app, jwt.encode(claims(), pair, "RS256")).status_code
        assert 401 == get(app, jwt.encode(claims(), pair, "PS256")).status_code
        assert 401 == get(app, jwt.encode(claims(), key.private, "ES256")).status_code

    def test_of_a_set_are_those_that_it_names(self, key):
        (found,) = key_sets.parse_jwks(json.dumps({"keys": [key.jwk() | {"alg": "ES256"}]}).encode())
        assert (("ES256",), {"one"}) == (found.algorithms, found.key_ids)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [5, {"kty": "oct", "k": "eHg"}, {"kty": []}]}',
         b'{"keys": [{"kty": "EC", "crv": "P-256", "x": 5}]}', b"[" * 100_000,
         json.dumps({"keys": [{}] * 101}).encode()],
    )  # fmt: skip
    def test_of_a_bad_set_are_none(self, content):
        with pytest.raises(ValueError, match=r"^(is not|contains)"):
            key_sets.parse_jwks(content)

    def test_of_an_unknown_algorithm_are_left_out(self, key):
        unknown = b"0/0\x04\x06\x02*\x03\x03'\x00" + bytes(38)  # a public key of the algorithm 1.2.3
        pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(unknown) + b"-----END PUBLIC KEY-----\n"
        with pytest.raises(ValueError, match="no key"):
            key_sets.parse_certificates(pem)
        assert 1 == len(key_sets.parse_certificates(pem + key.public_pem))

    def test_of_weak_or_secret_keys_are_none(self, key):
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
        curve = ec.generate_private_key(ec.SECP256K1()).public_key()
        for public in (weak, curve):
            pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            with pytest.raises(ValueError, match="no key"):
                key_sets.parse_certificates(pem)
        for entry in (key.jwk() | {"use": "enc"}, key.jwk() | {"d": "x"}, key.jwk() | {"alg": "RS256"}):
            with pytest.raises(ValueError, match="no key"):
                key_sets.parse_jwks(json.dumps({"keys": [entry]}).encode())


class TestASetting:
    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"issuer": None}, "belong together"),
            ({"realm": None}, "realm is not set"),
            ({"realm": "auth.example.com"}, "realm must be a URL"),
            ({"realm": 'https://x/"y'}, "realm must consist"),
            ({"signingalgorithms": ("HS256",)}, "signingalgorithms must be some of"),
            ({"jwks": "https://x/keys"}, "either rootcertbundle or jwks"),
            ({"rootcertbundle": None}, "either rootcertbundle or jwks"),
            ({"rootcertbundle": None, "jwks": "http://x/keys"}, "begins with https://"),
            ({"rootcertbundle": None, "jwks": "https://x..y/keys"}, "begins with https://"),
            ({"rootcertbundle": None, "jwks": "https://u:p@x/keys"}, "without user name, password"),
            ({"rootcertbundle": None, "jwks": "https://x/keys", "ca": "missing"}, "cannot be read"),
            ({"rootcertbundle": None, "jwks": "missing.json"}, r"^auth\.token\.jwks: .*missing\.json cannot be read"),
            ({"rootcertbundle": None, "jwks": "~unknown/keys"}, "~unknown/keys cannot be read"),
        ],
    )
    def test_that_is_wrong_stops_the_start(self, bundle, tmp_path, settings, sentence):
        if "ca" in settings:
            settings = {**settings, "ca": tmp_path / "missing"}
        with pytest.raises(ConfigError, match=sentence):
            make_app(**{"rootcertbundle": bundle, **settings})

    def test_names_a_file_that_cannot_be_used(self, tmp_path):
        (tmp_path / "x.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n")
        with pytest.raises(ConfigError, match=r"x\.pem contains a certificate that cannot be read"):
            make_app(rootcertbundle=tmp_path / "x.pem")


class TestKeysBehindAUrl:
    def test_are_fetched_renewed_and_rotated(self, provider, key):
        provider.documents["/keys"] = key_set(key)
        app = make_app(jwks=f"{provider.url}/keys", ca=provider.ca)
        assert 404 == get(app, key.sign(claims())).status_code
        assert 404 == get(app, key.sign(claims(sub="bob"))).status_code
        assert 1 == provider.requests.count("/keys")

    def test_are_renewed_apart_from_users_rules_and_robots(self, key):
        """A slow server must not delay that these end."""
        fetched = []
        keys = RemoteKeys("them", lambda: fetched.append(1) or key_set(key))
        server = external_tokens.TokenServer.parse(realm=REALM, service="here", issuer="them", algorithms=())
        tokens = external_tokens.ExternalTokens(server, keys)
        control = AccessControl(OpenPolicy(), logins=Logins(), external_tokens=tokens)

        def stop(_):
            raise StopIteration

        for watch, count in ((control.watch, 0), (control.renew_keys, 1)):
            with pytest.raises(StopIteration):
                watch(stop)
            assert count == len(fetched)

    def test_are_missing_while_the_server_does_not_answer(self, provider, key):
        app = make_app(jwks=f"{provider.url}/nothing", ca=provider.ca)
        for _ in range(3):
            answer = get(app, key.sign(claims()))
            assert (503, "UNAVAILABLE") == (answer.status_code, answer.get_json()["errors"][0]["code"])
            assert answer.headers["Retry-After"]
        assert 1 == provider.requests.count("/nothing")  # attempts are limited
        assert 401 == get(app, None).status_code

    def test_last_a_day_when_they_cannot_be_renewed(self, key):
        clock, answers, other = Clock(), [key_set(key)], Key("two")

        def fetch():
            if not answers:
                raise AuthorityUnavailable
            return answers.pop()

        keys = RemoteKeys("them", fetch, clock)
        assert 1 == len(keys.find("one"))
        version = keys.version
        assert [] == list(keys.find("two"))
        clock.now += RENEWED_SECONDS
        keys.renew_if_due()
        assert 1 == len(keys.find("one"))
        clock.now += RETRY_SECONDS
        answers.append(key_set(key, other))
        assert 1 == len(keys.find("two"))
        assert version != keys.version
        answers.append(key_set(other))
        clock.now += RENEWED_SECONDS
        keys.renew_if_due()
        assert [] == list(keys.find("one"))
        clock.now += RETRY_SECONDS
        answers.append(b"{")
        assert [] == list(keys.find("three"))
        clock.now += MAX_AGE_SECONDS - RETRY_SECONDS - 1
        assert 1 == len(keys.find("two"))
        clock.now += 1
        with pytest.raises(AuthorityUnavailable):
            keys.find("two")

    @pytest.mark.parametrize("document", [302, 500, b"x" * (https_documents.MAX_BYTES + 1)], ids=["3xx", "5xx", "big"])
    def test_are_not_read_from_a_redirect_an_error_or_a_large_document(self, provider, document):
        provider.documents["/bad"] = document
        with pytest.raises(AuthorityUnavailable):
            https_documents.fetch(f"{provider.url}/bad", provider.ca)
        assert "/elsewhere" not in provider.requests

    def test_are_not_awaited_after_a_long_redirect(self, provider):
        provider.documents["/long"] = (302, 10**9)
        with pytest.raises(AuthorityUnavailable, match="answered 302"):
            https_documents.fetch(f"{provider.url}/long", provider.ca)
        wait_until(lambda: provider.sent_bytes is not None)  # 0 if the client left before the first block
        assert provider.sent_bytes < 10**8  # what fits into the buffers of the connection

    def test_are_not_read_from_a_server_with_another_certificate(self, provider):
        with pytest.raises(AuthorityUnavailable, match="SSLError"):
            https_documents.fetch(f"{provider.url}/keys")
