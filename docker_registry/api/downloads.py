"""
Sends files of the store, or the ranges of them that a client requests (RFC 9110, section 14).

They are sent through the kernel, by nginx (X-Accel-Redirect), or by a redirect to the store itself. A file that is not
a single local file, such as an object of S3 or a blob that is still being received from an upstream, is sent in
segments (:class:`SegmentedBody`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Final

from flask import Response, request

from docker_registry.api.flask_app import PlainResponse, current_request
from docker_registry.api.multipart import MAX_GAP_BYTES, ByteRange, Multipart, MultipartFile
from docker_registry.errors import RangeNotSatisfiable, StorageError, UpstreamError
from docker_registry.registry.stored_file import FilePart, Segment, ServedFile

#: Block size for WSGI servers that read the file instead of using sendfile.
_BLOCK_BYTES: Final = 256 * 1024

#: Smaller files are sent directly: that is faster than a redirect.
_MIN_REDIRECTED_BYTES: Final = 64 * 1024

#: A Range header with more ranges is ignored. containers/storage (podman) requests up to 1024 at once.
MAX_RANGES: Final = 4096

_RANGES: Final = re.compile(r"bytes=([0-9\-, \t]*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


class Downloads:
    """Builds the responses that send files of the store."""

    def __init__(self, x_accel_prefix: str | None = None, *, redirect: bool = False) -> None:
        """
        Args:
            x_accel_prefix: prefix of an internal nginx location that serves the store; nginx then sends local files.
            redirect: whether clients are redirected to signed URLs of the store, if its driver provides them.
        """
        self._redirect = redirect
        self._x_accel_prefix = x_accel_prefix.rstrip("/") if x_accel_prefix else None

    def send(
        self, file: ServedFile, headers: Mapping[str, str], validator: str, *, redirect_status: int = 307
    ) -> Response:
        """
        Send a file or the parts that the Range header requests, or redirect the client to the store.

        Args:
            headers: response headers; those for length and ranges are added.
            validator: ETag or date that an If-Range header must equal for a partial response.
            redirect_status: status code of a redirect.

        Raises:
            RangeNotSatisfiable: a range ends before it begins, or all ranges are beyond the end.
        """
        headers = {**headers, "Accept-Ranges": "bytes"}
        if self._x_accel_prefix is not None and _is_local(file):
            # nginx handles Range itself.
            return Response(b"", 200, {**headers, "X-Accel-Redirect": f"{self._x_accel_prefix}/{file.path}"})
        parts = requested_ranges(file.size, validator)
        # Stores ignore a Range header with several ranges (Amazon S3 User Guide, "Downloading objects").
        if self._redirect and request.method == "GET" and file.size >= _MIN_REDIRECTED_BYTES and len(parts) < 2:
            url = file.redirect_url()
            if url is not None:  # the client repeats its Range header there
                return Response(b"", redirect_status, _redirect_headers(url, headers))
        if len(parts) > 1:
            return _send_parts(file, parts, headers)
        part = parts[0] if parts else ByteRange(0, file.size)
        headers["Content-Length"] = str(part.length)
        if parts:
            headers["Content-Range"] = part.content_range(file.size)
        return _send(file, part, 206 if parts else 200, headers)

    def send_whole(self, file: ServedFile, headers: Mapping[str, str]) -> Response:
        """Send a whole file without a redirect, ignoring Range; through the kernel if possible."""
        return _send(file, ByteRange(0, file.size), 200, {**headers, "Content-Length": str(file.size)})


def _redirect_headers(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a redirect, which must not be cached: the signed URL is valid for minutes only."""
    digest = {name: value for name, value in headers.items() if name == "Docker-Content-Digest"}
    return {**digest, "Location": url, "Cache-Control": "no-store"}


def _send(file: ServedFile, part: ByteRange, status: int, headers: dict[str, str]) -> Response:
    request = current_request()
    if request.method == "HEAD":
        return _stream((), status, headers)
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper else None
    if wrapper is None or opened is None:
        if wrapper is not None and _sends_segments():
            return _stream(wrapper(_segmented_body(file, part), _BLOCK_BYTES), status, headers)
        return _stream(_EagerBlocks(file.read(part.start, part.length)), status, headers)
    opened.seek(part.start)
    return _stream(wrapper(opened, _BLOCK_BYTES), status, headers)


def _segmented_body(file: ServedFile, part: ByteRange) -> SegmentedBody:
    segments = file.segments(part.start, part.length)
    if segments is not None:
        return SegmentedBody(segments)
    read = partial(file.read, part.start, part.length)
    return SegmentedBody(read(), read)


def _send_parts(file: ServedFile, parts: Sequence[ByteRange], headers: dict[str, str]) -> Response:
    multipart = Multipart(parts, file.size, headers["Content-Type"])
    headers = {**headers, "Content-Type": multipart.content_type, "Content-Length": str(multipart.length)}
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper and _sends_segments() else None
    blocks = multipart.blocks(file.read, MAX_GAP_BYTES)
    if wrapper is None or opened is None:
        return _stream(_EagerBlocks(blocks), 206, headers)
    return _stream(wrapper(MultipartFile(opened, multipart, blocks), _BLOCK_BYTES), 206, headers)


def _sends_segments() -> bool:
    return bool(getattr(request.environ.get("gunicorn.socket"), "sends_segments", False))


def _is_local(file: ServedFile) -> bool:
    opened = file.open()
    if opened is None:
        return False
    opened.close()
    return True


def _stream(blocks: Iterable[bytes], status: int, headers: dict[str, str]) -> Response:
    """Return a response that streams blocks; the headers must include Content-Length."""
    return PlainResponse(status, headers, blocks, direct_passthrough=True)


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
    environ = current_request().environ
    header = environ.get("HTTP_RANGE")
    if header is None or environ["REQUEST_METHOD"] != "GET" or environ.get("HTTP_IF_RANGE", validator) != validator:
        return ()
    return _parse_ranges(header, size)


def _parse_ranges(header: str, size: int) -> tuple[ByteRange, ...]:
    """
    Return the ranges that a Range header requests, in its order; an empty tuple means the whole content.

    Ranges beyond the end are dropped. Overlapping ranges are joined, so the total never exceeds the content. Adjacent
    ranges stay separate: containers/image expects one part per requested range, and requests one range per file, even
    for adjacent files. Malformed headers, other units and headers with more than MAX_RANGES ranges are ignored, as is
    any Range header for empty content.

    Args:
        header: value of the Range header.
        size: bytes of the whole content.

    Raises:
        RangeNotSatisfiable: a range ends before it begins, or all ranges are beyond the end.
    """
    match = _RANGES.fullmatch(header.strip())
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


@contextmanager
def _disconnecting_on_upstream_error() -> Iterator[None]:
    """Convert a failed upstream's error, which the mirror has logged, to one for which the server only disconnects."""
    try:
        yield
    except UpstreamError as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error)) from None


class _EagerBlocks:
    """Blocks whose first one is read eagerly, so that an error in reading it can still become the response."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._first: bytes | None = next(self._blocks, None)

    def __iter__(self) -> Iterator[bytes]:
        first, self._first = self._first, None
        if first is not None:
            yield first
            with _disconnecting_on_upstream_error():
                yield from self._blocks

    def close(self) -> None:
        """Close the underlying iterator, even if it was never iterated; called by the WSGI server."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


class SegmentedBody:
    """
    A body that is sent in segments; gunicorn takes it for an open file (see :meth:`ClientSocket.sendfile`).

    Attributes:
        is_arriving: True: the next segment may take a while, so each one is sent at once.
        read_again: reads the same body from the store, for another response; None if that is not possible, as for a
            body that is still being received.
    """

    is_arriving = True

    def __init__(self, segments: Iterator[Segment], read_again: Callable[[], Iterator[bytes]] | None = None) -> None:
        """
        Args:
            segments: of the body; the first one is awaited, so that an error can still become the response.
        """
        self.read_again = read_again
        self._segments = segments
        self._first: Segment = next(segments, b"")
        self._context: AbstractContextManager[None] | None = None
        self._entered = ExitStack()
        self._file = open(os.devnull, "rb", buffering=0)  # noqa: SIM115, PTH123 - closed by close()

    def hold(self, context: AbstractContextManager[None]) -> None:
        """
        Hold a context from the first segment until the body has been sent or is closed.

        The response can then not be repeated from :attr:`read_again`, which would not hold the context.
        """
        self._context = context
        self.read_again = None

    def fileno(self) -> int:
        """Return a descriptor, whose position gunicorn sets; the segments have descriptors of their own."""
        return self._file.fileno()

    def segments(self) -> Iterator[Segment]:
        """
        Yield the segments to send; the file of each is open until the next one is requested.

        Raises:
            ConnectionResetError: an upstream failed; the server cuts the connection.
            RegistryError: the body cannot be read. If it has :attr:`read_again`, the error of an upstream is raised as
                it is, because the server converts errors that are no RegistryError to a StorageError then.
        """
        is_stored = self.read_again is not None
        self._begin()
        with nullcontext() if is_stored else _disconnecting_on_upstream_error(), self._entered:
            yield self._first
            yield from self._segments

    def read(self, size: int = -1) -> bytes:
        """
        Return the next block of the body, for a server that is configured not to use sendfile; empty at its end.

        Raises:
            ConnectionResetError: as in :meth:`segments`.
            StorageError: the body cannot be read, or its file has become shorter.
        """
        self._begin()
        with _disconnecting_on_upstream_error():
            segment, self._first = self._first or next(self._segments, b""), b""
        if isinstance(segment, bytes):
            return segment
        block = os.pread(segment.descriptor, segment.length if size < 0 else min(size, segment.length), segment.offset)
        if not block:
            raise StorageError("A stored file became shorter while it was read.")
        if len(block) < segment.length:
            self._first = FilePart(segment.descriptor, segment.offset + len(block), segment.length - len(block))
        return block

    def close(self) -> None:
        """Close the segments and leave the context."""
        close = getattr(self._segments, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._file.close()
            self._entered.close()

    def _begin(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._entered.enter_context(context)
