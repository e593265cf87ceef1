"""Parses the values of a request: names, ranges, pages, conditions and bodies. Returned values are valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, request

from docker_registry.api import request_body
from docker_registry.errors import (
    DigestInvalid,
    PageInvalid,
    RangeNotSatisfiable,
    UploadInvalid,
)
from docker_registry.registry.ingest import Body
from docker_registry.registry.manifest_payload import MANIFEST_TYPES
from docker_registry.registry.names import (
    Digest,
    ImageId,
    ImageRepositoryName,
    RepositoryName,
    Tag,
    parse_reference,
    parse_upload_id,
)
from docker_registry.registry.tag_changes import Condition

#: The parser of each variable in the routes.
_PARSERS: Final = {
    "name": RepositoryName.parse,
    "reference": parse_reference,
    "digest": Digest.parse,
    "upload_id": parse_upload_id,
    "image_id": ImageId.parse,
    "repository": ImageRepositoryName.parse,
    "tag": Tag.parse,
}

#: Where the name in a request is kept if its repository has another name here, in the WSGI environment.
REQUESTED_NAME: Final = "docker_registry.requested_name"

# The OCI specification writes the Content-Range of a chunk as `0-99`; some clients use HTTP's `bytes 0-99/*`.
_CHUNK_RANGE: Final = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]+)?", re.IGNORECASE)

#: A Range header with more ranges is ignored. containers/storage (podman) requests up to 1024 at once.
MAX_RANGES: Final = 4096

_RANGES: Final = re.compile(r"bytes=([0-9\-, \t]*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


def parse_url_values(_endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
    """Parse the variables of a matched URL into values; a hook of every blueprint."""
    for key, text in (values or {}).items():
        if key in _PARSERS and values is not None:
            values[key] = _PARSERS[key](text)


def requested_name(name: RepositoryName) -> str:
    """Return the name by which the client has requested a repository; that of a mirrored one may differ here."""
    return str(request.environ.get(REQUESTED_NAME, name))


def body() -> Body:
    """Return the body of the current request; it can be read once."""
    return request_body.open_body(request.environ)


def read_body(max_bytes: int) -> bytes:
    """
    Return the whole body of the current request; for small bodies.

    Raises:
        TooLarge: the body is longer than *max_bytes*; at most one byte more is read.
        SizeInvalid: the body ended early.
        Overloaded: too many bodies are being received at the same time.
    """
    return request_body.read_whole(body(), max_bytes)


def content_type() -> str | None:
    """Return the Content-Type as sent, without its parameters; None if there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip() or None


def digest_parameter() -> Digest:
    """
    Return the ``digest`` query parameter.

    Raises:
        DigestInvalid: the parameter is missing or not a digest.
    """
    text = request.args.get("digest")
    if text is None:
        raise DigestInvalid("The query parameter digest is missing.")
    return Digest.parse(text)


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """
    The position of a PATCH or PUT body in the blob.

    Attributes:
        start: offset of the first byte; None if the client sent no Content-Range.
        length: number of bytes; None if the client sent no Content-Range.
    """

    start: int | None = None
    length: int | None = None


def chunk_range() -> ChunkRange:
    """
    Return the range in the Content-Range header of a chunk (end-5, end-6).

    Raises:
        UploadInvalid: the header is malformed.
    """
    text = request.headers.get("Content-Range")
    if text is None:
        return ChunkRange()
    match = _CHUNK_RANGE.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise UploadInvalid("Content-Range is invalid.", range=text[:64])
    return ChunkRange(int(match[1]), int(match[2]) - int(match[1]) + 1)


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


def requested_ranges(size: int, validator: str) -> tuple[ByteRange, ...]:
    """
    Return the ranges of the content that the client requests; an empty tuple means the whole content.

    Range applies to GET only (RFC 9110, section 14.2) and is ignored if If-Range does not match *validator*.

    Args:
        size: bytes of the whole content.
        validator: the ETag or date of the content, to be compared with If-Range.

    Raises:
        RangeNotSatisfiable: a range ends before it begins, or all ranges are beyond the end.
    """
    if request.method != "GET" or request.headers.get("If-Range", validator) != validator:
        return ()
    return _parse_ranges(request.headers.get("Range"), size)


def _parse_ranges(header: str | None, size: int) -> tuple[ByteRange, ...]:
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


def is_unmodified(etag: str) -> bool:
    """Return whether the client already has this content (If-None-Match; RFC 9110, section 13.1.2)."""
    return request.if_none_match.contains_weak(etag.strip('"'))


def tag_condition() -> Condition | None:
    """
    Return the condition that If-Match and If-None-Match set for the tag to be replaced; None without these headers.

    RFC 9110, section 13.1: both contain entity tags, here the digests of manifests, or ``*`` for any.
    """
    match, none_match = request.if_match, request.if_none_match
    if not match and not none_match:
        return None

    def holds(current: Digest | None) -> bool:
        exists = current is not None
        if match and not (exists and str(current) in match):
            return False
        return not (none_match and exists and none_match.contains_weak(str(current)))

    return holds


def accepts(media_type: str) -> bool:
    """
    Return whether a client that pulls by tag accepts manifests of this type.

    A client does not accept it if its Accept header names manifest types, but neither this one nor a wildcard; Docker
    1.10 to 17.05 then falls back to API V1. A client that names no manifest type is assumed to accept all.
    """
    accepted = {item.partition(";")[0].strip().lower() for item in request.headers.get("Accept", "").split(",")}
    if not accepted & MANIFEST_TYPES:
        return True
    return bool(accepted & {media_type.lower(), "*/*", "application/*"})


@dataclass(frozen=True, slots=True)
class PageRequest:
    """
    A request for one page of a list (end-8b).

    Attributes:
        count: maximum number of entries.
        last: the page begins after this entry; empty for the first page.
    """

    count: int
    last: str


def page(max_entries: int) -> PageRequest:
    """
    Return the page that the query parameters ``n`` and ``last`` request.

    Args:
        max_entries: maximum page length; a larger ``n`` is reduced to it.

    Raises:
        PageInvalid: ``n`` is not a whole number of at least 0.
    """
    text = request.args.get("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise PageInvalid(n=text[:64])
    return PageRequest(max_entries if text is None else min(int(text), max_entries), request.args.get("last", ""))


def link_next(response: Response, **query: str | int | Sequence[str]) -> Response:
    """Add a Link header to the next page (RFC 8288)."""
    response.headers["Link"] = f'<{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
    return response


def stream(blocks: Iterable[bytes], status: int, headers: dict[str, str]) -> Response:
    """Return a response that streams blocks; the headers must include Content-Length."""
    return Response(blocks, status, headers, direct_passthrough=True)
