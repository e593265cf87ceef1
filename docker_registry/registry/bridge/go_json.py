"""
Byte-exact reimplementation of the JSON output of Go's ``encoding/json``; Docker's image ids are digests of it.

Values that Docker passes through as raw messages keep their spelling (``1.0``, ``"\\u00e9"``, the order of their keys)
and only lose white space; keys of a map are sorted; ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_ESCAPED: Final = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTROL = re.compile(r'[\x00-\x1f"\\]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS_OR_QUOTE = re.compile(r'[ \t\r\n]+|"')
_SPACE = re.compile(r"[ \t\r\n]*")

#: JSON text; bytes that are not UTF-8 are preserved by ``surrogateescape``.
Raw = str


def read_map(payload: bytes) -> dict[str, Raw]:
    """
    Split a JSON object into its members, keeping the values as raw JSON.

    Raises:
        ValueError: *payload* is not a JSON object.
    """
    text = payload.decode("utf-8", "surrogateescape")
    try:
        members, end = _read_members(text, _skip(text, 0))
    except RecursionError:
        raise ValueError("too deep") from None
    if _skip(text, end) != len(text):
        raise ValueError("unexpected content after the object")
    return members


def read(raw: Raw) -> Any:
    """
    Decode a raw value; numbers keep their spelling, as :class:`Number`.

    Raises:
        ValueError: *raw* is not JSON, or nests too deeply.
    """
    try:
        return _DECODER.decode(raw)
    except RecursionError:
        raise ValueError("too deep") from None


def write_map(members: Mapping[str, Raw]) -> bytes:
    """Encode an object from raw members."""
    written = ",".join(f"{string(key)}:{_compact(members[key])}" for key in sorted(members))
    return f"{{{written}}}".encode("utf-8", "surrogateescape")


def string(text: str) -> Raw:
    """Encode a string; lone surrogates become U+FFFD."""
    text = _SURROGATE.sub("\ufffd", text)
    return f'"{_CONTROL.sub(_escape, text).translate(_ESCAPED)}"'


class Number(str):
    """A number in its original spelling."""

    __slots__ = ()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)


def _read_members(text: str, start: int) -> tuple[dict[str, Raw], int]:
    if text[start : start + 1] != "{":
        raise ValueError("no object")
    members: dict[str, Raw] = {}
    position = _skip(text, start + 1)
    if text[position : position + 1] == "}":
        return members, position + 1
    while True:
        if text[position : position + 1] != '"':
            raise ValueError("a key is missing")
        key, position = _DECODER.raw_decode(text, position)
        position = _expect(":", text, position)
        begin = _skip(text, position)
        _, end = _DECODER.raw_decode(text, begin)
        members[_SURROGATE.sub("\ufffd", key)] = text[begin:end]
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            return members, position + 1
        position = _skip(text, _expect(",", text, position))


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect(character: str, text: str, position: int) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != character:
        raise ValueError(f"{character} is missing")
    return position + 1


def _compact(raw: Raw) -> Raw:
    """Remove white space outside of strings from a valid raw value, and escape the characters that Go escapes."""
    pieces = []
    begin = position = 0
    while match := _BLANKS_OR_QUOTE.search(raw, position):
        if match[0] == '"':
            _, position = _DECODER.raw_decode(raw, match.start())
        else:
            pieces.append(raw[begin : match.start()])
            begin = position = match.end()
    pieces.append(raw[begin:])
    return "".join(pieces).translate(_ESCAPED)


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"
