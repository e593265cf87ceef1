"""Byte ranges: parses the Range header of a GET (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from docker_registry.errors import RangeNotSatisfiable

#: A Range header with more ranges is ignored. containers/storage (podman) requests up to 1024 at once.
MAX_RANGES: Final = 4096

_RANGES: Final = re.compile(r"bytes=([0-9\-, \t]*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """
    A range of bytes of some content.

    Attributes:
        start: offset of the first byte.
        length: number of bytes, at least 1.
    """

    start: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the range."""
        return self.start + self.length

    def content_range(self, size: int) -> str:
        """Return the value of Content-Range for this range of content with *size* bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse(header: str | None, size: int) -> tuple[ByteRange, ...]:
    """
    Return the ranges that a Range header requests, in its order; an empty tuple means the whole content.

    Ranges beyond the end are dropped. Overlapping ranges are joined, so the total never exceeds the content. Adjacent
    ranges stay separate: containers/image expects one part per requested range, and requests one range per file, even
    for adjacent files. Malformed headers, other units and headers with more than MAX_RANGES ranges are ignored, as is
    any Range header for empty content.

    Args:
        header: value of the Range header; None if there is none.
        size: bytes of the whole content.

    Raises:
        RangeNotSatisfiable: a range ends before it begins, or all ranges are beyond the end.
    """
    match = _RANGES.fullmatch((header or "").strip())
    if match is None or size == 0:
        return ()
    specs = [text for text in (piece.strip(" \t") for piece in match[1].split(",")) if text]
    if not specs or len(specs) > MAX_RANGES:
        return ()
    matches = [_RANGE.fullmatch(spec) for spec in specs]
    bounds = [(bound[1], bound[2]) for bound in matches if bound is not None and bound[0] != "-"]
    if len(bounds) < len(specs):
        return ()
    ranges = list(filter(None, (_resolve(first, last, size) for first, last in bounds)))
    if not ranges:
        raise RangeNotSatisfiable(size=size)
    return _join_overlapping(ranges)


def _resolve(first: str, last: str, size: int) -> ByteRange | None:
    """Return a range clipped to the content; None if it is beyond the end."""
    if not first:
        length = min(int(last), size)
        return ByteRange(size - length, length) if length else None
    start, end = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        raise RangeNotSatisfiable(size=size)
    return ByteRange(start, end - start) if start < size else None


def _join_overlapping(ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
    """Join overlapping ranges; a joined range takes the position of its first member."""
    joined: list[tuple[int, int, int]] = []  # position, start, end
    for position, byte_range in sorted(enumerate(ranges), key=lambda entry: (entry[1].start, entry[0])):
        if joined and byte_range.start < joined[-1][2]:
            first_position, start, end = joined[-1]
            joined[-1] = min(first_position, position), start, max(end, byte_range.end)
        else:
            joined.append((position, byte_range.start, byte_range.end))
    return tuple(ByteRange(start, end - start) for _, start, end in sorted(joined))
