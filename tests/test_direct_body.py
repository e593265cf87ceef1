"""Bodies received straight from the socket, against gunicorn's own reader as the judge."""

from __future__ import annotations

import io
import re

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import ParseException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_registry.direct_body import ChunkedBody, LengthBody, direct_body

CONFIG = Config()
CHUNKED = b"Transfer-Encoding: chunked"


class Pieces:
    """A connection from which bytes come in pieces of given sizes, and then no more."""

    def __init__(self, content, sizes):
        self.stream = io.BytesIO(content)
        self.sizes = list(sizes) or [65536]
        self.turn = 0

    def recv(self, most):
        return self.stream.read(min(self._size(), most))

    def recv_into(self, buffer):
        return self.stream.readinto(buffer[: self._size()])

    def _size(self):
        self.turn += 1
        return self.sizes[self.turn % len(self.sizes)]


def receive(header, wire, sizes):
    """A request as gunicorn parses it, and its connection."""
    connection = Pieces(b"PATCH / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n" + wire, sizes)
    return next(RequestParser(CONFIG, connection, ("127.0.0.1", 1))), connection


def read_ours(header, wire, sizes, buffer_bytes=100):
    """Return the content, and the bytes that belong to the next request; None for them when the body has no end."""
    request, connection = receive(header, wire, sizes)
    body = direct_body(request, connection)
    content, buffer = b"", memoryview(bytearray(buffer_bytes))
    while filled := body.readinto(buffer):
        content += bytes(buffer[:filled])
    assert body.complete != body.failed
    assert 0 == body.readinto(buffer)
    return content, request.unreader.take_buffered() + connection.stream.read() if body.complete else None


def read_theirs(header, wire, sizes):
    """The same by gunicorn; of a body that has no end it returns nothing, of a short one all that came."""
    request, connection = receive(header, wire, sizes)
    try:
        content = request.body.read()
    except (OSError, ParseException):
        return b"", None
    rest = request.unreader.take_buffered() + connection.stream.read()
    announced = re.search(rb"Content-Length: (\d+)", header)
    return content, None if announced and len(content) < int(announced[1]) else rest


SIZES = st.lists(st.integers(1, 40), max_size=6)
BUFFERS = st.integers(1, 100)
NEXT = st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"x"])
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b' ; a="b c"', b"\t;x=y;z", b' ; a = "\\"\xff" ; b'])
TRAILERS = st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"])

#: What chunks are made of: in any order they are mostly wrong, and now and then surprisingly right.
SCRAPS = st.sampled_from(
    [b"\r\n"] * 6 + [b"0", b"0\r\n\r\n", b"1", b"2", b"a", b"A", b"1\r\nx\r\n", b"\r", b"\n", b";", b";a", b"=", b'"']
    + [b'"b"', b" ", b"\t", b":", b"A: b", b"\\", b"\x00", b"\x7f", b"\xff", b"x", b"g", b"-", b"+1", b"0x1", b"_"]
)  # fmt: skip


@st.composite
def chunked(draw):
    """A chunked body as it goes over the wire, and its content."""
    wire, content = b"", b""
    for chunk in draw(st.lists(st.binary(min_size=1, max_size=90), max_size=6)):
        size = b"%x" % len(chunk) if draw(st.booleans()) else b"0%X" % len(chunk)
        wire += size + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
        content += chunk
    return wire + b"0" + draw(EXTENSIONS) + b"\r\n" + draw(TRAILERS) + b"\r\n", content


def bounded(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check_well_formed(examples):
    @bounded(examples)
    @given(chunked(), NEXT, SIZES, BUFFERS)
    def run(body, rest, sizes, buffer_bytes):
        wire, content = body
        assert (content, rest) == read_ours(CHUNKED, wire + rest, sizes, buffer_bytes)
        assert (content, rest) == read_theirs(CHUNKED, wire + rest, sizes)

    run()


def check_cut_off(examples):
    @bounded(examples)
    @given(chunked(), SIZES, BUFFERS, st.data())
    def run(body, sizes, buffer_bytes, data):
        wire, content = body
        cut = data.draw(st.integers(0, len(wire) - 1))
        got, rest = read_ours(CHUNKED, wire[:cut], sizes, buffer_bytes)
        assert content.startswith(got)
        assert rest is None
        assert (b"", None) == read_theirs(CHUNKED, wire[:cut], sizes)

    run()


def check_damaged(examples):
    """Wherever something is put in, left out or written over, both take it in the same way or both refuse it."""

    @bounded(examples)
    @given(chunked(), NEXT, SIZES, BUFFERS, st.data())
    def run(body, rest, sizes, buffer_bytes, data):
        wire = body[0] + rest
        start = data.draw(st.integers(0, len(wire)))
        wire = wire[:start] + data.draw(SCRAPS | st.just(b"")) + wire[start + data.draw(st.integers(0, 3)) :]
        check_alike(wire, sizes, buffer_bytes)

    run()


def check_scraps(examples):
    @bounded(examples)
    @given(st.lists(SCRAPS, max_size=16).map(b"".join), SIZES, BUFFERS)
    def run(wire, sizes, buffer_bytes):
        check_alike(wire, sizes, buffer_bytes)

    run()


def check_alike(wire, sizes, buffer_bytes):
    ours, theirs = read_ours(CHUNKED, wire, sizes, buffer_bytes), read_theirs(CHUNKED, wire, sizes)
    if ours[1] is None:
        assert theirs == (b"", None)
    else:
        assert theirs == ours


def check_length(examples):
    @bounded(examples)
    @given(st.binary(max_size=300), NEXT, SIZES, BUFFERS, st.integers(0, 50))
    def run(content, rest, sizes, buffer_bytes, missing):
        header = b"Content-Length: %d" % (len(content) + missing)
        wire = content if missing else content + rest
        expected = (content, None if missing else rest)
        assert expected == read_ours(header, wire, sizes, buffer_bytes)
        assert expected == read_theirs(header, wire, sizes)

    run()


class TestABodyIsReadAsGunicornReadsIt:
    def test_in_chunks(self):
        check_well_formed(1000)

    def test_of_a_known_length(self):
        check_length(700)

    def test_and_refused_where_it_is_cut_off(self):
        check_cut_off(700)

    def test_and_refused_where_it_is_damaged(self):
        check_damaged(1000)

    def test_or_refused_when_it_is_nonsense(self):
        check_scraps(1000)

    @pytest.mark.slow
    def test_a_million_times(self):
        check_well_formed(200_000)
        check_length(100_000)
        check_cut_off(150_000)
        check_damaged(300_000)
        check_scraps(250_000)


class TestAChunkedBody:
    WIRE = b"4;x=y\r\ngood\r\n6\r\n bytes\r\n0\r\nA: b\r\n\r\n"

    def test_is_the_same_wherever_it_is_torn(self):
        for first in range(1, len(self.WIRE)):
            for second in (1, 3, 100):
                for buffer_bytes in (1, 2, 100):
                    assert (b"good bytes", b"N") == read_ours(
                        CHUNKED, self.WIRE + b"N", [second, first, second], buffer_bytes
                    )

    def test_is_incomplete_wherever_it_ends_early(self):
        for end in range(len(self.WIRE)):
            assert read_ours(CHUNKED, self.WIRE[:end], [100])[1] is None

    @pytest.mark.parametrize(
        "wire",
        [
            b"x\r\n",
            b"\r\n",
            b"-1\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1;\r\na\r\n0\r\n\r\n",
            b"1;a=\r\na\r\n0\r\n\r\n",
            b"1;a\rb\r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: \x00\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
        ],
    )
    def test_that_is_malformed_is_refused_as_by_gunicorn(self, wire):
        for sizes in ([100], [1]):
            assert read_ours(CHUNKED, wire, sizes)[1] is None
            assert read_theirs(CHUNKED, wire, sizes)[1] is None

    @pytest.mark.parametrize(
        "wire",
        [
            b"00000000000000001\r\na\r\n0\r\n\r\n",
            b"1;" + b"a" * 9000 + b"\r\na\r\n0\r\n\r\n",
            b"1" + b"0" * 9000,
            b"0\r\n" + b"A: b\r\n" * 9000 + b"\r\n",
        ],
        ids=["digits", "extension", "line", "trailers"],
    )
    def test_has_limits(self, wire):
        assert read_ours(CHUNKED, wire, [100])[1] is None

    def test_may_have_trailers_of_any_name_which_are_dropped(self):
        assert (b"", b"") == read_ours(CHUNKED, b"0\r\nContent-Length: 5\r\nHost: y\r\n\r\n", [100])

    def test_that_is_longer_than_its_chunk_is_refused_without_waiting_for_more(self):
        class Silent:
            def recv_into(self, buffer):
                raise AssertionError("it waits")

        body = ChunkedBody(Silent(), b"1\r\nab", lambda rest: None)
        assert (0, True) == (body.readinto(memoryview(bytearray(10))), body.failed)


class TestABodyOfKnownLength:
    def test_says_how_much_is_left(self):
        body = LengthBody(Pieces(b"", []), b"12345", lambda rest: None, 10)
        body.read(3)
        assert (7, 10) == (body.left_bytes, body.length)

    def test_is_kept_as_far_as_it_came_when_the_connection_breaks(self):
        class Broken:
            def recv_into(self, buffer):
                raise ConnectionResetError

        body = LengthBody(Broken(), b"12345", lambda rest: None, 10)
        assert (b"12345", False, True) == (body.read(), body.complete, body.failed)


class TestTheFaceOfWsgi:
    def body(self):
        return ChunkedBody(Pieces(b"", []), b"4\r\na\nb\n\r\n1\r\nc\r\n0\r\n\r\n", lambda rest: None)

    def test_reads_all_or_a_part(self):
        body = self.body()
        assert (b"a\n", b"b\nc", b"") == (body.read(2), body.read(), body.read(5))

    def test_reads_lines(self):
        assert [b"a\n", b"b\n", b"c"] == list(self.body())
        assert [b"a\n", b"b\n", b"c"] == self.body().readlines()
        assert b"a" == self.body().readline(1)
