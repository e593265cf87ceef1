"""
Request heads as the registry and as gunicorn parse them: both make the same request of a head that the registry parses.

Any other head is gunicorn's, so nothing is accepted that gunicorn rejects.
"""

from __future__ import annotations

import socket

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser, wsgi
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.request_body import open_request_body
from docker_registry.server.request_head import CommonParts, HeadParser

PEER, SERVER = ("127.0.0.1", 40000), ("10.0.0.1", 5000)

#: What the requests of both may differ in.
OWN = {"_asks_to_close", "body", "environ", "req_number", "unreader"}
OWN_ENVIRON = {"wsgi.early_hints", "wsgi.errors", "wsgi.input"}


def head(line=b"GET /v2/ HTTP/1.1", *fields):
    return b"\r\n".join([line, *fields, b"", b""])


#: Heads that clients send, and what may follow them.
PARSED = [
    head(),
    head(b"GET /v2/ HTTP/1.1", b"Host: localhost:5000", b"User-Agent: curl/8", b"Accept: */*"),
    head(b"HEAD /v2/a/blobs/sha256:ab HTTP/1.1", b"host:x", b"AUTHORIZATION:\tBearer a.b-c_d"),
    head(b"GET / HTTP/1.1", b"Accept: a/b", b"Accept: c/d;q=0.5, e/f", b"accept:", b"X-A: \xe4\xff"),
    head(b"POST /v2/a/blobs/uploads/?mount=sha256:ab&from=b HTTP/1.1", b"Content-Length: 0"),
    head(b"GET /a%2Fb%20%e4;c=d//e? HTTP/1.1"),
    head(b"OPTIONS /?a?b/[c] HTTP/1.1", b"!#$%&'*+.^`|~: x"),
    head(b"GET /:a@b/../%zz HTTP/1.1", b"Connection: close"),
    head(b"GET / HTTP/1.1", b"Connection: Keep-Alive"),
    head(b"GET / HTTP/1.1", b"Connection: TE, close"),
    head(b"GET / HTTP/1.1", b"Upgrade: h2c", b"Upgrade: websocket", b"TE: trailers"),
    head(b"PUT / HTTP/1.1", b"Content-Length: 3", b"Content-Type: a/b") + b"abc",
    head(b"PUT / HTTP/1.1", b"Content-Length: 003") + b"abcGET / HTTP/1.1\r\n\r\n",
    head(b"PUT / HTTP/1.1", b"Content-Length: 10") + b"abc",
    head(b"PATCH / HTTP/1.1", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\nGET",
    head(b"PATCH / HTTP/1.1", b"transfer-encoding: Chunked") + b"3\r\nab",
    head(b"GET / HTTP/1.1") + head(b"GET /next HTTP/1.1"),
    head(b"DELETE / HTTP/1.1", *[b"A: b"] * 100),
    head(b"DELETE / HTTP/1.1", b"A: " + b"a" * 4000),
]  # fmt: skip

#: Heads that gunicorn decides about, whether it accepts them or not.
LEFT = [
    b"",
    b"\r\n" + head(),
    head()[:-1],
    head()[:-2],
    head(b"get / HTTP/1.1"),
    head(b"FOO / HTTP/1.1"),
    head(b"CONNECT a:1 HTTP/1.1"),
    head(b"OPTIONS * HTTP/1.1"),
    head(b"GET http://a/b HTTP/1.1"),
    head(b"GET //a/b HTTP/1.1"),
    head(b"GET /a#b HTTP/1.1"),
    head(b"GET /?a#b HTTP/1.1"),
    head(b"GET /\xe4 HTTP/1.1"),
    head(b"GET /a\x7f HTTP/1.1"),
    head(b"GET /a b HTTP/1.1"),
    head(b"GET  / HTTP/1.1"),
    head(b"GET / HTTP/1.0"),
    head(b"GET / HTTP/1.1 "),
    head(b"GET / http/1.1"),
    head(b"GET / HTTP/2.0"),
    head(b"GET /"),
    head(b"GET / HTTP/1.1", b"A b: c"),
    head(b"GET / HTTP/1.1", b"A : b"),
    head(b"GET / HTTP/1.1", b": b"),
    head(b"GET / HTTP/1.1", b"A"),
    head(b"GET / HTTP/1.1", b" A: b"),
    head(b"GET / HTTP/1.1", b"A: b", b" c"),
    head(b"GET / HTTP/1.1", b"A: b", b"\tc: d"),
    head(b"GET / HTTP/1.1", b"A: b "),
    head(b"GET / HTTP/1.1", b"A: \t"),
    head(b"GET / HTTP/1.1", b"A: b\0c"),
    head(b"GET / HTTP/1.1", b"A: b\x0bc"),
    head(b"GET / HTTP/1.1", b"A: b\x7f"),
    head(b"GET / HTTP/1.1", b"A: b\rC: d"),
    head(b"GET / HTTP/1.1", b"A: b\nC: d"),
    head().replace(b"\r\n", b"\n"),
    head(b"GET / HTTP/1.1", b"X_Forwarded_For: a"),
    head(b"GET / HTTP/1.1", b"Content_Length: 3"),
    head(b"GET / HTTP/1.1", b"\xc4: a"),
    head(b"GET / HTTP/1.1", b"Host: a", b"host: a"),
    head(b"GET / HTTP/1.1", b"Content-Type: a", b"Content-Type: a"),
    head(b"GET / HTTP/1.1", b"Connection: close", b"Connection: keep-alive"),
    head(b"PUT / HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3") + b"abc",
    head(b"PUT / HTTP/1.1", b"Expect: more"),
    head(b"PUT / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3") + b"abc",
    head(b"PUT / HTTP/1.1", b"Content-Length: 3, 3") + b"abc",
    *(head(b"PUT / HTTP/1.1", b"Content-Length: " + length) + b"abc" for length in
      (b"", b"+3", b"-3", b"3.0", b"0x3", b"1_0", b"\xb2", b"3 3", b"9" * 19, b"9" * 5000)),
    head(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3") + b"abc",
    head(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    *(head(b"PUT / HTTP/1.1", b"Transfer-Encoding: " + coding) + b"0\r\n\r\n" for coding in
      (b"", b"identity", b"gzip, chunked", b"chunked, chunked", b"xchunked", b"chunked;a=b", b'"chunked"')),
    head(b"GET / HTTP/1.1", b"X-Forwarded-Proto: https"),
    head(b"DELETE / HTTP/1.1", *[b"A: b"] * 101),
    head(b"DELETE / HTTP/1.1", b"A: " + b"a" * 9000),
    head(b"DELETE /" + b"a" * 9000 + b" HTTP/1.1"),
    head(b"DELETE / HTTP/1.1", b"A" * 65 + b": b"),
]  # fmt: skip

SCRAPS = [
    b"GET ", b"PUT /", b"/", b"?", b"#", b"%41", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b" ",
    b"\t", b":", b",", b"_", b"-", b"\0", b"\x7f", b"\xff", b"A: b\r\n", b"Host: a\r\n", b"Content-Length: 3\r\n",
    b"Content-Length", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"chunked", b"3", b"0\r\n\r\n", b"abc",
    b"Expect: 100-continue\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def client():
    """The socket of a client that sends no more."""
    server, client = socket.socketpair()
    client.close()
    with PlainSocket(server.family, server.type, server.proto, fileno=server.detach()) as made:
        yield made


@pytest.fixture(scope="module")
def compare(client):
    """Parse what was received by both; return whether the registry parsed it."""
    cfg = Config()
    parser = HeadParser(CommonParts(cfg, lambda: None), client, PEER, SERVER)

    def compare(received):
        request = parser.parse(received)
        if request is None:
            assert not client.has_next
            return False
        content = read(request.body)
        given_back = client.receive_head() if client.has_next else b""

        theirs = next(RequestParser(cfg, [received], PEER))
        theirs.proxy_protocol_info = {}
        environ = wsgi.create(theirs, client, PEER, SERVER, cfg)[1]
        environ["wsgi.multithread"] = True
        assert_equal(environ, request.environ, OWN_ENVIRON)
        assert_equal(vars(theirs), vars(request), OWN)
        assert content == read(open_request_body(theirs, client))
        assert given_back == theirs.unreader.take_buffered()
        assert request.should_close() or not theirs.should_close()
        return True

    return compare


def read(body):
    return type(body), body.length, body.read(), body.complete


def assert_equal(theirs, ours, different):
    assert {n: v for n, v in theirs.items() if n not in different} == {
        n: v for n, v in ours.items() if n not in different
    }


class TestAHead:
    @pytest.mark.parametrize("number", range(len(PARSED)))
    def test_of_a_usual_client_is_parsed_as_by_gunicorn(self, compare, number):
        assert compare(PARSED[number])

    @pytest.mark.parametrize("number", range(len(LEFT)))
    def test_of_another_kind_is_left_to_gunicorn(self, compare, number):
        assert not compare(LEFT[number])

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(PARSED),
        st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), st.sampled_from(SCRAPS)), max_size=3),
    )
    def test_that_is_parsed_is_accepted_by_gunicorn(self, compare, received, changes):
        for position, length, scrap in changes:
            received = received[:position] + scrap + received[position + length :]
        compare(received)
