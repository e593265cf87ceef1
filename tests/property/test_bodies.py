"""
Generated bodies, received directly from the socket and by gunicorn's own reader: both return the same, or both reject.

One generator draws everything from a source of random numbers. Hypothesis's own source minimizes failing examples; a
plain one with a seed generates a million of them in minutes.

:class:`TestIntendedDifferences` has the intended differences from gunicorn's reader.
"""

from __future__ import annotations

import os
import random

import pytest
from gunicorn.http.errors import NoMoreData, ParseException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_registry.server.request_body import MAX_LINE_BYTES, MAX_TRAILER_BYTES, open_request_body
from tests.support.body_readers import CHUNKED, Pieces, parser_of, read_ours, read_theirs

EXTENSIONS = [b"", b"", b"", b";a", b";a=b", b' ; a="b c"', b"\t;x=y;z", b' ; a = "\\"\xff" ; b', b';a=";\t"']
TRAILERS = [b"", b"", b"A: b\r\n", b"A: b\r\nC:\r\n", b"!#$%&'*+.^`|~-9:\t\xff \r\n"]
NEXT = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\r\n",
    b"x",
    b"0\r\n\r\n",
    b"POST /next HTTP/1.1\r\nX-Y: 2\r\n\r\nab",
]

#: The parts of framing: in random order they are mostly invalid, and sometimes valid.
SCRAPS = (
    [b"\r\n"] * 6 + [b"0", b"0\r\n\r\n", b"1", b"2", b"a", b"A", b"1\r\nx\r\n", b"\r", b"\n", b";", b";a", b"=", b'"']
    + [b'"b"', b" ", b"\t", b":", b"A: b", b"\\", b"\x00", b"\x7f", b"\xff", b"x", b"g", b"-", b"+1", b"0x1", b"_"]
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what is generated


def some_bytes(source, least, most):
    """Arbitrary bytes, or bytes that look like framing."""
    size = source.randint(least, most)
    return source.choice([b"\r\n0", b"a", b"\n"]) * size if source.random() < 0.2 else source.randbytes(size)


def some_sizes(source):
    """The sizes of the segments in which bytes arrive, and of the buffer into which they are read."""
    if source.random() < 0.1:
        return [65536], source.choice([1, 100, 8192, 65536])
    return [source.randint(1, 40) for _ in range(source.randint(1, 6))], source.randint(1, 100)


def a_chunked_body(source):
    """A body in chunks: pairs of content and encoded bytes."""
    pieces = []
    for _ in range(source.randint(0, 5)):
        if source.random() < 0.2:
            pieces += a_run_of_chunks(source)
        chunk = some_bytes(source, 1, source.choice([1, 3, 20, 90]))
        size = source.choice([b"%x", b"%X", b"0%x", b"%012X"]) % len(chunk)
        pieces += [(b"", size + source.choice(EXTENSIONS) + b"\r\n"), (chunk, chunk), (b"", b"\r\n")]
    last = source.choice([b"0", b"0", b"00", b"000000000000"])
    return [*pieces, (b"", last + source.choice(EXTENSIONS) + b"\r\n" + source.choice(TRAILERS) + b"\r\n")]


def a_run_of_chunks(source):
    """Short chunks of the same size, as pairs like those of a chunked body."""
    size = source.randint(1, 17)
    chunks = [some_bytes(source, size, size)[:size] for _ in range(source.randint(1, 20))]
    return [pair for chunk in chunks for pair in ((b"", b"%x\r\n" % len(chunk)), (chunk, chunk), (b"", b"\r\n"))]


def joined(pieces):
    """The content of a chunked body, and its encoded bytes."""
    return b"".join(content for content, _ in pieces), b"".join(wire for _, wire in pieces)


# ---------------------------------------------------------------------------------------------------- what must hold


def check_chunks(source):
    content, wire = joined(a_chunked_body(source))
    rest, (sizes, buffer_bytes) = source.choice(NEXT), some_sizes(source)
    assert (content, rest) == read_ours(CHUNKED, wire + rest, sizes, buffer_bytes)
    assert (content, rest) == read_theirs(CHUNKED, wire + rest, sizes)


def check_length(source):
    content, missing = some_bytes(source, 0, 300), source.choice([0, 0, 1, 50, 5000])
    rest, (sizes, buffer_bytes) = b"" if missing else source.choice(NEXT), some_sizes(source)
    header = b"Content-Length: %d\r\n" % (len(content) + missing)
    assert (content, None if missing else rest) == read_ours(header, content + rest, sizes, buffer_bytes)
    # gunicorn ends a truncated body as if it were complete: the reader must count.
    assert (content, rest) == read_theirs(header, content + rest, sizes)


def check_cut(source, cut=None):
    """All received bytes of a truncated body are kept, and it never counts as complete."""
    pieces, (sizes, buffer_bytes) = a_chunked_body(source), some_sizes(source)
    wire = joined(pieces)[1]
    cuts = range(len(wire)) if cut is None else [source.randrange(len(wire))]
    for end in cuts:
        content, left = b"", end
        for piece, on_wire in pieces:
            content += piece[: max(left, 0)]
            left -= len(on_wire)
        assert (content, None) == read_ours(CHUNKED, wire[:end], sizes, buffer_bytes)
        assert read_theirs(CHUNKED, wire[:end], sizes) is None


def check_damaged(source):
    """Bytes are inserted, removed or overwritten at any position."""
    wire = joined(a_chunked_body(source))[1] + source.choice(NEXT)
    for _ in range(source.choice([1, 1, 1, 2])):
        start = source.randint(0, len(wire))
        wire = wire[:start] + source.choice([*SCRAPS, b""]) + wire[start + source.randint(0, 3) :]
    check_alike(wire, *some_sizes(source))


def check_scraps(source):
    check_alike(b"".join(source.choices(SCRAPS, k=source.randint(0, 16))), *some_sizes(source))


def check_alike(wire, sizes, buffer_bytes):
    ours, theirs = read_ours(CHUNKED, wire, sizes, buffer_bytes), read_theirs(CHUNKED, wire, sizes)
    assert theirs == (None if ours[1] is None else ours)


def check_connection(source):
    """Several consecutive requests, each read completely or partly; sometimes the client disconnects."""
    wire, expected = b"", []
    for number in range(source.randint(1, 4)):
        content, body, header = b"", b"", b""
        if source.random() < 0.5:
            content, body = joined(a_chunked_body(source))
            header = CHUNKED
        elif source.random() < 0.7:
            content = body = some_bytes(source, 0, 60)
            header = b"Content-Length: %d\r\n" % len(content)
        wire += b"PUT /%d HTTP/1.1\r\n%b\r\n%b" % (number, header, body)
        expected.append((f"/{number}", content))
    (sizes, buffer_bytes), read_bytes = some_sizes(source), source.choice([None, None, None, 0, 1, 30])
    cut = read_bytes is None and source.random() < 0.3
    wire = wire[: source.randint(0, len(wire))] if cut else wire
    theirs = list(requests_of(wire, sizes, read_bytes, None))
    ours = list(requests_of(wire, sizes, read_bytes, buffer_bytes))
    assert theirs == ours
    if not cut:
        assert [(uri, content[:read_bytes]) for uri, content in expected] == ours


def requests_of(wire, sizes, read_bytes, buffer_bytes):
    """
    The requests of a connection, each with the part of its body that was read.

    Args:
        buffer_bytes: of our reader; None is gunicorn's.
    """
    connection = Pieces(wire, sizes)
    parser = parser_of(connection)
    while True:
        try:
            request = next(parser)
        except (StopIteration, NoMoreData, ParseException, OSError):
            return
        announced = next((int(value) for name, value in request.headers if name == "CONTENT-LENGTH"), None)
        if buffer_bytes is not None:
            request.body = open_request_body(request, connection)
        try:
            content = request.body.read(read_bytes)
        except (OSError, ParseException):
            return
        if getattr(request.body, "failed", False):
            return
        if buffer_bytes is None and read_bytes is None and announced is not None and len(content) < announced:
            return
        yield request.uri, content


CHECKS = [check_chunks, check_length, check_cut, check_damaged, check_scraps, check_connection]


class TestABodyIsReadAsGunicornReadsIt:
    @pytest.mark.parametrize("check", CHECKS)
    def test_for_arbitrary_input(self, check):
        @settings(
            max_examples=10 if check is check_cut else 150,  # each is truncated at every byte
            derandomize=bool(os.environ.get("CI")),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(note_method_calls=True, use_true_random=False))
        def run(source):
            check(source)

        run()

    @pytest.mark.slow
    def test_for_a_million_inputs(self):
        for seed in range(1_000_000):
            source, check = random.Random(seed), CHECKS[seed % len(CHECKS)]
            try:
                check(source, 1) if check is check_cut else check(source)
            except AssertionError as error:
                raise AssertionError(f"{check.__name__}(random.Random({seed}))") from error


def is_taken(read, wire, sizes):
    found = read(CHUNKED, wire, sizes)
    return found is not None and found[1] is not None


class TestIntendedDifferences:
    """Our reader's limits do not depend on how the bytes arrive, and it drops trailers unread."""

    SIZES = ([65536], [8191], [4096], [100], [3])

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_a_size_has_at_most_sixteen_digits(self, sizes):
        for digits in (15, 16, 17, 18):
            wire = b"1".rjust(digits, b"0") + b"\r\na\r\n0\r\n\r\n"
            assert (digits <= 16) == is_taken(read_ours, wire, sizes)
            assert is_taken(read_theirs, wire, sizes)

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_the_length_of_a_line_is_limited(self, sizes):
        for length in (*range(MAX_LINE_BYTES - 3, MAX_LINE_BYTES + 4), 2 * MAX_LINE_BYTES, 9 * MAX_LINE_BYTES):
            wire = b"1;".ljust(length, b"a") + b"\r\na\r\n0\r\n\r\n"
            for buffer_bytes in (1, 100, 8192, 65536):
                found = read_ours(CHUNKED, wire, sizes, buffer_bytes)
                assert ((b"a", b"") if length <= MAX_LINE_BYTES else (b"", None)) == found

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_the_length_of_the_trailers_is_limited(self, sizes):
        for length in (MAX_TRAILER_BYTES - 2, MAX_TRAILER_BYTES, MAX_TRAILER_BYTES + 2, 2 * MAX_TRAILER_BYTES):
            lines = (b"A:".ljust(min(4096, length - start), b"b") for start in range(0, length, 4096))
            wire = b"0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
            assert (length <= MAX_TRAILER_BYTES) == is_taken(read_ours, wire, sizes)
            assert is_taken(read_theirs, wire, sizes)

    @pytest.mark.parametrize(
        "trailer", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: y", b"Trailer: x"]
    )
    def test_trailers_may_have_any_name(self, trailer):
        wire = b"1\r\na\r\n0\r\n" + trailer + b"\r\n\r\nN"
        assert (b"a", b"N") == read_ours(CHUNKED, wire, [100])
        assert read_theirs(CHUNKED, wire, [100]) is None

    def test_there_may_be_any_number_of_trailers(self):
        wire = b"0\r\n" + b"A: b\r\n" * 200 + b"\r\nN"
        assert (b"", b"N") == read_ours(CHUNKED, wire, [100])
        assert read_theirs(CHUNKED, wire, [100]) is None
