"""The worker over real sockets: what clients do to a server, and what it must do all the same."""

from __future__ import annotations

import os
import socket
import threading
import time
from http.client import HTTPResponse

import pytest
import requests

from tests.client import digest_of
from tests.server import Server

CONTENT = os.urandom(3 * 1024 * 1024 + 17)
DIGEST = digest_of(CONTENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("worker") / "store") as server:
        pushed = requests.post(f"{server.url}/v2/a/blobs/uploads/?digest={DIGEST}", data=CONTENT, timeout=30)
        assert 201 == pushed.status_code
        yield server


@pytest.fixture
def connect(server):
    """Open a connection to the server."""
    opened = []

    def connect():
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def answer_of(connection, method="GET"):
    answer = HTTPResponse(connection, method=method)
    answer.begin()
    return answer.status, answer.headers, answer.read()


def get(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


BLOB = f"/v2/a/blobs/{DIGEST}"


class TestAFile:
    @pytest.mark.parametrize(
        ("first", "last"), [(0, 0), (0, len(CONTENT) - 1), (1, 2), (1048575, 1048577), (4096, 3_000_000)]
    )
    def test_is_sent_in_every_part(self, server, first, last):
        answer = requests.get(server.url + BLOB, headers={"Range": f"bytes={first}-{last}"}, timeout=20)
        assert (206, CONTENT[first : last + 1]) == (answer.status_code, answer.content)

    def test_is_sent_to_a_client_that_reads_slowly(self, server, connect):
        connection = connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(get(BLOB))
        time.sleep(0.3)
        started = time.monotonic()
        assert CONTENT == requests.get(server.url + BLOB, timeout=20).content
        assert time.monotonic() - started < 5
        assert CONTENT == answer_of(connection)[2]

    def test_may_lose_its_client_in_the_middle(self, server, connect):
        for _ in range(20):
            connection = connect()
            connection.sendall(get(BLOB))
            connection.recv(1000)
            connection.close()
        assert 200 == requests.head(server.url + BLOB, timeout=20).status_code

    def test_that_is_shorter_than_it_was_ends_the_connection(self, server, connect, tmp_path):
        content = os.urandom(20_000_000)
        requests.post(f"{server.url}/v2/a/blobs/uploads/?digest={digest_of(content)}", data=content, timeout=30)
        hexadecimal = digest_of(content).partition(":")[2]
        data = server.store / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        connection = connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(get(f"/v2/a/blobs/{digest_of(content)}"))
        connection.recv(100)
        os.truncate(data, 100)
        received = 100
        while block := connection.recv(1_000_000):
            received += len(block)
        assert received < len(content)


class TestAConnection:
    def test_is_used_for_one_request_after_the_other(self, connect):
        connection = connect()
        for _ in range(3):
            connection.sendall(get("/v2/"))
            assert (200, b"{}\n") == answer_of(connection)[::2]

    def test_may_carry_requests_before_their_answers(self, connect):
        connection = connect()
        connection.sendall(get("/v2/") + get(BLOB, "Range: bytes=0-4") + get("/v2/"))
        reader = connection.makefile("rb")
        shared = _Shared(reader)
        assert [200, 206, 200] == [answer_of(shared)[0] for _ in range(3)]

    @pytest.mark.parametrize(
        "body",
        [
            (f"Content-Length: {len(b'good bytes')}", b"good bytes"),
            ("Transfer-Encoding: chunked", b"4\r\ngood\r\n6;x=y\r\n bytes\r\n0\r\nTrailer: x\r\n\r\n"),
        ],
        ids=["length", "chunked"],
    )
    def test_goes_on_after_a_body(self, connect, body):
        header, content = body
        connection = connect()
        path = f"/v2/a/blobs/uploads/?digest={digest_of(b'good bytes')}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode()
        connection.sendall(head + content + get("/v2/"))
        shared = _Shared(connection.makefile("rb"))
        assert [201, 200] == [answer_of(shared)[0] for _ in range(2)]

    def test_of_a_tls_client_is_answered_in_plain_text_and_closed_at_once(self, connect):
        connection = connect()
        started = time.monotonic()
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
        # What Go's clients look for before they turn to plain HTTP, `docker manifest --insecure` for one.
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert time.monotonic() - started < 1

    def test_that_expects_it_is_told_to_continue(self, connect):
        connection = connect()
        path = f"/v2/a/blobs/uploads/?digest={digest_of(b'x')}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"x")
        assert 201 == answer_of(connection)[0]

    def test_of_http_1_0_is_answered_and_closed(self, connect):
        connection = connect()
        connection.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert 200 == answer_of(connection)[0]
        assert b"" == connection.recv(1)

    def test_that_is_idle_does_not_keep_others_from_theirs(self, server, connect):
        for _ in range(100):
            connect()
        assert 200 == requests.get(f"{server.url}/v2/", timeout=5).status_code


class _Shared:
    """One reader for several answers, which HTTPResponse would otherwise each buffer for itself."""

    def __init__(self, reader):
        self.reader = reader

    def makefile(self, *_):
        return _Open(self.reader)


class _Open:
    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def close(self):
        pass


class TestABodyThatNobodyWants:
    def test_is_answered_without_being_read(self, connect):
        connection = connect()
        head = f"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}\r\n\r\n"
        started = time.monotonic()
        connection.sendall(head.encode() + bytes(200_000))
        status, headers, _ = answer_of(connection)
        assert (413, "close") == (status, headers["Connection"])
        try:
            assert b"" == connection.recv(1)
        except ConnectionResetError:
            pass
        assert time.monotonic() - started < 5

    def test_is_read_away_when_it_is_short(self, connect):
        connection = connect()
        head = "PUT /v2/BAD/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + bytes(1000) + get("/v2/"))
        shared = _Shared(connection.makefile("rb"))
        assert [400, 200] == [answer_of(shared)[0] for _ in range(2)]


class TestABombOfHeaders:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /v2/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
            b"GET /v2/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"\xff\xfe\xfd\r\n\r\n",
        ],
        ids=["url", "value", "many", "not-ascii", "length", "two-lengths", "nonsense"],
    )
    def test_is_refused_and_never_a_mistake_of_ours(self, connect, head):
        connection = connect()
        connection.sendall(head)
        status = int(connection.recv(1000).split()[1])
        assert 400 <= status < 500


class TestManyConnections:
    def test_leave_no_file_and_no_connection_behind(self, server, connect):
        worker = server.worker_pids()[0]

        def files():
            return len(os.listdir(f"/proc/{worker}/fd"))

        requests.get(f"{server.url}/v2/", headers={"Connection": "close"}, timeout=20)
        time.sleep(0.5)
        before = files()

        def use(number):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                if number % 4 == 0:
                    connection.sendall(get(BLOB))
                    connection.recv(100)
                elif number % 4 == 1:
                    connection.sendall(
                        b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"
                    )
                elif number % 4 == 2:
                    connection.sendall(b"\x16\x03\x01")
                else:
                    connection.sendall(get("/v2/", "Connection: close"))
                    answer_of(connection)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(100):
            if files() <= before:
                break
            time.sleep(0.1)
        assert files() <= before
