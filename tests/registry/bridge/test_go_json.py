from __future__ import annotations

import pytest

from docker_registry.registry.bridge import go_json


class TestAMap:
    def test_is_encoded_sorted_and_compact(self):
        members = go_json.read_map(b' { "b" : [ 1 , {"z": 1, "a" : 2} ],\n"a": null } ')
        assert b'{"a":null,"b":[1,{"z":1,"a":2}]}' == go_json.write_map(members)

    @pytest.mark.parametrize(
        "value", [b"1.0", b"1E5", b"-0", b'"\\u00e9"', b'"\\/"', b'"a  \\" b"', b"1" * 5000, b'"\xff"']
    )
    def test_keeps_the_spelling_of_unread_values(self, value):
        assert b'{"a":%s}' % value == go_json.write_map(go_json.read_map(b'{"a": %s}' % value))

    def test_escapes_characters_that_are_special_in_html(self):
        members = go_json.read_map('{"<k>": "a<b>&\u2028\u2029"}'.encode())
        assert rb'{"\u003ck\u003e":"a\u003cb\u003e\u0026\u2028\u2029"}' == go_json.write_map(members)

    def test_keeps_the_last_of_duplicate_keys(self):
        assert {"a": "2"} == go_json.read_map(b'{"a": 1, "a": 2}')

    @pytest.mark.parametrize(
        "payload",
        [
            b"", b"[]", b"null", b"1", b'"a"', b"{", b"{]", b'{"a"}', b'{"a":}', b'{"a":1,}', b'{"a":1 "b":2}',
            b"{a:1}", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1}x', b'{"a":01}', b'{"a":"\n"}', b"\xef\xbb\xbf{}",
            b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
    )  # fmt: skip
    def test_accepts_no_other_type(self, payload):
        with pytest.raises(ValueError):
            go_json.read_map(payload)

    def test_that_nests_too_deeply_is_no_json(self):
        for read, deep in ((go_json.read_map, b"[" * 100_000), (go_json.read, "[" * 100_000)):
            with pytest.raises(ValueError):
                read(deep)


class TestAString:
    def test_is_escaped_as_go_does(self):
        assert r'"\"\\\n\r\t\u0000\u001f/é"' == go_json.string('"\\\n\r\t\0\x1f/é')

    def test_replaces_invalid_characters(self):
        assert '"\ufffd"' == go_json.string("\ud800")
