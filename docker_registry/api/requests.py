"""Names, ranges, pages and bodies, read out of a request: what comes out of here is valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, request

from docker_registry.api import body_memory, byte_ranges
from docker_registry.api.byte_ranges import ByteRange
from docker_registry.body import open_body
from docker_registry.errors import (
    DigestInvalid,
    PageInvalid,
    UploadInvalid,
)
from docker_registry.registry.intake import Body
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag, parse_reference
from docker_registry.registry.payloads import MANIFEST_TYPES
from docker_registry.registry.tags import Condition
from docker_registry.registry.upload_sessions import parse_upload_id

#: What stands in a URL, and how it becomes a value.
_PARSERS: Final = {
    "name": RepositoryName.parse,
    "reference": parse_reference,
    "digest": Digest.parse,
    "upload_id": parse_upload_id,
    "image_id": ImageId.parse,
    "repository": ImageRepositoryName.parse,
    "tag": Tag.parse,
}

# Content-Range of a chunk is `0-99` in the OCI specification; some clients write it as HTTP does, `bytes 0-99/*`.
_CHUNK_RANGE: Final = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]+)?", re.IGNORECASE)


def parse_url_values(_endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
    """Turn the texts of a matched URL into values; a hook of every blueprint."""
    for key, text in (values or {}).items():
        if key in _PARSERS and values is not None:
            values[key] = _PARSERS[key](text)


def body() -> Body:
    """Return the request's body, to be read once."""
    return open_body(request.environ)


def read_body(max_bytes: int) -> bytes:
    """
    Return the whole of a small body.

    Raises:
        TooLarge: it is longer than *max_bytes*; no more than that is read.
        SizeInvalid: it ended early.
        Overloaded: too many bodies are being received at the same time.
    """
    return body_memory.read(body(), max_bytes)


def content_type() -> str | None:
    """Return Content-Type as it was sent, without its parameters, which are to be ignored; None when there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip() or None


def digest_parameter() -> Digest:
    """
    Return the ``digest`` of the query.

    Raises:
        DigestInvalid: there is none, or it is not a digest.
    """
    text = request.args.get("digest")
    if text is None:
        raise DigestInvalid("The query lacks the digest.")
    return Digest.parse(text)


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """
    Where the body of a PATCH or PUT belongs in the blob.

    Attributes:
        start: offset of its first byte; None when the client did not say.
        length: bytes; None when the client did not say.
    """

    start: int | None = None
    length: int | None = None


def chunk_range() -> ChunkRange:
    """
    Return what Content-Range says.

    Raises:
        UploadInvalid: it says nothing that can be understood.
    """
    text = request.headers.get("Content-Range")
    if text is None:
        return ChunkRange()
    match = _CHUNK_RANGE.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise UploadInvalid("Content-Range is not valid.", range=text[:64])
    return ChunkRange(int(match[1]), int(match[2]) - int(match[1]) + 1)


def wanted_parts(size: int, validator: str) -> tuple[ByteRange, ...]:
    """
    Return the parts of a content that Range asks for; none where all of it is to be sent.

    Range means nothing but for GET (RFC 9110, section 14.2), and is ignored when If-Range names another content.

    Args:
        size: bytes of the whole content.
        validator: the ETag or date of the content, which If-Range must repeat.

    Raises:
        RangeNotSatisfiable: as for :func:`byte_ranges.parse`.
    """
    if request.method != "GET" or request.headers.get("If-Range", validator) != validator:
        return ()
    return byte_ranges.parse(request.headers.get("Range"), size)


def is_unmodified(etag: str) -> bool:
    """Tell whether the client already has this content (If-None-Match; RFC 9110, section 13.1.2)."""
    return request.if_none_match.contains_weak(etag.strip('"'))


def tag_condition() -> Condition | None:
    """
    Return what If-Match and If-None-Match demand of the content that is to be replaced; None for nothing.

    RFC 9110, section 13.1: both hold tags of entities, here the digests of manifests, or ``*`` for any.
    """
    match, none_match = request.if_match, request.if_none_match
    if not match and not none_match:
        return None

    def holds(current: Digest | None) -> bool:
        there = current is not None
        if match and not (there and str(current) in match):
            return False
        return not (none_match and there and none_match.contains_weak(str(current)))

    return holds


def accepts(media_type: str) -> bool:
    """
    Tell whether a client that pulls by tag can read a manifest of this type.

    Only one that names types of manifests, and neither this one nor a wildcard, cannot: docker 1.10 to 17.05 is such
    a client and asks API V1 next. Who names no type of a manifest is taken to read them all.
    """
    accepted = {item.partition(";")[0].strip().lower() for item in request.headers.get("Accept", "").split(",")}
    if not accepted & MANIFEST_TYPES:
        return True
    return bool(accepted & {media_type.lower(), "*/*", "application/*"})


@dataclass(frozen=True, slots=True)
class PageRequest:
    """
    The part of a list that a client wants (end-8b).

    Attributes:
        count: entries at most.
        last: only what comes after it; empty for the beginning.
    """

    count: int
    last: str


def page(max_entries: int) -> PageRequest:
    """
    Return what ``n`` and ``last`` of the query ask for.

    Args:
        max_entries: the longest page; a larger ``n`` is cut down to it.

    Raises:
        PageInvalid: ``n`` is not a whole number of at least 0.
    """
    wanted = request.args.get("n")
    if wanted is not None and not (wanted.isascii() and wanted.isdigit() and len(wanted) < 19):
        raise PageInvalid(n=wanted[:64])
    return PageRequest(max_entries if wanted is None else min(int(wanted), max_entries), request.args.get("last", ""))


def link_next(response: Response, **query: str | int | Sequence[str]) -> Response:
    """Point from a page to the next one (RFC 8288)."""
    response.headers["Link"] = f'<{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
    return response


def stream(blocks: Iterable[bytes], status: int, headers: dict[str, str]) -> Response:
    """Answer with blocks that are sent as they come; the headers must say their length."""
    return Response(blocks, status, headers, direct_passthrough=True)
