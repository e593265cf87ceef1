"""TLS of the server itself, with the clients that operators use."""

from __future__ import annotations

import http.client
import runpy
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest

from docker_registry.config.schema import load_config
from docker_registry.errors import ConfigError
from docker_registry.server import launch
from docker_registry.server.tls import ReloadedContext, make_context
from tests.support.certificates import Authority
from tests.support.clients import programs
from tests.support.clients.v2 import digest_of
from tests.support.images import make_image, read_layout, write_layout
from tests.support.servers.registry import Server, TlsServer
from tests.support.servers.template import ROOT
from tests.support.timing import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority):
    """A server that accepts TLS 1.3 only, and clients with a certificate only."""
    certificate, key = authority.issue("server")
    settings = {
        "REGISTRY_TLS_CERTIFICATE": str(certificate),
        "REGISTRY_TLS_KEY": str(key),
        "REGISTRY_TLS_MINIMUM_VERSION": "1.3",
        "REGISTRY_TLS_CLIENT_CA": str(authority.file),
    }
    with TlsServer(tmp_path_factory.mktemp("tls") / "store", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def identity(authority):
    """Options of curl for a client with a certificate."""
    certificate, key = authority.issue("alice")
    return ["--cacert", authority.file, "--cert", certificate, "--key", key]


def curl(*arguments):
    command = [programs.require("curl", "curl"), "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"]
    return subprocess.run([*command, *arguments], capture_output=True, timeout=60)


@pytest.fixture
def connect(server, authority):
    """Open a connection as a client with a certificate."""
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(*authority.issue("bob"))
    with ExitStack() as opened:

        def connect():
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
            connection.connect()
            opened.callback(connection.close)
            return connection

        yield connect


def serial(connection):
    return connection.sock.getpeercert()["serialNumber"]


def status_of(connection):
    connection.request("GET", "/v2/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


class TestAClientWithACertificate:
    def test_pushes_and_pulls_with_curl(self, server, identity, tmp_path):
        content = tmp_path / "content"
        content.write_bytes(b"by TLS" * 200_000)
        digest = digest_of(content.read_bytes())

        pushed = curl(*identity, "--data-binary", f"@{content}", f"{server.url}/v2/a/b/blobs/uploads/?digest={digest}")
        whole = curl(*identity, f"{server.url}/v2/a/b/blobs/{digest}")
        part = curl(*identity, "--range", "5-1000004", f"{server.url}/v2/a/b/blobs/{digest}")

        assert (0, content.read_bytes()) == (pushed.returncode, whole.stdout), pushed.stderr + whole.stderr
        assert content.read_bytes()[5:1000005] == part.stdout

    def test_pushes_and_pulls_with_skopeo(self, server, authority, tmp_path):
        skopeo = programs.Tool([programs.require("skopeo", "skopeo"), "--insecure-policy"])
        folder = tmp_path / "certificates"
        folder.mkdir()
        for source, name in zip(
            (authority.file, *authority.issue("carol")), ("ca.crt", "x.cert", "x.key"), strict=True
        ):
            shutil.copy(source, folder / name)
        image = make_image("by TLS")
        write_layout(tmp_path / "image", image, "1")
        name = f"docker://127.0.0.1:{server.port}/team/app:1"

        skopeo("copy", "--dest-cert-dir", folder, f"oci:{tmp_path}/image:1", name)
        skopeo("copy", "--src-cert-dir", folder, name, f"oci:{tmp_path}/pulled:1")

        assert image.contents == read_layout(tmp_path / "pulled")
        assert f"Listening at: {server.url}" in server.log.read_text()

    def test_that_sends_no_more_is_answered(self, server, authority):
        """RFC 8446, section 6.1: close_notify ends what the client sends, and not what it reads."""
        context = ssl.create_default_context(cafile=authority.file)
        context.load_cert_chain(*authority.issue("dave"))
        arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(arriving, leaving, server_hostname="localhost")

        def complete(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    if leaving.pending:
                        connection.sendall(leaving.read())
                    arriving.write(connection.recv(65536))

        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            complete(client.do_handshake)
            client.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            with suppress(ssl.SSLWantReadError):  # the server's close_notify
                client.unwrap()
            connection.sendall(leaving.read())
            connection.shutdown(socket.SHUT_WR)
            assert complete(lambda: client.read(65536)).startswith(b"HTTP/1.1 200 ")

    def test_that_is_the_health_check_of_the_image_needs_none(self, server, monkeypatch):
        monkeypatch.setenv("REGISTRY_PORT", str(server.port))
        assert runpy.run_path(str(ROOT / "contrib/image/healthcheck.py"))["is_alive"]()


class TestARejectedClient:
    def test_without_a_certificate(self, server, authority):
        assert 0 != curl("--cacert", authority.file, f"{server.url}/v2/").returncode

    def test_with_a_certificate_of_another_authority(self, server, authority, tmp_path):
        certificate, key = Authority(tmp_path, "other").issue("mallory")
        identity = ["--cacert", authority.file, "--cert", certificate, "--key", key]
        assert 0 != curl(*identity, f"{server.url}/v2/").returncode

    def test_with_an_older_version(self, server, identity):
        assert 0 != curl(*identity, "--tls-max", "1.2", f"{server.url}/v2/").returncode
        assert 0 == curl(*identity, f"{server.url}/v2/").returncode


class TestChangedFiles:
    def test_are_used_for_new_connections_while_old_ones_continue(self, connect, authority):
        old = connect()
        before = serial(old)
        assert 200 == status_of(old)

        authority.issue("server")

        assert before != serial(connect())
        assert 200 == status_of(old)

    def test_that_are_unusable_keep_the_last_ones_in_force(self, server, connect, authority):
        before = serial(connect())
        key = authority.file.with_name("server.key")
        valid = key.read_bytes()
        key.write_bytes(b"no key")
        try:
            for _ in range(2):
                connection = connect()
                assert (before, 200) == (serial(connection), status_of(connection))
        finally:
            key.write_bytes(valid)
        assert 1 == wait_until(lambda: server.log.read_text().count("The last usable TLS files stay in force."))


def settings(certificate=None, key=None, client_ca=None):
    return SimpleNamespace(
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        minimum_version="1.2",
        client_certificates="optional",
    )


class TestUnusableFiles:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("missing.crt", None, None), "tls.certificate: .*missing.crt cannot be read .*No such file"),
            (("one.crt", "missing.key", None), "tls.key: .*missing.key cannot be read"),
            (("one.crt", "two.key", None), "tls.key: .*two.key is not the key of .*one.crt"),
            (("empty", "one.key", None), "tls.certificate: .*empty with the key .*one.key is not a usable pair"),
            (("one.crt", "encrypted.key", None), "tls.key: .*encrypted.key is encrypted"),
            (("one.crt", None, None), "tls.key is not set, and .*one.crt contains no private key"),
            (("one.crt", "one.key", "empty"), "tls.client_ca: .*empty is not a PEM file of certificates"),
        ],
    )
    def test_are_named_with_the_reason(self, names, message, tmp_path):
        authority = Authority(tmp_path)
        _, key = authority.issue("one")
        authority.issue("two")
        (tmp_path / "empty").touch()
        openssl = ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", tmp_path / "encrypted.key"]
        subprocess.run(openssl, check=True, capture_output=True)

        with pytest.raises(ConfigError, match=message):
            make_context(settings(*(tmp_path / name if name else None for name in names)))

    def test_prevent_the_start(self, tmp_path):
        certificate, _ = Authority(tmp_path).issue("one")
        environment = {"REGISTRY_TLS_CERTIFICATE": str(certificate), "REGISTRY_TLS_KEY": str(tmp_path / "missing")}
        with pytest.raises(RuntimeError, match=r"tls\.key: .*missing cannot be read"):
            Server(tmp_path / "store", **environment).start()

    def test_that_are_also_passed_to_gunicorn_are_an_error(self, tmp_path):
        certificate, key = Authority(tmp_path).issue("one")
        environment = {"GUNICORN_OPTS": f"--certfile {certificate} --keyfile {key}"}
        with pytest.raises(ConfigError, match=r"either tls\.certificate or --certfile"):
            launch.check_options(environment, settings(certificate, key))

    @pytest.mark.parametrize("options", ["--certfile {key}", "--certfile {key}.missing", "--keyfile {key}"])
    def test_that_gunicorn_cannot_use_prevent_the_start(self, tmp_path, options):
        _, key = Authority(tmp_path).issue("one")
        with pytest.raises(ConfigError, match="--certfile and --keyfile cannot be used"):
            launch.check_options({"GUNICORN_OPTS": options.format(key=key)}, settings(None))

    def test_include_no_expired_certificate_of_which_only_the_check_warns(self, tmp_path, caplog):
        launch.check_options({}, settings(*Authority(tmp_path).issue("one")))
        expired = settings(*Authority(tmp_path).issue("old", days=-1))
        make_context(expired)
        assert not caplog.messages
        launch.check_options({}, expired)
        assert ["old.crt expired on" in message for message in caplog.messages] == [True]

    def test_are_an_error_without_a_certificate(self):
        with pytest.raises(ConfigError, match=r"tls\.key has no effect without tls\.certificate"):
            load_config({"REGISTRY_TLS_KEY": "/etc/key.pem"})


class TestTheContext:
    def test_is_created_again_only_if_a_file_changes(self, tmp_path):
        authority = Authority(tmp_path)
        context = ReloadedContext(settings(*authority.issue("one"), authority.file))
        first = wait_until(lambda: (found := context.get()) is context.get() and found)

        authority.issue("one")

        assert first is not context.get()

    def test_finds_the_key_in_the_file_of_the_certificate(self, tmp_path):
        certificate, key = Authority(tmp_path).issue("one")
        certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
        make_context(settings(certificate))
