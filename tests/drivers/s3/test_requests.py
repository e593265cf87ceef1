"""The signatures of small requests, and the connections on which they are sent."""

from __future__ import annotations

import ssl
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
from tests.support.servers.scripted import Scripted

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


LONG = bytes(range(256)) * 400
LONG_RESPONSE = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 102400\r\n\r\n' + LONG


def read_whole(download):
    return b"".join(iter(lambda: download.read(10_000), b""))


class TestADownload:
    @pytest.mark.parametrize(
        "response", [LONG_RESPONSE, (LONG_RESPONSE[:20], LONG_RESPONSE[20:70], LONG_RESPONSE[70:])]
    )
    def test_is_received_in_parts_and_its_connection_used_again(self, response):
        with Scripted(response, SHORT.replace(b"200", b"206"), SHORT.replace(b"5", b"0")[:-5], SHORT) as server:
            connections = open_connections(server)
            download = connections.download(REQUEST)
            assert (200, '"1"', len(LONG)) == (download.status, download.headers["etag"], download.remaining)
            assert (LONG, 0) == (read_whole(download), download.remaining)
            for status, content in ((206, b"short"), (200, b""), (200, b"short")):
                download = connections.download(REQUEST)
                assert (status, content) == (download.status, read_whole(download))
                download.close()
            connections.close()
            assert 1 == server.accepted

    def test_that_is_closed_early_closes_its_connection(self):
        with Scripted(LONG_RESPONSE, SHORT) as server:
            connections = open_connections(server)
            download = connections.download(REQUEST)
            assert download.read(10)
            download.close()
            assert b"short" == read_whole(connections.download(REQUEST))
            connections.close()
            assert 2 == server.accepted

    @pytest.mark.parametrize("response", [LONG_RESPONSE[:-1], LONG_RESPONSE[:70], SHORT + b"x"])
    def test_is_never_shorter_or_longer_than_announced(self, response):
        closing = response if response.startswith(SHORT) else response.replace(b" OK", b" OK\r\nconnection: close")
        with Scripted(closing, SHORT) as server:
            connections = open_connections(server)
            download = connections.download(REQUEST)
            with pytest.raises(OSError, match="response"):
                read_whole(download)
            assert b"short" == read_whole(connections.download(REQUEST))
            connections.close()
            assert 2 == server.accepted

    @pytest.mark.parametrize(
        "response",
        [
            b"",
            CHUNKED.replace(b"404 Not Found", b"200 OK"),
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + SHORT,
            b"HTTP/1.1 100 Continue\r\n\r\n" + SHORT,
            SHORT.replace(b"HTTP/1.1", b"HTTP/1.0"),
            SHORT.replace(b"Content-Length: 5", b"Content-Length: -5"),
            SHORT.replace(b"Content-Length: 5", b"X: 5"),
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ],
    )
    def test_is_refused_if_its_length_is_unknown(self, response):
        with Scripted(response, SHORT) as server:
            connections = open_connections(server)
            with pytest.raises((OSError, HTTPException)):
                connections.download(REQUEST)
            assert b"short" == read_whole(connections.download(REQUEST))
            connections.close()
            assert 2 == server.accepted

    @pytest.mark.parametrize("response", [SHORT.replace(b"200 OK", b"412 No"), CHUNKED.replace(b"404", b"503")])
    def test_is_a_whole_answer_if_it_is_an_error(self, response):
        with Scripted(response, SHORT) as server:
            connections = open_connections(server)
            assert connections.download(REQUEST).content in (b"short", b"abcde")
            assert b"short" == read_whole(connections.download(REQUEST))
            connections.close()
            assert 1 == server.accepted


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

    def test_receives_a_body_in_parts(self, tmp_path):
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("store.test"))
        with Scripted(LONG_RESPONSE, LONG_RESPONSE[:-1], SHORT, context=context) as server:
            connections = open_connections(server, str(authority.file))
            assert read_whole(connections.download(REQUEST)) == LONG
            download = connections.download(REQUEST)
            assert download.read(len(LONG))
            download.close()
            assert b"short" == read_whole(connections.download(REQUEST))
            connections.close()
            assert 2 == server.accepted

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
