"""
An incremental parser for large JSON documents.

The parser of the standard library parses a document in one call, which blocks the process: four megabytes of
``[],[],…`` take a second and a hundred megabytes. This parser yields the members of the document, and their items and
members, one by one, so that a caller can yield to the event loop between them and keep only what it needs. Values that
are nested more deeply are parsed in one call, and their size is limited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

#: Maximum values of a document, counted by the characters that begin or separate them, including those inside strings.
MAX_VALUES: Final = 250_000

#: Maximum values of a part, which is parsed in one call.
MAX_PART_VALUES: Final = 20_000

_WINDOW_CHARACTERS: Final = 16 * 1024
_MAX_ATTEMPTS: Final = 4
_CLOSING: Final = {"{": "}", "[": "]", '"': '"'}
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class TooComplex(ValueError):
    """The document has too many values."""


class NotAList(ValueError):
    """The document is not a list."""


class Kind(Enum):
    """The kind of a part: a member's scalar value, the start of a list or object, or an item or member of one."""

    VALUE = "value"
    LIST = "list"
    OBJECT = "object"
    ITEM = "item"


class Part(NamedTuple):
    """
    A part of a document.

    Attributes:
        key: the key of the document's member.
        name: the key of a member of that member; empty for an item of a list.
        value: the value of a VALUE or an ITEM.
    """

    key: str
    kind: Kind
    name: str = ""
    value: Any = None


def count_values(payload: bytes) -> int:
    """Return an upper bound for the number of values in a document; takes a millisecond per megabyte."""
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{")


def reject_constant(text: str) -> None:
    """Raise :class:`ValueError` for NaN and the infinities, which are not valid JSON."""
    raise ValueError(text)


#: Accepts nothing but JSON; Python's own default accepts NaN and the infinities, too.
DECODER: Final = json.JSONDecoder(parse_constant=reject_constant)


def scan(text: str, decoder: json.JSONDecoder = DECODER) -> Iterator[Part]:
    """
    Yield the parts of a JSON object in order.

    Args:
        decoder: parses the values of parts.

    Raises:
        TooComplex: a part has more than :data:`MAX_PART_VALUES` values.
        ValueError: the text is not a JSON object.
        RecursionError: the text is nested too deeply.
    """
    parser = _Parser(text, decoder)
    position = _expect("{", text, 0)
    if text[position : position + 1] == "}":
        position += 1
    else:
        position = yield from _members(parser, position)
    if _skip(text, position) != len(text):
        raise ValueError("unexpected content after the object")


def scan_list(text: str) -> Iterator[Any]:
    """
    Yield the items of a JSON list in order.

    Raises:
        NotAList: the text is another JSON value.
        TooComplex, ValueError, RecursionError: as for :func:`scan`.
    """
    parser = _Parser(text, DECODER)
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        if len(text) <= _WINDOW_CHARACTERS:
            DECODER.decode(text)
        raise NotAList("no list")
    items = _items(parser, "", position)
    while True:
        try:
            yield next(items).value
        except StopIteration as end:
            position = end.value
            break
    if _skip(text, position) != len(text):
        raise ValueError("unexpected content after the list")


class _Parser:
    """Parses single values at given positions of a text."""

    def __init__(self, text: str, decoder: json.JSONDecoder) -> None:
        self.text = text
        self._decoder = decoder
        self._start = 0  # position of the segment in the text
        self._segment = ""  # has a limited number of values, so a value that ends in it is within the limit

    def parse(self, position: int) -> tuple[Any, int]:
        """Return the value at a position, and the position of its end."""
        if self.text[position : position + 1] == '"':  # a string is one value, regardless of its characters
            found: tuple[Any, int] = self._decoder.raw_decode(self.text, position)
            return found
        return self._parse_in_segment(position) or self._parse_in_new_segment(position)

    def _parse_in_segment(self, position: int) -> tuple[Any, int] | None:
        if position - self._start >= len(self._segment):
            return None
        try:
            value, end = self._decoder.raw_decode(self._segment, position - self._start)
        except ValueError:
            return None
        # A number at the end of the segment may continue after it.
        return (value, self._start + end) if end < len(self._segment) or self._is_last else None

    def _parse_in_new_segment(self, position: int) -> tuple[Any, int]:
        self._start, self._segment = position, self.text[position : self._end(position)]
        found = self._parse_in_segment(position)
        if found is None:
            raise ValueError("no value") if self._is_last else TooComplex("a part has too many values")
        return found

    def parse_items(self, position: int) -> tuple[list[Any], int] | None:
        """
        Parse several items of a list in one call.

        The items of most lists have the same type. So this takes a range that ends with the closing character of the
        first item, followed by a comma, and parses it as a list. If that succeeds, the range consists of whole items,
        because JSON has only one interpretation.

        Args:
            position: the start of the first item.

        Returns:
            The items and the position after the last one; None if no such range was found.
        """
        mark = _CLOSING.get(self.text[position : position + 1])
        end = position + _WINDOW_CHARACTERS
        for _ in range(_MAX_ATTEMPTS if mark else 0):
            end = self.text.rfind(f"{mark},", position, end)
            if end < 0:
                return None
            try:
                return self._decoder.decode(f"[{self.text[position : end + 1]}]"), end + 1
            except ValueError:  # the range ends inside an item or a string
                continue
        return None

    @property
    def _is_last(self) -> bool:
        return self._start + len(self._segment) == len(self.text)

    def _end(self, start: int) -> int:
        """Return the end of a segment that has at most the permitted number of values."""
        values = 0
        while values < MAX_PART_VALUES and start < len(self.text):
            window = (start, start + _WINDOW_CHARACTERS)
            values += sum(self.text.count(mark, *window) for mark in ",[{")
            start = window[1]
        return min(start, len(self.text))


def _members(parser: _Parser, position: int) -> Generator[Part, None, int]:
    """Yield the parts of the document's members, starting at a position; return the position after the object."""
    text = parser.text
    while True:
        key, position = _key(text, position)
        mark = text[position : position + 1]
        if mark in ("[", "{"):
            yield Part(key, Kind.LIST if mark == "[" else Kind.OBJECT)
            position = yield from _items(parser, key, position)
        else:
            value, position = parser.parse(position)
            yield Part(key, Kind.VALUE, value=value)
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            return position + 1
        position = _expect(",", text, position)


def _items(parser: _Parser, key: str, position: int) -> Generator[Part, None, int]:
    """Yield the items of the list or object at a position; return the position after it."""
    text = parser.text
    is_object = text[position] == "{"
    end = "}" if is_object else "]"
    position = _skip(text, position + 1)
    if text[position : position + 1] == end:
        return position + 1
    is_uniform = not is_object
    name = ""
    while True:
        found = parser.parse_items(position) if is_uniform else None
        if found is not None:
            values, position = found
            for value in values:
                yield Part(key, Kind.ITEM, value=value)
        else:
            is_uniform = False  # a failed attempt for every item would take too long
            if is_object:
                name, position = _key(text, position)
            value, position = parser.parse(position)
            yield Part(key, Kind.ITEM, name, value)
        position = _skip(text, position)
        if text[position : position + 1] == end:
            return position + 1
        position = _expect(",", text, position)


def _key(text: str, position: int) -> tuple[str, int]:
    """Return the key at a position, and the position of its value."""
    if text[position : position + 1] != '"':
        raise ValueError("a key is missing")
    key, position = DECODER.raw_decode(text, position)
    return key, _expect(":", text, position)


def _expect(mark: str, text: str, position: int) -> int:
    """Skip a required character and the white space around it; return the position after them."""
    position = _skip(text, position)
    if text[position : position + 1] != mark:
        raise ValueError(f"{mark} is missing")
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
