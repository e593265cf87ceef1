"""Bodies received straight from the socket, against gunicorn's own reader as the judge."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import IterUnreader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_registry.direct_body import ChunkedBody, LengthBody


class Pieces:
    """A connection from which bytes come in pieces of given sizes."""

    def __init__(self, content, sizes):
        self.stream = io.BytesIO(content)
        self.sizes = list(sizes) or [65536]
        self.turn = 0

    def recv_into(self, buffer):
        size = self.sizes[self.turn % len(self.sizes)]
        self.turn += 1
        return self.stream.readinto(buffer[:size])

    def __iter__(self):
        while block := self.stream.read(self.sizes[self.turn % len(self.sizes)]):
            self.turn += 1
            yield block


def read_ours(make, wire, received, sizes, buffer_bytes):
    """Return content, whether it was complete, and the bytes that belong to the next request."""
    connection, rest = Pieces(wire[received:], sizes), []
    body = make(connection, wire[:received], rest.append)
    content, buffer = b"", memoryview(bytearray(buffer_bytes))
    while filled := body.readinto(buffer):
        content += bytes(buffer[:filled])
    left = b"".join(rest) + connection.stream.read()
    return content, body.complete, left if body.complete else None


def read_theirs(make_reader, wire, sizes):
    connection = Pieces(wire, sizes)
    unreader = IterUnreader(iter(connection))
    body = Body(make_reader(unreader))
    try:
        content = body.read()
    except (OSError, ParseException):
        return None, False, None
    rest = unreader.take_buffered() + b"".join(connection)
    return content, True, rest


def headers(text, from_trailer=False):
    """gunicorn's check of a trailer section, as far as it matters here."""
    return []


REQUEST = SimpleNamespace(limit_request_field_size=8190, max_buffer_headers=32768, parse_headers=headers)

SIZES = st.lists(st.integers(1, 40), max_size=6)
NEXT = st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"x"])
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b' ; a="b c"', b"\t;x=y;z"])
TRAILERS = st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"])


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
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


def check_chunked(examples):
    @bounded(examples)
    @given(chunked(), NEXT, SIZES, st.integers(1, 100), st.integers(0, 50))
    def run(body, rest, sizes, buffer_bytes, received):
        wire, content = body
        ours = read_ours(ChunkedBody, wire + rest, min(received, len(wire)), sizes, buffer_bytes)
        assert (content, True, rest) == ours
        assert read_theirs(lambda unreader: ChunkedReader(REQUEST, unreader), wire + rest, sizes) == ours

    run()


def check_cut_off(examples):
    @bounded(examples)
    @given(chunked(), SIZES, st.integers(1, 100), st.data())
    def run(body, sizes, buffer_bytes, data):
        wire, content = body
        cut = data.draw(st.integers(0, len(wire) - 1))
        got, complete, _ = read_ours(ChunkedBody, wire[:cut], 0, sizes, buffer_bytes)
        assert content.startswith(got)
        assert not complete
        assert not read_theirs(lambda unreader: ChunkedReader(REQUEST, unreader), wire[:cut], sizes)[1]

    run()


class TestAChunkedBody:
    def test_is_read_as_gunicorn_reads_it(self):
        check_chunked(2000)

    def test_that_is_cut_off_anywhere_is_not_complete(self):
        check_cut_off(1000)

    @pytest.mark.slow
    def test_is_read_as_gunicorn_reads_it_a_million_times(self):
        check_chunked(700_000)
        check_cut_off(300_000)

    @pytest.mark.parametrize(
        "wire",
        [
            b"x\r\n",
            b"\r\n",
            b"-1\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"fffffffffffffffff\r\na",
            b"1;" + b"a" * 9000 + b"\r\na\r\n0\r\n\r\n",
            b"1" + b"0" * 9000,
            b"0\r\nA: b\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n" + b"A: b\r\n" * 9000 + b"\r\n",
        ],
    )
    def test_that_is_malformed_is_not_complete_and_ends(self, wire):
        _, complete, _ = read_ours(ChunkedBody, wire, 0, [100], 100)
        assert not complete


class TestABodyOfKnownLength:
    def check(self, examples):
        @bounded(examples)
        @given(st.binary(max_size=300), NEXT, SIZES, st.integers(1, 100), st.integers(0, 350))
        def run(content, rest, sizes, buffer_bytes, received):
            wire = content + rest

            def make(connection, buffered, give_back):
                return LengthBody(connection, buffered, give_back, len(content))

            ours = read_ours(make, wire, min(received, len(wire)), sizes, buffer_bytes)
            assert (content, True, rest) == ours
            assert read_theirs(lambda unreader: LengthReader(unreader, len(content)), wire, sizes) == ours

        run()

    def test_is_read_as_gunicorn_reads_it(self):
        self.check(1000)

    def test_that_is_cut_off_is_not_complete(self):
        def make(connection, buffered, give_back):
            return LengthBody(connection, buffered, give_back, 10)

        assert (b"12345", False, None) == read_ours(make, b"12345", 2, [1], 3)

    def test_says_how_much_is_left(self):
        body = LengthBody(Pieces(b"", []), b"12345", lambda rest: None, 10)
        body.read(3)
        assert (7, 10) == (body.left_bytes, body.length)


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
