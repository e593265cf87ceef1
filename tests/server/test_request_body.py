"""Bodies received directly from the socket; tests/property/test_bodies.py generates them."""

from __future__ import annotations

import itertools

import pytest

from docker_registry.server.request_body import ChunkedBody, LengthBody
from tests.support.body_readers import CHUNKED, Pieces, read_all, read_ours, read_theirs


class TestAChunkedBody:
    WIRE = b"4;x=y\r\ngood\r\n6\r\n bytes\r\n0\r\nA: b\r\n\r\n"

    def test_is_the_same_wherever_it_is_split(self):
        for first in range(1, len(self.WIRE)):
            for second in (1, 3, 100):
                for buffer_bytes in (1, 2, 100):
                    assert (b"good bytes", b"N") == read_ours(
                        CHUNKED, self.WIRE + b"N", [second, first, second], buffer_bytes
                    )

    def test_of_short_chunks_is_decoded_in_runs(self):
        """The number of pauses counts the work: one for about a millisecond of it."""
        for size in (1, 15):
            content, pauses = b"".join(b"%04x" % number for number in range(30_000)), itertools.count()
            chunks = [content[start : start + size] for start in range(0, len(content), size)]
            wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
            body = ChunkedBody(Pieces(wire, [8192]), b"", lambda rest: None, pauses.__next__)
            assert content == read_all(body, 65536)
            assert next(pauses) <= len(chunks) // 5000

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
            b" 1;a\r\na\r\n0\r\n\r\n",
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
    def test_that_is_malformed_is_rejected_as_by_gunicorn(self, wire):
        for sizes in ([100], [1]):
            assert read_ours(CHUNKED, wire, sizes)[1] is None
            assert read_theirs(CHUNKED, wire, sizes) is None

    def test_that_exceeds_its_chunk_is_rejected_without_waiting(self):
        class Silent:
            def receive_body(self, buffer, min_remaining):
                raise AssertionError("it waits")

        body = ChunkedBody(Silent(), b"1\r\nab", lambda rest: None)
        assert (0, True) == (body.readinto(memoryview(bytearray(10))), body.failed)


class TestABodyOfKnownLength:
    def test_reports_how_much_is_left(self):
        body = LengthBody(Pieces(b"", [1]), b"12345", lambda rest: None, 10)
        body.read(3)
        assert (7, 10) == (body.left_bytes, body.length)

    def test_keeps_its_received_part_if_the_connection_breaks(self):
        class Broken:
            def receive_body(self, buffer, min_remaining):
                raise ConnectionResetError

        body = LengthBody(Broken(), b"12345", lambda rest: None, 10)
        assert (b"12345", False, True) == (body.read(), body.complete, body.failed)


class TestTheWsgiInterface:
    def body(self):
        return ChunkedBody(Pieces(b"", [1]), b"4\r\na\nb\n\r\n1\r\nc\r\n0\r\n\r\n", lambda rest: None)

    def test_reads_all_or_a_part(self):
        body = self.body()
        assert (b"a\n", b"b\nc", b"") == (body.read(2), body.read(), body.read(5))

    def test_reads_lines(self):
        assert [b"a\n", b"b\n", b"c"] == list(self.body())
        assert [b"a\n", b"b\n", b"c"] == self.body().readlines()
        assert b"a" == self.body().readline(1)
