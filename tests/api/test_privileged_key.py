"""Signed requests of API V1 (``privileged_key``), by python-rsa and openssl."""

from __future__ import annotations

import base64
import random
import shutil
import subprocess
import time
from email.utils import formatdate

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from docker_registry.app import create_app
from docker_registry.auth.privileged_key import MAX_AGE_SECONDS, PrivilegedKey
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.services import build
from tests.support.access import settings
from tests.support.clock import Clock

python_rsa = pytest.importorskip("rsa", reason="python-rsa signs as the clients of 0.7 did")

ALL = ("sha1", "sha256", "sha384", "sha512", "md5")
PATH = "/v1/repositories/acme/web/tags"


@pytest.fixture(scope="module")
def pair():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def signer(pair):
    """The same key as python-rsa has it."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = pair.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return python_rsa.PrivateKey.load_pkcs1(pem)


def write(folder, pair, form=serialization.PublicFormat.SubjectPublicKeyInfo):
    path = folder / "key.pem"
    path.write_bytes(pair.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


def sign(signer, message, algorithm="SHA-256"):
    data = base64.b64encode(python_rsa.sign(message.encode(), signer, algorithm)).decode()
    return f"key=mine;data={data}"


class TestASignature:
    @pytest.mark.parametrize(
        "form", [serialization.PublicFormat.PKCS1, serialization.PublicFormat.SubjectPublicKeyInfo]
    )
    def test_by_python_rsa_is_valid_with_each_hash(self, tmp_path, pair, signer, form):
        key = PrivilegedKey(write(tmp_path, pair, form), ALL)
        for algorithm in ("MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512"):
            header = sign(signer, "GET,/v1/images/x/json", algorithm)
            assert key.verify("GET", "/v1/images/x/json", [("X-Signature", header)])
        headers = [("x-docker-token", "true"), ("X-Docker-Endpoints", " a,b "), ("Accept", "*/*")]
        message = "PUT,/v1/x,X-Docker-Endpoints:a,b,X-Docker-Token:true"
        assert key.verify("PUT", "/v1/x", [*headers, ("X-Signature", sign(signer, message))])

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
    def test_by_openssl_is_valid(self, tmp_path, pair):
        form = serialization.PrivateFormat.PKCS8
        pem = pair.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (tmp_path / "private.pem").write_bytes(pem)
        command = ["openssl", "dgst", "-sha256", "-sign", str(tmp_path / "private.pem")]
        signed = subprocess.run(command, input=b"DELETE,/v1/x", capture_output=True, check=True).stdout
        header = f"data={base64.b64encode(signed).decode()}"
        assert PrivilegedKey(write(tmp_path, pair), ALL).verify("DELETE", "/v1/x", [("X-Signature", header)])

    def test_that_was_changed_anywhere_is_not(self, tmp_path, pair, signer):
        key, chosen = PrivilegedKey(write(tmp_path, pair), ALL), random.Random(1)
        header = sign(signer, "GET,/v1/x,X-Docker-A:1")
        signed = base64.b64decode(header.partition("data=")[2])
        assert key.verify("GET", "/v1/x", [("X-Signature", header), ("X-Docker-A", "1")])
        for _ in range(1000):
            position, bit = chosen.randrange(len(signed)), 1 << chosen.randrange(8)
            changed = bytes(byte ^ bit if at == position else byte for at, byte in enumerate(signed))
            header_of = f"key=mine;data={base64.b64encode(changed).decode()}"
            assert not key.verify("GET", "/v1/x", [("X-Signature", header_of), ("X-Docker-A", "1")])
        for method, path, headers in (
            ("PUT", "/v1/x", [("X-Docker-A", "1")]),
            ("GET", "/v1/y", [("X-Docker-A", "1")]),
            ("GET", "/v1/x", []),
            ("GET", "/v1/x", [("X-Docker-A", "2")]),
            ("GET", "/v1/x", [("X-Docker-A", "1"), ("X-Docker-B", "1")]),
            ("GET", "/v1/x", [("X-Docker-A", "1"), ("X-Signature", header)]),
        ):
            assert not key.verify(method, path, [("X-Signature", header), *headers])

    @pytest.mark.parametrize(
        "header", ["", "x", "data=", "data=!", "data=YQ==;data=YQ==", "data=" + "A" * 9000, "data=é", ";;;=;"]
    )
    def test_that_is_malformed_is_not(self, tmp_path, pair, header):
        assert not PrivilegedKey(write(tmp_path, pair), ALL).verify("GET", "/v1/x", [("X-Signature", header)])

    def test_of_a_weak_hash_is_warned_about_or_refused(self, tmp_path, pair, signer, caplog):
        header = [("X-Signature", sign(signer, "GET,/v1/x", "SHA-1"))]
        assert PrivilegedKey(write(tmp_path, pair), ["sha1"]).verify("GET", "/v1/x", header)
        assert "signed with sha1, which is weak" in caplog.text
        assert not PrivilegedKey(write(tmp_path, pair), ["sha256"]).verify("GET", "/v1/x", header)

    @pytest.mark.parametrize("name", ["Date", "X-Docker-Date"])
    def test_is_bounded_by_a_date(self, tmp_path, pair, signer, name):
        clock = Clock(1_800_000_000.0)
        key, text = PrivilegedKey(write(tmp_path, pair), ALL, clock), formatdate(1_800_000_000.0, usegmt=True)
        message = "GET,/v1/x" + (f",X-Docker-Date:{text}" if name.startswith("X") else "")
        headers = [("X-Signature", sign(signer, message)), (name, text)]
        assert key.verify("GET", "/v1/x", headers)
        clock.now += MAX_AGE_SECONDS + 1
        assert not key.verify("GET", "/v1/x", headers)
        assert not key.verify("GET", "/v1/x", [headers[0], (name, "yesterday")])
        later = formatdate(clock.now, usegmt=True)
        is_signed = name == "X-Docker-Date"
        assert is_signed != key.verify("GET", "/v1/x", [headers[0], (name, later)])

    @pytest.mark.parametrize("zone", ["-0000", "GMT", "+0000"])
    def test_may_have_a_date_in_utc_in_each_form(self, tmp_path, pair, signer, zone, monkeypatch):
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            key = PrivilegedKey(write(tmp_path, pair), ALL, Clock(1_800_000_000.0))
            text = formatdate(1_800_000_000.0).replace("-0000", zone)
            assert key.verify("GET", "/v1/x", [("X-Signature", sign(signer, "GET,/v1/x")), ("Date", text)])
        finally:
            monkeypatch.undo()
            time.tzset()


class TestAKeyFile:
    def test_that_cannot_be_used_stops_the_start(self, tmp_path):
        path = tmp_path / "key.pem"
        small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        for content in (b"", b"-----BEGIN RSA PUBLIC KEY-----\nx\n-----END RSA PUBLIC KEY-----"):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match=r"key\.pem is not the PEM"):
                PrivilegedKey(path, ALL)
        write(tmp_path, ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(ConfigError, match="is not the PEM"):
            PrivilegedKey(path, ALL)
        PrivilegedKey(write(tmp_path, small), ALL)  # a key of 0.7's time
        for allowed in ([], ["sha3"]):
            with pytest.raises(ConfigError, match="privileged_key_hashes"):
                PrivilegedKey(path, allowed)


class TestASignedRequest:
    @pytest.fixture
    def app(self, tmp_path, pair):
        settings(tmp_path, "rules: []")
        section = Auth(htpasswd=tmp_path / "users", rules=tmp_path / "rules.yml")
        config = Config(storage="memory", auth=section, privileged_key=write(tmp_path, pair))
        return create_app(build(config, MemoryDriver())).test_client()

    def test_may_do_everything_by_api_v1_and_nothing_by_v2(self, app, signer):
        def ask(method, path, **options):
            header = sign(signer, f"{method},{path}")
            return app.open(path, method=method, headers={"X-Signature": header}, **options).status_code

        assert 401 == app.get(PATH).status_code
        assert 200 == ask("PUT", "/v1/repositories/acme/web/", data="[]")
        assert 200 == ask("GET", PATH)
        assert 404 == ask("GET", f"/v1/images/{'a' * 64}/json")
        assert 401 == ask("GET", "/v2/acme/web/tags/list")
        assert 401 == app.get(PATH, headers={"X-Signature": sign(signer, "GET,/v1/other")}).status_code
        assert 403 == app.get(PATH, headers={"X-Signature": "x"}, auth=("alice", "pw-alice")).status_code
