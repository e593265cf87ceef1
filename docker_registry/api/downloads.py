"""Sends files of the store: through the kernel, nginx (X-Accel-Redirect), or a redirect to the store itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from flask import Response, request

from docker_registry.api import requests
from docker_registry.api.arriving_body import ArrivingBody
from docker_registry.api.multipart import MAX_GAP_BYTES, Multipart, MultipartFile
from docker_registry.api.requests import ByteRange
from docker_registry.registry.stored_file import ServedFile

#: Block size for WSGI servers that read the file instead of using sendfile.
_BLOCK_BYTES: Final = 256 * 1024

#: Smaller files are sent directly: that is faster than a redirect.
_MIN_REDIRECTED_BYTES: Final = 64 * 1024


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
            RangeNotSatisfiable: a requested range is invalid, or all are beyond the end.
        """
        headers = {**headers, "Accept-Ranges": "bytes"}
        if self._x_accel_prefix is not None and _is_local(file):
            # nginx handles Range itself.
            return Response(b"", 200, {**headers, "X-Accel-Redirect": f"{self._x_accel_prefix}/{file.path}"})
        parts = requests.requested_ranges(file.size, validator)
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
    if request.method == "HEAD":
        return requests.stream((), status, headers)
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper else None
    if wrapper is None or opened is None:
        segments = file.segments(part.start, part.length) if wrapper and _sends_segments() else None
        if wrapper is not None and segments is not None:
            return requests.stream(wrapper(ArrivingBody(segments), _BLOCK_BYTES), status, headers)
        return requests.stream(_EagerBlocks(file.read(part.start, part.length)), status, headers)
    opened.seek(part.start)
    return requests.stream(wrapper(opened, _BLOCK_BYTES), status, headers)


def _send_parts(file: ServedFile, parts: Sequence[ByteRange], headers: dict[str, str]) -> Response:
    multipart = Multipart(parts, file.size, headers["Content-Type"])
    headers = {**headers, "Content-Type": multipart.content_type, "Content-Length": str(multipart.length)}
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper and _sends_segments() else None
    blocks = multipart.blocks(file.read, MAX_GAP_BYTES)
    if wrapper is None or opened is None:
        return requests.stream(_EagerBlocks(blocks), 206, headers)
    return requests.stream(wrapper(MultipartFile(opened, multipart, blocks), _BLOCK_BYTES), 206, headers)


def _sends_segments() -> bool:
    return bool(getattr(request.environ.get("gunicorn.socket"), "sends_segments", False))


def _is_local(file: ServedFile) -> bool:
    opened = file.open()
    if opened is None:
        return False
    opened.close()
    return True


class _EagerBlocks:
    """Blocks whose first one is read eagerly, so that an error in reading it can still become the response."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._first: bytes | None = next(self._blocks, None)

    def __iter__(self) -> Iterator[bytes]:
        first, self._first = self._first, None
        if first is not None:
            yield first
            yield from self._blocks

    def close(self) -> None:
        """Close the underlying iterator, even if it was never iterated; called by the WSGI server."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
