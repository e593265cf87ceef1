"""
Large JSON objects, read part by part.

The parser of the standard library reads a document at once, and nothing else runs in the process meanwhile: four
megabytes of ``[],[],…`` take it a second and a hundred megabytes. Here the members of the document, and the items and
members of those, come one by one, so that a caller may pause between them and keep only what it needs. What lies deeper
is parsed at once, and its size is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

#: Values of a document, counted by the characters that begin or separate them, those inside of strings included.
MAX_VALUES: Final = 250_000

#: Values of one part, which is parsed at once.
MAX_PART_VALUES: Final = 20_000

_WINDOW_CHARACTERS: Final = 16 * 1024
_MAX_TRIES: Final = 4
_CLOSING: Final = {"{": "}", "[": "]", '"': '"'}
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class TooComplex(ValueError):
    """The document has more values than the registry reads."""


class NoList(ValueError):
    """The document is not a list."""


class Kind(Enum):
    """What a part is: a member's value, the beginning of a list or an object, or something directly inside of those."""

    VALUE = "value"
    LIST = "list"
    OBJECT = "object"
    ITEM = "item"


class Part(NamedTuple):
    """
    A part of a document.

    Attributes:
        key: of the document's member.
        name: of a member inside that member; empty for an item of a list.
        value: of a VALUE or an ITEM.
    """

    key: str
    kind: Kind
    name: str = ""
    value: Any = None


def count_values(payload: bytes) -> int:
    """Return how many values a document has, at most; takes a millisecond for each megabyte."""
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{")


def scan(text: str) -> Iterator[Part]:
    """
    Yield the parts of a JSON object in their order.

    Raises:
        TooComplex: one part has more than :data:`MAX_PART_VALUES`.
        ValueError: it is no JSON, or no object.
        RecursionError: it is nested too deeply.
    """
    parser = _Parser(text)
    position = _expect("{", text, 0)
    if text[position : position + 1] == "}":
        position += 1
    else:
        position = yield from _members(parser, position)
    if _skip(text, position) != len(text):
        raise ValueError("something follows the object")


def scan_list(text: str) -> Iterator[Any]:
    """
    Yield the items of a JSON list in their order.

    Raises:
        NoList: it is another value.
        TooComplex, ValueError, RecursionError: as for :func:`scan`.
    """
    parser = _Parser(text)
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        if len(text) <= _WINDOW_CHARACTERS:
            _DECODER.decode(text)
        raise NoList("no list")
    items = _items(parser, "", position)
    while True:
        try:
            yield next(items).value
        except StopIteration as end:
            position = end.value
            break
    if _skip(text, position) != len(text):
        raise ValueError("something follows the list")


def refuse_constant(text: str) -> None:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(text)


_DECODER: Final = json.JSONDecoder(parse_constant=refuse_constant)


class _Parser:
    """Parses values out of a text, each at once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._start = 0  # of the segment, in the text
        self._segment = ""  # holds a bounded number of values, so none that ends in it has more

    def parse(self, position: int) -> tuple[Any, int]:
        """Return the value that begins at a position, and where it ends."""
        if self.text[position : position + 1] == '"':  # one value, whatever characters it has
            found: tuple[Any, int] = _DECODER.raw_decode(self.text, position)
            return found
        return self._parse_in_segment(position) or self._parse_in_new_segment(position)

    def _parse_in_segment(self, position: int) -> tuple[Any, int] | None:
        if position - self._start >= len(self._segment):
            return None
        try:
            value, end = _DECODER.raw_decode(self._segment, position - self._start)
        except ValueError:
            return None
        # A number that reaches the end of the segment may go on behind it.
        return (value, self._start + end) if end < len(self._segment) or self._is_last else None

    def _parse_in_new_segment(self, position: int) -> tuple[Any, int]:
        self._start, self._segment = position, self.text[position : self._end(position)]
        found = self._parse_in_segment(position)
        if found is None:
            raise ValueError("no value") if self._is_last else TooComplex("a part has too many values")
        return found

    def parse_items(self, position: int) -> tuple[list[Any], int] | None:
        """
        Return some items of a list, the first of which begins at a position, and where the last one ends.

        The items of most lists are of one type, so a text that ends as the first item must, and is followed by a comma,
        is tried. If it is a list of values, then it is these items, since there is one way to read JSON. None if it is
        not.
        """
        mark = _CLOSING.get(self.text[position : position + 1])
        end = position + _WINDOW_CHARACTERS
        for _ in range(_MAX_TRIES if mark else 0):
            end = self.text.rfind(f"{mark},", position, end)
            if end < 0:
                return None
            try:
                return _DECODER.decode(f"[{self.text[position : end + 1]}]"), end + 1
            except ValueError:  # it ends inside an item or a string
                continue
        return None

    @property
    def _is_last(self) -> bool:
        return self._start + len(self._segment) == len(self.text)

    def _end(self, start: int) -> int:
        """Return where a segment ends that holds the permitted number of values."""
        values = 0
        while values < MAX_PART_VALUES and start < len(self.text):
            window = (start, start + _WINDOW_CHARACTERS)
            values += sum(self.text.count(mark, *window) for mark in ",[{")
            start = window[1]
        return min(start, len(self.text))


def _members(parser: _Parser, position: int) -> Generator[Part, None, int]:
    """Yield the parts of the document's members, the first of which begins at a position; return where they end."""
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
    """Yield the items of a list or an object that begins at a position; return where it ends."""
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
            is_uniform = False  # trying again for every item would take too long
            if is_object:
                name, position = _key(text, position)
            value, position = parser.parse(position)
            yield Part(key, Kind.ITEM, name, value)
        position = _skip(text, position)
        if text[position : position + 1] == end:
            return position + 1
        position = _expect(",", text, position)


def _key(text: str, position: int) -> tuple[str, int]:
    """Return a member's key, and where its value begins."""
    if text[position : position + 1] != '"':
        raise ValueError("a key is missing")
    key, position = _DECODER.raw_decode(text, position)
    return key, _expect(":", text, position)


def _expect(mark: str, text: str, position: int) -> int:
    """Return where something begins behind a mark."""
    position = _skip(text, position)
    if text[position : position + 1] != mark:
        raise ValueError(f"{mark} is missing")
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
