"""The worker over real sockets: unusual clients, and the required behavior."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from http.client import HTTPResponse

import pytest
import requests

from tests.support.clients.v2 import digest_of
from tests.support.peer_socket import is_open, unread_bytes
from tests.support.servers.registry import Server
from tests.support.timing import quickest, wait_until

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
    """Open a connection to the server, or to another one."""
    opened = []

    def connect(server=server):
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


def get(path, *headers, method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def start_upload(server, name="a"):
    return requests.post(f"{server.url}/v2/{name}/blobs/uploads/", timeout=20).headers["Location"]


def size_of_upload(server, location):
    """Wait for the bytes of an upload, and return their number."""

    def received():
        answer = requests.get(server.url + location, timeout=20)
        return int(answer.headers["Range"].partition("-")[2])

    return wait_until(received) + 1


BLOB = f"/v2/a/blobs/{DIGEST}"


@pytest.fixture(scope="module")
def plain(server):
    """A server of the same store that does not let the kernel send files."""
    with Server(server.store, GUNICORN_OPTS="--no-sendfile") as plain:
        yield plain


@pytest.fixture(scope="module")
def impatient(server):
    """A server of the same store that disconnects silent clients after a second."""
    with Server(server.store, GUNICORN_OPTS="-k tests.support.impatient_worker.ImpatientWorker") as impatient:
        yield impatient


class TestAFile:
    @pytest.mark.parametrize(
        "part",
        [
            "bytes=0-",
            "bytes=5-",
            "bytes=-1",
            f"bytes=-{len(CONTENT)}",
            f"bytes=-{len(CONTENT) + 1}",
            f"bytes={len(CONTENT) - 1}-",
            f"bytes={len(CONTENT)}-",
            "bytes=0-99999999999",
            "bytes=1-0",
            "bytes=-0",
            "bytes=0-0,2-3",
            "bytes=x",
            "lines=1-2",
            "",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_is_sent_as_it_would_be_read(self, server, plain, method, part):
        def ask(server):
            answer = requests.request(method, server.url + BLOB, headers={"Range": part}, timeout=20)
            boundary = answer.headers["Content-Type"].partition("boundary=")[2]  # another one each time
            headers = {**answer.headers, "Date": "", "X-Request-Id": ""}
            if not boundary:
                return answer.status_code, headers, answer.content
            headers["Content-Type"] = headers["Content-Type"].replace(boundary, "")
            return answer.status_code, headers, answer.content.replace(boundary.encode(), b"")

        assert ask(plain) == ask(server)

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
        assert CONTENT == requests.get(server.url + BLOB, timeout=20).content
        assert CONTENT == answer_of(connection)[2]

    def test_may_lose_its_client_during_the_transfer(self, server, connect):
        for _ in range(20):
            connection = connect()
            connection.sendall(get(BLOB))
            connection.recv(1000)
            connection.close()
        assert 200 == requests.head(server.url + BLOB, timeout=20).status_code

    def test_that_became_shorter_ends_the_connection(self, server, connect, tmp_path):
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


class TestAResponse:
    def test_is_sent_in_one_segment(self, connect):
        connection = connect()
        for _ in range(3):
            connection.sendall(get("/v2/"))
            assert connection.recv(65536).endswith(b"\r\n\r\n{}\n")

    @pytest.mark.parametrize("method", ["HEAD", "PUT"])
    def test_without_a_body_is_not_delayed(self, connect, method):
        connection = connect()
        for _ in range(3):
            connection.sendall(get("/v2/", "Content-Length: 0", method=method))
            status, headers, body = answer_of(connection, method)
            assert (200 if method == "HEAD" else 405) == status
            assert (int(headers["Content-Length"]) if method != "HEAD" else 0) == len(body)


class TestAConnection:
    def test_continues_after_responses_without_a_body(self, server, connect):
        connection, upload = connect(), start_upload(server)
        connection.sendall(
            get(BLOB, method="HEAD")
            + get(upload)
            + get(BLOB, f'If-None-Match: "{DIGEST}"')
            + get("/v2/a/manifests/none", method="HEAD")
            + get("/v2/")
        )
        shared = _Shared(connection.makefile("rb"))
        methods = ["HEAD", "GET", "GET", "HEAD", "GET"]
        answers = [answer_of(shared, method) for method in methods]
        assert [200, 204, 304, 404, 200] == [answer[0] for answer in answers]
        assert [b"", b"", b"", b"", b"{}\n"] == [answer[2] for answer in answers]

    def test_that_sends_single_bytes_does_not_slow_others_down(self, server, connect):
        connection, upload = connect(), start_upload(server)
        connection.sendall(f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n".encode())
        for _ in range(12):  # a request that waited for the body would wait for ever
            connection.sendall(b"x")
            assert CONTENT == requests.get(server.url + BLOB, timeout=20).content
        assert 202 == answer_of(connection)[0]

    def test_with_a_late_tls_hello_is_answered_in_milliseconds(self, connect):
        connections = [connect() for _ in range(5)]
        time.sleep(1)

        def find_out():
            connection = connections.pop()
            connection.sendall(b"\x16")
            assert connection.makefile("rb").read().startswith(b"HTTP/1.0 400 Bad Request\r\n")

        assert quickest(find_out, len(connections)) < 0.5

    def test_serves_one_request_after_another(self, connect):
        connection = connect()
        for _ in range(3):
            connection.sendall(get("/v2/"))
            assert (200, b"{}\n") == answer_of(connection)[::2]

    def test_may_pipeline_requests(self, connect):
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
    def test_continues_after_a_body(self, connect, body):
        header, content = body
        connection = connect()
        path = f"/v2/a/blobs/uploads/?digest={digest_of(b'good bytes')}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode()
        connection.sendall(head + content + get("/v2/"))
        shared = _Shared(connection.makefile("rb"))
        assert [201, 200] == [answer_of(shared)[0] for _ in range(2)]

    def test_of_a_tls_client_is_answered_in_plain_text_and_closed_at_once(self, connect):
        def ask():
            connection = connect()
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
            # Go's clients, such as `docker manifest --insecure`, look for this before they fall back to plain HTTP.
            assert connection.makefile("rb").read().startswith(b"HTTP/1.0 400 Bad Request\r\n")

        assert quickest(ask) < 1

    def test_that_expects_it_receives_100_continue(self, connect):
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

    def test_whose_client_sends_no_more_is_answered(self, connect):
        connection = connect()
        connection.sendall(get("/v2/"))
        connection.shutdown(socket.SHUT_WR)
        assert 200 == answer_of(connection)[0]

    def test_that_is_idle_does_not_block_others(self, server, connect):
        for _ in range(100):
            connect()
        assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code


class _Shared:
    """One reader for several responses, which HTTPResponse would otherwise buffer separately."""

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


class TestATruncatedBody:
    @pytest.mark.parametrize(
        ("header", "wire"),
        [("Content-Length: 9", b"ab"), ("Transfer-Encoding: chunked", b"2\r\nab\r\n7\r\n")],
        ids=["length", "chunked"],
    )
    def test_keeps_its_received_part(self, server, connect, header, wire):
        upload, connection = start_upload(server), connect()
        connection.sendall(f"PATCH {upload} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode() + wire)
        connection.close()
        assert 2 == size_of_upload(server, upload)

    def test_keeps_its_received_part_after_a_reset(self, server, connect):
        upload, connection = start_upload(server), connect()
        connection.sendall(f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n".encode())
        connection.sendall(bytes(200_000))
        wait_until(lambda: 0 == unread_bytes(connection))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert 200_000 == size_of_upload(server, upload)


class TestAMalformedBody:
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_is_rejected_and_ends_the_connection(self, server, connect, method):
        upload, connection = start_upload(server), connect()
        path = f"{upload}?digest={digest_of(b'ab')}"
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"2\r\nabc\r\n0\r\n\r\n" + get("/v2/"))
        assert 400 == answer_of(connection)[0]
        assert b"" == connection.recv(1)
        assert 404 == requests.head(f"{server.url}/v2/a/blobs/{digest_of(b'ab')}", timeout=20).status_code

    def test_is_rejected_in_an_unsupported_transfer_coding(self, server, connect):
        upload, connection = start_upload(server), connect()
        connection.sendall(
            f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".encode()
        )
        status, headers, content = answer_of(connection)
        assert (400, "close", True) == (status, headers["Connection"], b"chunked" in content)


class TestAClientThatStopsSending:
    def test_in_a_body_is_disconnected_and_the_received_part_kept(self, impatient, connect):
        upload, connection = start_upload(impatient), connect(impatient)
        started = time.monotonic()
        connection.sendall(f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab".encode())
        assert 400 == answer_of(connection)[0]
        assert b"" == connection.recv(1)
        assert 0.8 < time.monotonic() - started
        assert 2 == size_of_upload(impatient, upload)

    def test_or_reading_is_disconnected(self, impatient, connect):
        content = os.urandom(20_000_000)
        requests.post(f"{impatient.url}/v2/a/blobs/uploads/?digest={digest_of(content)}", data=content, timeout=30)
        connection = connect(impatient)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(get(f"/v2/a/blobs/{digest_of(content)}"))
        received = len(connection.recv(100))
        wait_until(lambda: not is_open(connection))
        while block := connection.recv(1_000_000):
            received += len(block)
        assert received < len(content)
        assert "Traceback" not in impatient.log.read_text()

    def test_is_not_disconnected_while_it_sends_occasionally(self, impatient, connect):
        for _ in range(10):
            upload, connection = start_upload(impatient), connect(impatient)
            sent = [time.monotonic()]
            connection.sendall(f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n".encode())
            for _ in range(8):
                time.sleep(0.25)
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"x")
                sent.append(time.monotonic())
            status = answer_of(connection)[0]
            # On a busy machine the client may be silent for too long.
            if status == 202 or max(later - earlier for earlier, later in itertools.pairwise(sent)) < 0.5:
                break
        assert 202 == status


class TestAnUnreadBody:
    def test_is_answered_without_being_read(self, connect):
        connection = connect()
        head = f"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}\r\n\r\n"
        connection.sendall(head.encode() + bytes(200_000))
        status, headers, _ = answer_of(connection)
        assert (413, "close") == (status, headers["Connection"])
        try:
            assert b"" == connection.recv(1)
        except ConnectionResetError:
            pass

    def test_is_drained_if_short(self, connect):
        connection = connect()
        head = "PUT /v2/BAD/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + bytes(1000) + get("/v2/"))
        shared = _Shared(connection.makefile("rb"))
        assert [400, 200] == [answer_of(shared)[0] for _ in range(2)]


class TestTooManyHeaders:
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
    def test_are_rejected_without_an_internal_error(self, connect, head):
        connection = connect()
        connection.sendall(head)
        status = int(connection.recv(1000).split()[1])
        assert 400 <= status < 500

    def test_receive_the_response_although_they_are_not_read_completely(self, connect):
        connection = connect()
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2_000_000)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 431 ")


class TestManyConnections:
    def test_are_ended_if_idle_at_the_limit(self, server, connect):
        with Server(server.store, GUNICORN_OPTS="--worker-connections 20") as narrow:
            for _ in range(60):
                connection = connect(narrow)
                connection.sendall(get("/v2/"))
                assert 200 == answer_of(connection)[0]
            assert 200 == requests.get(f"{narrow.url}/v2/", timeout=20).status_code  # instead of in 75 seconds

    def test_leave_no_open_file_or_connection(self, server, connect):
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
        wait_until(lambda: files() <= before, lambda: (before, files()))


class TestARequestHead:
    """Tokens and ranges are long: 64 KiB are enough, and a head that does not end costs no more memory."""

    @pytest.mark.parametrize("count", [1, 8])
    def test_of_64_kib_is_answered(self, connect, count):
        connection = connect()
        lines = [f"X-Long-{number}: {'x' * ((65_300 // count) - 20)}" for number in range(count)]
        for _ in range(2):
            connection.sendall(get("/v2/", *lines))
            assert 200 == answer_of(connection)[0]

    @pytest.mark.parametrize("count", [1, 30])
    def test_that_is_longer_is_rejected(self, connect, count):
        connection = connect()
        lines = [f"X-Long-{number}: {'x' * (100_000 // count)}" for number in range(count)]
        connection.sendall(get("/v2/", *lines))
        assert 431 == answer_of(connection)[0]

    def test_may_be_followed_by_a_long_body(self, connect):
        connection = connect()
        lines = [f"Authorization: Bearer {'x' * 60_000}", f"Content-Length: {len(CONTENT)}"]
        connection.sendall(get(f"/v2/a/blobs/uploads/?digest={DIGEST}", *lines, method="POST") + CONTENT)
        assert 201 == answer_of(connection, "POST")[0]
        connection.sendall(get("/v2/"))
        assert 200 == answer_of(connection)[0]


class TestAConnectionToBeClosed:
    @pytest.mark.parametrize("words", ["close", "close, TE", "TE, Close", "keep-alive,close"])
    def test_is_closed_after_the_response(self, connect, words):
        for _ in range(2):
            connection = connect()
            connection.sendall(get("/v2/", f"Connection: {words}"))
            status, headers, _ = answer_of(connection)
            assert (200, "close") == (status, headers["Connection"])
            assert b"" == connection.recv(1)
