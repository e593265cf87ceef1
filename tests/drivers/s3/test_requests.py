"""The signatures of small requests, and the connections on which they are sent."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import datetime, timezone
from http.client import HTTPException

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from docker_registry.drivers.s3.connections import Connections
from docker_registry.drivers.s3.signatures import RequestSigner
from tests.support.certificates import Authority

SETTINGS = {
    "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg==",
    "if-match": '"d41d8cd98f00b204e9800998ecf8427e"',
    "x-amz-server-side-encryption-aws-kms-key-id": " two  words ",
}


class TestASignature:
    @pytest.mark.parametrize("token", [None, "a/token+of=a role"])
    @pytest.mark.parametrize("host", ["127.0.0.1:8333", "bucket.s3.eu-west-1.amazonaws.com"])
    def test_is_that_of_botocore(self, host, token):
        credentials = Credentials("key", "secret", token)
        moments = []
        signer = RequestSigner(credentials, "eu-west-1", host, lambda: moments[-1])
        for method, path, headers in (
            ("PUT", "/lab/a%20b%2Bc~%C3%A9", SETTINGS),
            ("GET", "/lab/docker/registry", {}),
            ("DELETE", "/a", {"if-match": '"1"'}),
        ):
            expected = AWSRequest(method, f"https://{host}{path}", headers=dict(headers))
            expected.context["client_config"] = Config(s3={"payload_signing_enabled": False})
            S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(expected)
            date = datetime.strptime(expected.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
            moments.append(date.timestamp())
            assert expected.headers["Authorization"] == signer.sign(method, path, headers)["authorization"]

    def test_changes_with_the_day_and_the_credentials(self):
        moment = 1_800_000_000.0
        now = [moment]

        class Renewed(Credentials):
            def get_frozen_credentials(self):
                return keys[-1].get_frozen_credentials()

        keys = [Credentials("first", "one")]
        signer = RequestSigner(Renewed("", ""), "us-east-1", "host", lambda: now[0])
        first = signer.sign("GET", "/a", {})
        now[0] += 86400
        later = signer.sign("GET", "/a", {})
        keys.append(Credentials("second", "two"))
        renewed = signer.sign("GET", "/a", {})
        for made, key, at in ((first, keys[0], moment), (later, keys[0], now[0]), (renewed, keys[1], now[0])):
            assert made == RequestSigner(key, "us-east-1", "host", lambda at=at: at).sign("GET", "/a", {})


class Scripted:
    """A server that sends a prepared response to each request; an empty one closes the connection instead."""

    def __init__(self, *responses, context=None, host="127.0.0.1"):
        self._responses = list(responses)
        self._listener = socket.create_server((host, 0))
        self._context = context
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    @property
    def address(self):
        return self._listener.getsockname()

    def _serve(self):
        while self._responses:
            connection, _ = self._listener.accept()
            self.accepted += 1
            with connection:
                self._answer(connection)

    def _answer(self, connection):
        if self._context is not None:
            try:
                connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:
                self._responses.clear()
                return
        with connection:
            while self._responses and b"\r\n\r\n" in self._receive(connection):
                response = self._responses.pop(0)
                if not response:
                    return
                for part in response if isinstance(response, tuple) else (response,):
                    connection.sendall(part)
                if b"connection: close" in response:
                    return

    def _receive(self, connection):
        received = b""
        while b"\r\n\r\n" not in received and (block := connection.recv(65536)):
            received += block
        return received


def open_connections(server, ca_file=None):
    host, port = server.address
    return Connections(
        f"{'https' if ca_file else 'http'}://{host}:{port}",
        ca_file=ca_file,
        connect_seconds=60,
        read_seconds=60,
        max_idle=4,
    )


REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
SHORT = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 5\r\n\r\nshort'
CHUNKED = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


class TestAConnection:
    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            (SHORT, (200, b"short")),
            ((SHORT[:30], SHORT[30:-3], SHORT[-3:]), (200, b"short")),
            (b"HTTP/1.1 100 Continue\r\n\r\n" + SHORT, (200, b"short")),
            (CHUNKED, (404, b"abcde")),
            ((CHUNKED[:-9], CHUNKED[-9:]), (404, b"abcde")),
            (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
            (b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n", (503, b"")),
        ],
    )
    def test_is_used_again_after_a_complete_response(self, response, expected):
        with Scripted(response, SHORT) as server:
            connections = open_connections(server)
            answers = [connections.exchange("GET", REQUEST) for _ in range(2)]
            connections.close()
            assert [expected, (200, b"short")] == [(answer.status, answer.content) for answer in answers]
            assert ('"1"', 1) == (answers[1].headers["etag"], server.accepted)

    def test_is_used_again_after_a_response_to_head(self):
        with Scripted(SHORT[:-5], SHORT) as server:
            connections = open_connections(server)
            assert ("5", b"") == (connections.exchange("HEAD", REQUEST).headers["content-length"], b"")
            assert b"short" == connections.exchange("GET", REQUEST).content
            connections.close()
            assert 1 == server.accepted

    @pytest.mark.parametrize(
        "response",
        [
            SHORT.replace(b"200 OK", b"200 OK\r\nconnection: close"),
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nshort",
            b"HTTP/1.0 200 OK\r\nconnection: close\r\nContent-Length: 5\r\n\r\nshort",
        ],
    )
    def test_is_not_used_again_if_the_server_closes_it(self, response):
        with Scripted(response, SHORT) as server:
            connections = open_connections(server)
            assert [b"short"] * 2 == [connections.exchange("GET", REQUEST).content for _ in range(2)]
            connections.close()
            assert 2 == server.accepted

    def test_is_not_used_again_after_an_interim_response(self):
        with Scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n", SHORT) as server:
            connections = open_connections(server)
            assert 103 == connections.exchange("GET", REQUEST).status
            assert b"short" == connections.exchange("GET", REQUEST).content
            connections.close()
            assert 2 == server.accepted

    def test_is_not_used_again_if_the_server_closed_it_while_it_was_idle(self):
        with Scripted(SHORT, b"", SHORT) as server:
            connections = open_connections(server)
            connections.exchange("GET", REQUEST)
            with pytest.raises(OSError, match="no complete response"):
                connections.exchange("GET", REQUEST)
            assert b"short" == connections.exchange("GET", REQUEST).content
            connections.close()

    @pytest.mark.parametrize(
        "response", [SHORT[:-1], SHORT[:20], CHUNKED[:-9], SHORT + b"x", b"SSH-2.0-OpenSSH\r\n\r\n", b"\r\n\r\n"]
    )
    def test_never_returns_an_incomplete_response(self, response):
        with Scripted(response.replace(b"\r\n", b"\r\nconnection: close\r\n", 1), SHORT) as server:
            connections = open_connections(server)
            with pytest.raises((OSError, HTTPException)):
                connections.exchange("GET", REQUEST)
            assert b"short" == connections.exchange("GET", REQUEST).content
            connections.close()


class TestAConnectionWithTls:
    def test_needs_a_trusted_certificate_of_the_host(self, tmp_path):
        (tmp_path / "other").mkdir()
        authority, other = Authority(tmp_path), Authority(tmp_path / "other")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("store.test"))
        for ca_file, host, is_trusted in (
            (authority.file, "127.0.0.1", True),
            (other.file, "127.0.0.1", False),
            (authority.file, "127.0.0.2", False),
        ):
            with Scripted(SHORT, context=context, host=host) as server:
                connections = open_connections(server, str(ca_file))
                if is_trusted:
                    assert b"short" == connections.exchange("GET", REQUEST).content
                else:
                    with pytest.raises(Exception, match=r"certificate|doesn't match|not valid"):
                        connections.exchange("GET", REQUEST)
                connections.close()

    def test_is_not_used_again_if_more_than_the_response_was_decrypted(self, tmp_path):
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("store.test"))
        long = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20000)
        with Scripted(long + SHORT.replace(b"short", b"wrong"), SHORT, context=context) as server:
            connections = open_connections(server, str(authority.file))
            assert bytes(20000) == connections.exchange("GET", REQUEST).content
            assert b"short" == connections.exchange("GET", REQUEST).content
            connections.close()
