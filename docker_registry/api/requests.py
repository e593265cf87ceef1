"""
Reads the values of a request: its client, pages, conditions and bodies. Returned values are valid.

The registry's worker sets ``wsgi.input`` to an object that receives directly into the caller's buffer and knows whether
the body is complete. Other servers only offer ``read`` and do not always report a truncated body; :class:`PlainBody`
detects truncation as far as possible. Bodies that are read into memory share a budget, which all requests of a worker
use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gunicorn.http.errors import ParseException

from docker_registry.api.flask_app import BODY_MEMORY, PRINCIPAL, RESERVATIONS, current_request
from docker_registry.errors import (
    DigestInvalid,
    Invalid,
    Overloaded,
    PageInvalid,
    SizeInvalid,
    TooLarge,
    UploadInvalid,
)
from docker_registry.http.exchange import CONTEXT, RequestContext
from docker_registry.registry.actor import ANONYMOUS, Actor, Principal, Reason
from docker_registry.registry.ingest import Body
from docker_registry.registry.manifest_payload import MANIFEST_TYPES
from docker_registry.registry.names import (
    Digest,
    RepositoryName,
)
from docker_registry.registry.tag_changes import Condition
from docker_registry.resources.memory_budget import MemoryBudget

#: Where access control puts whether a push of an image only proves that the client has its layer.
MUST_PROVE: Final = "docker_registry.must_prove"

#: Where the name in a request is kept if its repository has another name here, in the WSGI environment.
REQUESTED_NAME: Final = "docker_registry.requested_name"

# The OCI specification writes the Content-Range of a chunk as `0-99`; some clients use HTTP's `bytes 0-99/*`.
_CHUNK_RANGE: Final = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]+)?", re.IGNORECASE)

#: The query of most commits. Flask takes fifty calls to parse a query.
_DIGEST_QUERY: Final = re.compile(r"digest=([a-z0-9]+)(?::|%3[Aa])([0-9a-f]+)")

#: Transfer codings that the server has decoded. gunicorn also accepts `gzip, chunked` but does not decode gzip.
_TRANSFER_CODINGS: Final = {"", "chunked", "identity"}

#: Size of the first block of a body in memory; each further block doubles the total, up to a maximum block size.
_FIRST_BLOCK_BYTES: Final = 8 * 1024
_LARGEST_BLOCK_BYTES: Final = 1024 * 1024


def requested_name(name: RepositoryName) -> str:
    """Return the name by which the client has requested a repository; that of a mirrored one may differ here."""
    return str(current_request().environ.get(REQUESTED_NAME, name))


def principal() -> Principal:
    """Return the principal of the current request; without access control, always the anonymous one."""
    found: Principal = current_request().environ.get(PRINCIPAL, ANONYMOUS)
    return found


def actor(reason: Reason) -> Actor:
    """Return the originator of the changes that the current request makes."""
    request = current_request()
    environ = request.environ
    context: RequestContext = environ[CONTEXT]
    return Actor(
        reason, environ.get(PRINCIPAL, ANONYMOUS), context.client or request.remote_addr or "", context.request_id
    )


def must_prove() -> bool:
    """Return whether the client must push the layer of an image even if the registry has the image already."""
    return bool(current_request().environ.get(MUST_PROVE))


def is_restricted() -> bool:
    """Return whether access control applies to the current request."""
    return PRINCIPAL in current_request().environ


def body() -> Body:
    """
    Return the body of the current request; it can be read once.

    Raises:
        Invalid: Transfer-Encoding names an unsupported coding.
        SizeInvalid: Content-Length is not a number.
    """
    return open_body(current_request().environ)


def read_body(max_bytes: int) -> bytes:
    """
    Return the whole body of the current request; for small bodies.

    Memory is reserved as the body arrives and released when the request ends.

    Raises:
        TooLarge: the body is longer than *max_bytes*; at most one byte more is read.
        SizeInvalid: the body ended early.
        Overloaded: the budget is exhausted, and this body arrived slowly or waited too long.
    """
    environ = current_request().environ
    arriving = open_body(environ)
    if (arriving.length or 0) > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    length = max_bytes if arriving.length is None else arriving.length
    buffer_bytes = length + 1  # 1 more, to detect the end or an excess
    # Only the registry's own worker can cut off a body; under other workers, their timeouts end slow bodies.
    budget: MemoryBudget = environ[BODY_MEMORY]
    reservation = budget.open(revoke=getattr(arriving, "cut_off", None))
    environ[RESERVATIONS].append(reservation)
    blocks: list[memoryview] = []
    size = 0
    has_ended = False
    while not has_ended and size < buffer_bytes:
        block_bytes = min(max(size, _FIRST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES, buffer_bytes - size)
        reservation.grow(2 * block_bytes)  # for the block and its copy in the joined result
        block = memoryview(bytearray(block_bytes))
        filled = _fill(arriving, block)
        has_ended = filled < block_bytes
        size += filled
        blocks.append(block[:filled])
    if size > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    if reservation.is_revoked:
        raise Overloaded
    if not arriving.complete:
        raise SizeInvalid("The body ended early.")
    return bytes(blocks[0]) if len(blocks) == 1 else b"".join(blocks)


def content_type() -> str | None:
    """Return the Content-Type as sent, without its parameters; None if there is none."""
    return str(current_request().environ.get("CONTENT_TYPE", "")).partition(";")[0].strip() or None


def parameters() -> Mapping[str, str]:
    """Return the query parameters of the current request, of each the first value."""
    request = current_request()
    return request.args if request.query_string else {}  # most requests have none


def digest_parameter() -> Digest:
    """
    Return the ``digest`` query parameter.

    Raises:
        DigestInvalid: the parameter is missing or not a digest.
    """
    only = _DIGEST_QUERY.fullmatch(current_request().environ.get("QUERY_STRING", ""))
    text = f"{only[1]}:{only[2]}" if only is not None else parameters().get("digest")
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
    text = current_request().environ.get("HTTP_CONTENT_RANGE")
    if text is None:
        return ChunkRange()
    match = _CHUNK_RANGE.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise UploadInvalid("Content-Range is invalid.", range=text[:64])
    return ChunkRange(int(match[1]), int(match[2]) - int(match[1]) + 1)


def tag_condition() -> Condition | None:
    """
    Return the condition that If-Match and If-None-Match set for the tag to be replaced; None without these headers.

    RFC 9110, section 13.1: both contain entity tags, here the digests of manifests, or ``*`` for any. An
    empty If-Match names no version, so that it never holds.
    """
    request = current_request()
    has_match = "HTTP_IF_MATCH" in request.environ
    if not has_match and "HTTP_IF_NONE_MATCH" not in request.environ:
        return None
    match, none_match = request.if_match, request.if_none_match
    if not has_match and not none_match:
        return None

    def holds(current: Digest | None) -> bool:
        exists = current is not None
        if has_match and not (exists and str(current) in match):
            return False
        return not (none_match and exists and none_match.contains_weak(str(current)))

    return holds


def has_etag(digest: Digest) -> bool:
    """Return whether the client has the content of this digest already, by If-None-Match (RFC 9110, section 13.1.2)."""
    request = current_request()
    return "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(str(digest))


def accepts(media_type: str) -> bool:
    """
    Return whether a client that pulls by tag accepts manifests of this type.

    A client does not accept it if its Accept header names manifest types, but neither this one nor a wildcard; Docker
    1.10 to 17.05 then falls back to API V1. A client that names no manifest type is assumed to accept all.
    """
    header = current_request().environ.get("HTTP_ACCEPT", "")
    accepted = {item.partition(";")[0].strip().lower() for item in header.split(",")}
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
    query = parameters()
    text = query.get("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise PageInvalid(n=text[:64])
    return PageRequest(max_entries if text is None else min(int(text), max_entries), query.get("last", ""))


def open_body(environ: Mapping[str, Any]) -> Body:
    """
    Return the body of a request; it can be read once.

    Raises:
        Invalid: Transfer-Encoding names an unsupported coding.
        SizeInvalid: Content-Length is not a number.
    """
    codings = environ.get("HTTP_TRANSFER_ENCODING") or ""
    if codings and not _TRANSFER_CODINGS.issuperset(coding.strip(" \t").lower() for coding in codings.split(",")):
        raise Invalid("The only supported transfer coding is chunked.")
    stream = environ["wsgi.input"]
    if hasattr(stream, "readinto") and hasattr(stream, "complete"):
        direct: Body = stream
        return direct
    if codings:
        return PlainBody(stream, None)
    text = environ.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise SizeInvalid("Content-Length is not a number.")
    return PlainBody(stream, int(text))


class PlainBody:
    """A body that the server provides as a plain WSGI input stream."""

    def __init__(self, stream: Any, length: int | None) -> None:
        """
        Args:
            length: bytes announced by Content-Length; None for a chunked body.
        """
        self.length = length
        self.complete = False
        self._stream = stream
        self._size = 0
        self._is_cut_off = False

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        size = len(buffer) if self.length is None else min(len(buffer), self.length - self._size)
        block = self._read(size) if size else b""
        self._size += len(block)
        if not block:
            # A truncated chunked body raises, so this is its regular end; any other must have reached its length.
            self.complete = not self._is_cut_off and self.length in (None, self._size)
        buffer[: len(block)] = block
        return len(block)

    def _read(self, size: int) -> bytes:
        try:
            block: bytes = self._stream.read(size)
        except (OSError, ParseException):  # the client disconnected, or its chunks are malformed
            if self._is_cut_off:
                return b""
            self._is_cut_off = True
            return self._read(size)  # the bytes of this block that gunicorn had received before the error
        return block


def _fill(body: Body, block: memoryview) -> int:
    filled = 0
    while filled < len(block) and (arrived := body.readinto(block[filled:])):
        filled += arrived
    return filled
