"""Client certificates as identity, where the server terminates TLS."""

from __future__ import annotations

import json
import ssl
from contextlib import contextmanager
from http.client import HTTPSConnection

import pytest
import requests

from docker_registry.auth.external.client_certificates import ClientCertificates
from docker_registry.auth.logins import Logins
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, Tls
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError, Unauthorized
from docker_registry.services import build
from tests.support.access import settings, write_users
from tests.support.certificates import Authority
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.servers.registry import TlsServer
from tests.support.timing import wait_until

#: As :meth:`ssl.SSLSocket.getpeercert` describes a certificate.
CERTIFICATE = {
    "subject": ((("organizationalUnitName", "dev"),), (("commonName", "Alice"),)),
    "subjectAltName": (("DNS", "a.example.com"), ("DNS", "b.example.com"), ("email", "Alice@Example.com"),
                       ("URI", "spiffe://example.com/ns/CI")),
    "notAfter": "Jan 31 12:00:00 2030 GMT",
}  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority):
    """Serves clients with and without a certificate; alice, bob and root are users with passwords, carol is not."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate, key = authority.issue("server")
    rules = """rules:
      - {repositories: ["acme/**"], who: [alice, carol], allow: [pull]}
      - {repositories: ["public/**"], who: [anonymous], allow: [pull]}
      - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete]}"""
    variables = {
        "REGISTRY_AUDIT_LOG": str(folder / "audit.log"),
        "REGISTRY_TLS_CERTIFICATE": str(certificate),
        "REGISTRY_TLS_KEY": str(key),
        "REGISTRY_TLS_CLIENT_CA": str(authority.file),
        "REGISTRY_TLS_CLIENT_CERTIFICATES": "optional",
        "REGISTRY_AUTH_CERTIFICATE_NAME": "${cn}",
        **settings(folder, rules),
    }
    with TlsServer(folder / "store", **variables) as server, Client(server.url) as root:
        root.session.verify, root.session.auth = str(authority.file), ("root", "pw-root")
        for name in ("acme/web", "public/web"):
            push(root, name, "v1", make_image(1))
        yield server


@pytest.fixture
def connect(server, authority):
    """Return a function that opens a session as the holder of a certificate."""

    @contextmanager
    def connect(name):
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(authority.file)
            if name is not None:
                session.cert = tuple(map(str, authority.issue(name)))
            yield lambda path, **options: session.get(server.url + path, timeout=30, **options)

    return connect


class TestAClientCertificate:
    def test_identifies_its_user(self, server, connect):
        for name, expected in (("alice", 200), ("carol", 200), ("bob", 403), (None, 401)):
            with connect(name) as get:
                # Repeated, so that the response comes from the cache, which must not serve it to others.
                statuses = {get("/v2/acme/web/manifests/v1").status_code for _ in range(5)}
                assert {expected} == statuses, name
                assert (401 if name is None else 200) == get("/v2/").status_code
                assert {200} == {get("/v2/public/web/manifests/v1").status_code for _ in range(3)}

    def test_is_audited_as_a_login_where_passwords_are(self, server, connect):
        with connect("dave") as get:
            token = get("/v2/token").json()["token"]
            get("/v2/")
            get("/v2/", headers={"Authorization": f"Bearer {token}"})
            get("/v2/public/web/manifests/v1")
            get("/v2/", auth=("alice", "pw-alice"), params={"last": "1"})

        def audited():
            return list(map(json.loads, (server.store.parent / "audit.log").read_text().splitlines()))

        wait_until(lambda: "GET /v2/?last=1 200" in {line["message"] for line in audited()})
        expected = [("login", "GET /v2/token 200"), ("login", "GET /v2/ 200")]
        assert expected == [(line["event"], line["message"]) for line in audited() if line["principal"] == "dave"]

    def test_is_overruled_by_a_password(self, connect):
        with connect("bob") as get:
            assert 200 == get("/v2/acme/web/manifests/v1", auth=("alice", "pw-alice")).status_code
            assert 403 == get("/v2/acme/web/manifests/v1", headers={"Authorization": "Basic Og=="}).status_code
            assert 401 == get("/v2/acme/web/manifests/v1", auth=("alice", "wrong")).status_code

    @pytest.mark.parametrize("name", ["alice", "carol"])
    def test_gets_tokens_that_end_with_it(self, connect, name):
        with connect(name) as get:
            scope = {"scope": "repository:acme/web:pull", "offline_token": "true"}
            document = get("/v2/token", params=scope).json()
            image = get("/v1/repositories/acme/web/images").headers["X-Docker-Token"]
        assert "refresh_token" not in document
        with connect(None) as get:
            headers = {"Authorization": f"Bearer {document['token']}"}
            assert 200 == get("/v2/acme/web/manifests/v1", headers=headers).status_code
            assert 200 == get("/v1/repositories/acme/web/tags", headers={"Authorization": image}).status_code

    def test_that_makes_no_name_is_refused_with_the_reason(self, server, connect):
        with connect("no name") as get:
            answer = get("/v2/")
            assert 401 == answer.status_code
            assert "make no name that rules can contain" in answer.json()["errors"][0]["message"]
            assert 200 == get("/v2/", auth=("alice", "pw-alice")).status_code
        wait_until(lambda: "login failed: client certificate from" in server.log.read_text(), server.log.read_text)

    @pytest.mark.parametrize("problem", ["expired", "foreign"])
    def test_that_cannot_be_verified_ends_the_handshake(self, server, authority, problem, tmp_path):
        issuer = Authority(tmp_path, "other") if problem == "foreign" else authority
        context = ssl.create_default_context(cafile=authority.file)
        context.load_cert_chain(*issuer.issue("alice", days=-1 if problem == "expired" else 2, file=problem))
        connection = HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)
        with pytest.raises(OSError, match=r"(?i)expired|unknown ca|closed|reset|eof"):
            connection.request("GET", "/v2/")
            connection.getresponse()
        connection.close()


class TestTheName:
    @pytest.mark.parametrize(
        ("template", "name"),
        [
            ("${cn}", "alice"), ("${ou}/${cn}", "dev/alice"), ("${email}", "alice@example.com"),
            ("${uri}", "spiffe://example.com/ns/CI"),
        ],
    )  # fmt: skip
    def test_is_made_of_the_fields(self, template, name):
        found = ClientCertificates(template, lambda: 0).identify(CERTIFICATE)
        assert (name, 1896091200.0) == (found.name, found.expires)

    def test_is_that_of_a_user_of_the_file_in_upper_and_lower_case(self, tmp_path):
        users = write_users(tmp_path / "users", "ALICE", "bob")
        logins = Logins(users, certificates=ClientCertificates("${cn}", lambda: 0))
        found = logins.identify(CERTIFICATE, None)
        assert ("ALICE", "") == (found.name, found.version)

    def test_is_that_of_one_user_of_several_in_upper_and_lower_case(self, tmp_path):
        users = write_users(tmp_path / "users", "Alice", "alice")
        logins = Logins(users, certificates=ClientCertificates("${cn}", lambda: 0))
        for name in ("Alice", "alice"):
            assert name == logins.identify(CERTIFICATE | {"subject": ((("commonName", name),),)}, None).name
        with pytest.raises(Unauthorized, match="Several users have the name"):
            logins.identify(CERTIFICATE | {"subject": ((("commonName", "ALICE"),),)}, None)

    @pytest.mark.parametrize(
        ("template", "changed", "reason"),
        [
            ("${o}", {}, "has no o"),
            ("${dns}", {}, "has 2 values of dns"),
            ("${cn}", {"subject": ()}, "has no cn"),
            ("${cn}", {"subject": ((("commonName", "anonymous"),),)}, "make no name"),
            ("${cn}", {"subject": ((("commonName", "Anonymous"),),)}, "make no name"),
            ("${cn}", {"subject": ((("commonName", "\u212aate"),),)}, "make no name"),  # its lower case is kate
            ("${cn}", {"subject": ((("commonName", "robot:ci"),),)}, "make no name"),
            ("${cn}", {"subject": ((("commonName", "10.0.0.0/8"),),)}, "make no name"),
            ("${cn}", {"subject": ((("commonName", "a\nb"),),)}, "make no name"),
            ("${cn}", {"notAfter": "Jan 31 12:00:00 1970 GMT"}, "has expired"),
        ],
    )
    def test_is_refused_with_the_reason(self, template, changed, reason):
        with pytest.raises(Unauthorized) as raised:
            ClientCertificates(template, lambda: 10_000_000.0).identify(CERTIFICATE | changed)
        assert reason in raised.value.sentence

    @pytest.mark.parametrize("template", ["", "alice", "${cn", "${serial}", "$cn", "host ${cn}", "robot:${cn}"])
    def test_setting_that_is_wrong_stops_the_start(self, template):
        with pytest.raises(ConfigError, match="certificate_name"):
            ClientCertificates(template)

    def test_needs_a_server_that_asks_for_certificates(self, authority):
        certificate, key = authority.issue("plain")
        for tls in (Tls(), Tls(certificate=certificate, key=key)):
            config = Config(storage="memory", auth=Auth(certificate_name="${cn}"), tls=tls)
            with pytest.raises(ConfigError, match=r"tls\.client_ca"):
                build(config, MemoryDriver())
