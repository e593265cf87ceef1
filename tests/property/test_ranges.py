"""
Generated requests for parts of blobs: the kernel sends the same bytes of a file as reading it, on every connection.

The same requests are sent to servers that cannot use sendfile: one configured to read files itself, one with TLS, and
one whose store has no files. All responses are equal, including every header.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.clients import programs
from tests.support.clients.v2 import Client, digest_of
from tests.support.multipart import parts_of
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

#: Sizes: empty, one byte, around multiples of a page, and more than the kernel sends in one call.
SIZES = [0, 1, 100, 4095, 4096, 65537, 300_001, 5 * 1024 * 1024 + 17]

#: Headers that depend on the time or the server.
OTHERS = {"Date", "Server", "X-Docker-Registry-Config", "X-Request-Id"}

CONTENTS = [random.Random(size).randbytes(size) for size in SIZES]


#: Ranges that are not supported.
GARBAGE = ["bytes=0-0,2-3,x", "bytes=0-0,-", "lines=1-2", "bytes", "bytes=", "bytes=a-b", "", "0-1", "bytes=1-2-3"]
GARBAGE += ["bytes=--1", "bytes=0x1-2", "bytes=1.5-2", "bytes=+1-2", "bytes=1-" + "9" * 30]


class TlsServer(Server):
    """The same, for clients that use TLS and accept any certificate."""

    def __init__(self, store, certificate, **environment):
        options = f"--certfile {certificate} --keyfile {certificate}"
        super().__init__(store, GUNICORN_OPTS=options, **environment)

    def _wait(self):
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"https://127.0.0.1:{self.port}/v2/", timeout=5, context=_trusting()).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"the server does not answer:\n{self.log.read_text()[-4000:]}")


def _trusting():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A server that lets the kernel send files first, and then those that do not."""
    folder = tmp_path_factory.mktemp("ranges")
    openssl, certificate = programs.require("openssl", "openssl"), folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-keyout", str(certificate), "-out", str(folder / "public.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    with certificate.open("ab") as together:
        together.write((folder / "public.pem").read_bytes())
    store = folder / "store"
    with (
        Server(store) as kernel,
        Server(store, GUNICORN_OPTS="--no-sendfile") as reading,
        TlsServer(store, certificate) as tls,
        Server(folder / "none", SETTINGS_FLAVOR="memory") as memory,
    ):
        for server in (kernel, memory):
            with Client(server.url) as client:
                for content in CONTENTS:
                    client.push_blob("a", content, "put")
        yield [kernel, reading, tls, memory]


class Connection:
    """One connection for any number of requests; bytes received ahead of a response are kept."""

    def __init__(self, server, receive_bytes=None):
        """
        Args:
            receive_bytes: size of the receive buffer; a small one blocks the server in the middle of a response.
        """
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.port))
        if isinstance(server, TlsServer):
            self.socket = _trusting().wrap_socket(self.socket)
        self._reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.close()
        self.socket.close()

    def send(self, *wanted):
        self.socket.sendall(b"".join(each.wire for each in wanted))

    def receive(self, method):
        answer = HTTPResponse(self, method=method)
        answer.begin()
        headers = {name: value for name, value in answer.getheaders() if name not in OTHERS}
        return answer.status, headers, answer.read()

    def makefile(self, *_):
        """The stream from which a response is read; closing it keeps the connection."""
        return _Open(self._reader)


class _Open:
    def __init__(self, reader):
        self._reader = reader

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def close(self):
        pass


@dataclass(frozen=True)
class Wanted:
    """A request for a blob, or a part of it."""

    method: str
    content: bytes
    headers: tuple[str, ...]

    @property
    def wire(self):
        head = [f"{self.method} /v2/a/blobs/{digest_of(self.content)} HTTP/1.1", "Host: x", *self.headers, "", ""]
        return "\r\n".join(head).encode("latin-1")


def expected(wanted, unit, first, last):
    """The status and content of the response, computed from the bytes of the file (RFC 9110, section 14)."""
    content, whole = wanted.content, (200, wanted.content)
    if unit is None or (first is None and last is None) or not content:
        return whole
    if first is None:
        return (206, content[-last:]) if last and content else (416, None)
    part = content[first:] if last is None else content[first : last + 1]
    return (206, part) if part else (416, None)


def expected_parts(content, ranges):
    """The parts of the response, computed byte by byte."""
    positions = [range(len(content))[slice(first, None if last is None else last + 1)] for first, last in ranges]
    sets = []
    for wanted in filter(None, positions):
        overlapping = [each for each in sets if wanted.start < each.stop and each.start < wanted.stop]
        joined = range(min(each.start for each in [wanted, *overlapping]), max(e.stop for e in [wanted, *overlapping]))
        place = sets.index(overlapping[0]) if overlapping else len(sets)
        sets = [each for each in sets if each not in overlapping]
        sets.insert(place, joined)
    return [(each.start, content[each.start : each.stop]) for each in sets]


@st.composite
def requests_for_several_parts(draw):
    """A request for several ranges, and the parts of its response."""
    content = draw(st.sampled_from(CONTENTS[2:]))
    size = len(content)
    first = st.integers(0, size + 2)
    ranges = draw(st.lists(st.tuples(first, st.integers(0, min(size, 9000))), min_size=2, max_size=40))
    ranges = [(start, start + more) for start, more in ranges]
    text = ",".join(f"{start}-{end}" for start, end in ranges)
    return Wanted("GET", content, (f"Range: bytes={text}",)), expected_parts(content, ranges)


@st.composite
def requests_for_parts(draw):
    """A request, its status, and the content of its response; None for that of an error."""
    content = draw(st.sampled_from(CONTENTS))
    size = len(content)
    near = st.sampled_from([0, 1, size // 2, size - 1, size, size + 1, 4096, 65536]).map(lambda number: max(number, 0))
    numbers = st.integers(0, size) | near | st.integers(0, 10**17)
    first, last = draw(st.none() | numbers), draw(st.none() | numbers)
    unit = "bytes"
    text = f"{draw(st.sampled_from(['bytes', 'bytes', 'bytes', 'Bytes']))}={_text(first)}-{_text(last)}"
    if draw(st.integers(0, 4)) == 0:  # no range that is supported
        unit = None
        text = draw(st.sampled_from(GARBAGE) | st.text("bytes=-0123456789, ;x\xff", max_size=20).filter(_is_garbage))
    headers = [f"Range: {text}"] if draw(st.integers(0, 9)) else []
    if not headers:
        unit = None
    validator = draw(st.sampled_from([None, None, f'"{digest_of(content)}"', '"other"', f'W/"{digest_of(content)}"']))
    if validator is not None:
        headers.append(f"If-Range: {validator}")
        unit = unit if validator == f'"{digest_of(content)}"' else None
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD"]))
    wanted = Wanted(method, content, tuple(headers))
    if method == "HEAD":
        return wanted, 200, b""
    return wanted, *expected(wanted, unit, first, last)


def _text(number):
    return "" if number is None else str(number)


def _is_garbage(text):
    """Whether a server may ignore the range, because parsers differ about spaces."""
    unit, _, part = text.strip(" ").partition("=")
    first, dash, last = part.partition("-")
    return not (unit == "bytes" and dash and all(not each or each.isdigit() for each in (first, last)))


def bounded(examples):
    return settings(
        max_examples=examples,
        derandomize=bool(os.environ.get("CI")),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class TestEveryPartOfAFile:
    def test_is_served_over_one_persistent_connection(self, servers):
        """Also if the next request is sent before the response, and if the client reads slowly."""
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(Connection(server)) for server in servers]
            connections.append(stack.enter_context(Connection(servers[0], receive_bytes=4096)))

            @bounded(50)
            @given(st.lists(requests_for_parts(), min_size=1, max_size=3), st.booleans())
            def run(cases, is_pipelined):
                answers = [ask(connection, cases, is_pipelined) for connection in connections]
                for (wanted, status, content), (answered, headers, got) in zip(cases, answers[0], strict=True):
                    assert (status, wanted) == (answered, wanted)
                    if content is not None:
                        assert content == got
                    if wanted.method == "HEAD":
                        assert len(wanted.content) == int(headers["Content-Length"])
                for others in answers[1:]:
                    assert answers[0] == others

            run()


class TestSeveralPartsOfAFile:
    def test_are_the_same_from_every_server(self, servers):
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(Connection(server)) for server in servers]
            connections.append(stack.enter_context(Connection(servers[0], receive_bytes=4096)))

            @bounded(25)
            @given(requests_for_several_parts())
            def run(case):
                wanted, parts = case
                for connection in connections:
                    connection.send(wanted)
                    status, headers, body = connection.receive("GET")
                    if not parts:
                        assert 416 == status
                    elif len(parts) == 1:
                        assert (206, parts[0][1]) == (status, body)
                    else:
                        assert (206, parts) == (status, parts_of(headers["Content-Type"], body))

            run()

    def test_have_the_length_of_their_body_in_the_access_log(self, servers):
        with Connection(servers[0]) as connection:
            connection.send(Wanted("GET", CONTENTS[-1], ("Range: bytes=0-1,100000-200000", "User-Agent: several")))
            _, headers, body = connection.receive("GET")
        wait_until(lambda: "several" in servers[0].log.read_text())
        (line,) = [line for line in servers[0].log.read_text().splitlines() if "several" in line]
        assert len(body) == int(headers["Content-Length"])
        assert f" 206 {len(body)} " in line


def ask(connection, cases, is_pipelined):
    """Send requests, all at once or one after another, and return their responses."""
    if is_pipelined:
        connection.send(*(wanted for wanted, *_ in cases))
        return [connection.receive(wanted.method) for wanted, *_ in cases]
    answers = []
    for wanted, *_ in cases:
        connection.send(wanted)
        answers.append(connection.receive(wanted.method))
    return answers


def open_files(server):
    (pid,) = server.pids
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class TestAClientThatDisconnects:
    @pytest.mark.parametrize("number", range(3), ids=["kernel", "reading", "tls"])
    def test_in_the_middle_of_a_part_leaks_nothing(self, servers, number):
        server, source = servers[number], random.Random(number)
        with Connection(server) as connection:
            connection.send(whole := Wanted("GET", CONTENTS[-1], ()))
            connection.receive("GET")
            time.sleep(0.5)  # connections of the previous test
            before = open_files(server)
            for _ in range(60):
                with Connection(server, source.choice([4096, None])) as leaving:
                    size = source.choice([len(CONTENTS[-1]), 300_000])
                    part = Wanted("GET", CONTENTS[-1], (f"Range: bytes={source.randrange(1000)}-{size}",))
                    leaving.send(part, *[whole] * source.randint(0, 1))
                    leaving.socket.recv(source.choice([1, 1000, 100_000]))
                    if source.random() < 0.5:  # by a reset
                        leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wait_until(lambda: before == open_files(server), lambda: (before, open_files(server)))
            connection.send(whole)
            assert CONTENTS[-1] == connection.receive("GET")[2]
        assert "Traceback" not in server.log.read_text()
