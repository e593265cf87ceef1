"""Slow, silent and too many clients of a worker: over real sockets, plain and with TLS."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse

import pytest
import requests

from tests.support.clients.v2 import digest_of
from tests.support.peer_socket import is_open
from tests.support.servers.registry import COMMAND, Server
from tests.support.timing import wait_until

#: A silent client is disconnected after a second, and keep-alive ends after two.
IMPATIENT = "-k tests.support.impatient_worker.ImpatientWorker --keep-alive 2"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a certificate for the loopback address."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", *options, "-keyout", file, "-out", file.with_suffix(".crt")]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


class TlsServer(Server):
    """A server that is known to answer, though not in plain text."""

    def _wait(self):
        def answers():
            with suppress(OSError):
                hello(self).close()
                return True
            return False

        wait_until(answers, self.log.read_text)


def hello(server):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), timeout=60))


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("limits") / "store", GUNICORN_OPTS=IMPATIENT) as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory, certificate):
    options = f"{IMPATIENT} --certfile {certificate} --keyfile {certificate}"
    with TlsServer(tmp_path_factory.mktemp("tls") / "store", GUNICORN_OPTS=options) as server:
        server.url = f"https://127.0.0.1:{server.port}"
        yield server


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A worker with few connections."""
    with Server(tmp_path_factory.mktemp("narrow") / "store", GUNICORN_OPTS="--worker-connections 20") as server:
        yield server


@contextmanager
def connections():
    """A function that opens a connection, with TLS where the server has it."""
    with ExitStack() as opened:

        def connect(server):
            if server.url.startswith("https"):
                return opened.enter_context(hello(server))
            return opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))

        yield connect


@pytest.fixture
def connect():
    with connections() as connect:
        yield connect


def answer_of(connection):
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


def start_upload(connection):
    connection.sendall(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    return answer_of(connection)[1]["Location"]


def patch(location, length=1_000_000, content=b"x"):
    return f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + content


def wait_until_closed(connection):
    """Wait until the server closes a connection."""
    with suppress(ConnectionResetError, ssl.SSLError):
        while connection.recv(65536):
            pass


@contextmanager
def takes_time():
    """Assert that the server does something only when its timeout expires, counted from before it can begin."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began > 0.9


def never_sends(server, connect):
    with takes_time(), socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        wait_until_closed(connection)


def does_not_complete_its_handshake_or_head(server, connect):
    with takes_time(), socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"\x16\x03\x01\x02" if server.url.startswith("https") else b"GET /v2/ HTT")
        wait_until_closed(connection)


def is_silent_in_a_head(server, connect):
    with takes_time():
        connection = connect(server)
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: ")
        wait_until_closed(connection)


def is_silent_between_requests(server, connect):
    with takes_time():
        connection = connect(server)
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 200 == answer_of(connection)[0]
        wait_until_closed(connection)


def is_silent_in_a_body(server, connect):
    connection = connect(server)
    location = start_upload(connection)
    with takes_time():
        connection.sendall(patch(location))
        assert 400 == answer_of(connection)[0]


def does_not_read(server, connect):
    content = bytes(20_000_000)
    blob = f"/v2/a/blobs/{digest_of(content)}"
    connection = connect(server)
    path = f"/v2/a/blobs/uploads/?digest={digest_of(content)}"
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode())
    connection.sendall(content)
    assert 201 == answer_of(connection)[0]
    connection.sendall(f"GET {blob} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    wait_until(lambda: not is_open(connection))
    received = 0
    with suppress(ConnectionResetError, ssl.SSLError):
        while block := connection.recv(1_000_000):
            received += len(block)
    assert received < len(content)


SILENT_CLIENTS = [
    never_sends,
    does_not_complete_its_handshake_or_head,
    is_silent_in_a_head,
    is_silent_between_requests,
    is_silent_in_a_body,
    does_not_read,
]


@pytest.fixture(scope="module")
def silent_clients(plain_server, tls_server):
    """All of them on both servers at once, because each waits for seconds."""
    servers = {"plain": plain_server, "tls": tls_server}
    with connections() as connect, ThreadPoolExecutor(len(servers) * len(SILENT_CLIENTS)) as threads:
        yield {
            (kind, client): threads.submit(client, server, connect)
            for kind, server in servers.items()
            for client in SILENT_CLIENTS
        }


class TestASilentClient:
    """Over TLS as over plain connections."""

    @pytest.mark.parametrize("client", SILENT_CLIENTS, ids=lambda client: client.__name__)
    @pytest.mark.parametrize("kind", ["plain", "tls"])
    def test_is_disconnected(self, silent_clients, kind, client):
        silent_clients[kind, client].result()

    def test_leaves_no_traceback(self, silent_clients, plain_server, tls_server):
        for client in silent_clients.values():
            client.exception()
        assert "Traceback" not in plain_server.log.read_text() + tls_server.log.read_text()


class TestAClientThatSendsContinuously:
    """It uses all available time of a worker, and others are served meanwhile."""

    REQUESTS = b"".join(b"GET /v2/a/manifests/x%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(200))

    def test_requests(self, plain_server, connect):
        self.flood(plain_server, connect(plain_server), self.REQUESTS)

    def test_chunks_of_a_byte(self, plain_server, connect):
        connection = connect(plain_server)
        head = f"PATCH {start_upload(connection)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        self.flood(plain_server, connection, b"1\r\nx\r\n" * 10_000)

    def flood(self, server, connection, piece):
        connection.setblocking(False)
        over = threading.Event()

        def send():
            rest = b""
            while not over.is_set():
                try:
                    rest = rest or piece
                    rest = rest[connection.send(rest) :]
                    connection.recv(1 << 20)
                except BlockingIOError:
                    time.sleep(0.005)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            time.sleep(0.5)
            for _ in range(5):  # a client that waited for the end of the flood would wait for ever
                assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code
        finally:
            over.set()
            sending.join()


class TestTls:
    def test_serves_pushes_and_pulls(self, tls_server):
        content = b"by TLS" * 100_000
        with requests.Session() as session:
            session.verify = False
            session.trust_env = False
            with pytest.warns(match="Unverified"):
                url = f"{tls_server.url}/v2/a/blobs/uploads/?digest={digest_of(content)}"
                assert 201 == session.post(url, data=content, timeout=20).status_code
                for _ in range(2):  # the second response to HEAD comes from the response cache
                    found = session.head(f"{tls_server.url}/v2/a/blobs/{digest_of(content)}", timeout=20)
                    assert str(len(content)) == found.headers["Content-Length"]
                pulled = session.get(f"{tls_server.url}/v2/a/blobs/{digest_of(content)}", timeout=20)
                assert content == pulled.content
        assert "Traceback" not in tls_server.log.read_text()

    def test_rejects_plain_text_and_continues(self, tls_server):
        with socket.create_connection(("127.0.0.1", tls_server.port), timeout=60) as connection:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until_closed(connection)
        hello(tls_server).close()
        assert "Traceback" not in tls_server.log.read_text()


class TestAWorkerAtItsConnectionLimit:
    def test_cuts_slow_bodies_and_serves_new_clients(self, narrow, connect):
        slow = []
        for _ in range(40):
            connection = connect(narrow)
            slow.append(connection)
            connection.sendall(patch(start_upload(connection)))
        assert 200 == requests.get(f"{narrow.url}/v2/", timeout=20).status_code  # stalled bodies end after 30 seconds
        status, headers, content = answer_of(slow[0])
        assert (503, "5", True) == (status, headers["Retry-After"], b"TOOMANYREQUESTS" in content)

    def test_keeps_the_received_part_of_a_longer_body(self, narrow, connect):
        cut = {}
        for size in (100_000, 30_000, 17_000):  # the last one with short pieces, which the kernel collects
            connection = connect(narrow)
            cut[size] = start_upload(connection), connection
            connection.sendall(patch(cut[size][0], content=bytes(size - 16_000 if size < 20_000 else size)))
        time.sleep(1)
        for _ in range(16):
            connection.sendall(bytes(1000))
            time.sleep(0.25)  # until all are slow
        for _ in range(40):
            other = connect(narrow)
            other.sendall(patch(start_upload(other)))
        for size, (location, connection) in cut.items():
            status, headers, content = answer_of(connection)
            assert (503, "5") == (status, headers["Retry-After"]), content

            def kept(location=location):
                return requests.get(narrow.url + location, timeout=20).headers["Range"]

            wait_until(lambda size=size, kept=kept: kept() == f"0-{size - 1}", kept)


class TestTheLimitPerAddress:
    def test_rejects_one_connection_too_many(self, tmp_path, connect):
        with Server(tmp_path / "store", REGISTRY_MAX_CONNECTIONS_PER_ADDRESS="3") as server:
            for _ in range(3):
                connection = connect(server)
                connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
                assert 200 == answer_of(connection)[0]
            answer = requests.get(f"{server.url}/v2/", timeout=20)
            assert (429, "5") == (answer.status_code, answer.headers["Retry-After"])
            assert "TOOMANYREQUESTS" == answer.json()["errors"][0]["code"]
            connection.close()
            wait_until(lambda: requests.get(f"{server.url}/v2/", timeout=20).status_code == 200)


class TestSigterm:
    def test_does_not_wait_for_a_slow_body(self, tmp_path, connect):
        with Server(tmp_path / "store", GUNICORN_OPTS="-k tests.support.impatient_worker.ImpatientWorker") as server:
            connection = connect(server)
            connection.sendall(patch(start_upload(connection)))
            with takes_time():
                server.process.send_signal(signal.SIGTERM)
                while server.process.poll() is None:
                    time.sleep(0.3)
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        break
            server.process.wait(60)


class TestAServerWithoutKeepAlive:
    def test_closes_connections_that_are_silent_answered_or_send_a_long_head(self, tmp_path, connect):
        options = "-k tests.support.impatient_worker.ImpatientWorker --keep-alive 0"
        with Server(tmp_path / "store", GUNICORN_OPTS=options) as server:
            assert "close" == requests.get(f"{server.url}/v2/", timeout=20).headers["Connection"]
            long = connect(server)
            long.sendall(b"GET /v2/ HTTP/1.1\r\n" + b"".join(b"A%d: %060d\r\n" % (number, 0) for number in range(1100)))
            assert long.recv(100).startswith(b"HTTP/1.1 431 ")
            silent, slow = connect(server), connect(server)
            slow.sendall(b"GET /v2/ HTTP/1.1\r\nHost")
            assert b"" == silent.recv(1)
            assert b"" == slow.recv(1)


class TestTheLimitOfOpenFiles:
    def test_limits_the_connections(self, tmp_path, connect):
        program = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (230, 230)); "
        command = (*COMMAND[:2], program + COMMAND[2])
        with Server(tmp_path / "store", command=command) as server:
            for _ in range(100):
                connection = connect(server)
                connection.sendall(patch(start_upload(connection)))
            content = b"a blob" * 100_000
            url = f"{server.url}/v2/a/blobs/uploads/?digest={digest_of(content)}"
            assert 201 == requests.post(url, data=content, timeout=20).status_code
            assert "Too many open files" not in server.log.read_text()
            assert "The limit of open files allows only" in server.log.read_text()
            server.kill()  # rather than wait for the bodies
