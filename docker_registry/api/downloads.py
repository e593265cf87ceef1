"""Sending files of the store: by the kernel where it can, by a server in front, or by the store itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from flask import Response, request

from docker_registry.api import requests
from docker_registry.api.byte_ranges import ByteRange
from docker_registry.api.multipart import MAX_GAP_BYTES, Multipart, MultipartFile
from docker_registry.registry.stored_file import StoredFile

#: For servers that read the file themselves instead of letting the kernel send it.
_BLOCK_BYTES: Final = 256 * 1024

#: A smaller file is here before the client could have asked somebody else for it.
_LEAST_REDIRECTED_BYTES: Final = 64 * 1024


class Downloads:
    """How files leave the registry."""

    def __init__(self, x_accel_prefix: str | None = None, *, redirect: bool = False) -> None:
        """
        Args:
            x_accel_prefix: of an internal location of nginx over the store, which then sends local files itself.
            redirect: whether clients are sent to signed URLs of the store, where its driver has them.
        """
        self._redirect = redirect
        self._x_accel_prefix = x_accel_prefix.rstrip("/") if x_accel_prefix else None

    def send(
        self, file: StoredFile, headers: Mapping[str, str], validator: str, *, redirect_status: int = 307
    ) -> Response:
        """
        Send a file, or the parts of it that Range asks for, or redirect to where else it is.

        Args:
            headers: of the answer; those of its length and of ranges are added.
            validator: what If-Range must hold for a part to be sent.
            redirect_status: with which the client is sent elsewhere.

        Raises:
            RangeNotSatisfiable: all parts lie beyond the end.
        """
        headers = {**headers, "Accept-Ranges": "bytes"}
        if self._x_accel_prefix is not None and _is_local(file):
            # nginx reads Range by itself.
            return Response(b"", 200, {**headers, "X-Accel-Redirect": f"{self._x_accel_prefix}/{file.path}"})
        parts = requests.wanted_parts(file.size, validator)
        # Stores ignore a Range with several parts (Amazon S3 User Guide, "Downloading objects"), so they are sent here.
        if self._redirect and request.method == "GET" and file.size >= _LEAST_REDIRECTED_BYTES and len(parts) < 2:
            url = file.redirect_url()
            if url is not None:  # the client repeats its Range there
                return Response(b"", redirect_status, _elsewhere(url, headers))
        if len(parts) > 1:
            return _send_parts(file, parts, headers)
        part = parts[0] if parts else ByteRange(0, file.size)
        headers["Content-Length"] = str(part.length)
        if parts:
            headers["Content-Range"] = part.content_range(file.size)
        return _send(file, part, 206 if parts else 200, headers)

    def send_whole(self, file: StoredFile, headers: Mapping[str, str]) -> Response:
        """Send all of a file from here, by the kernel where it can."""
        return _send(file, ByteRange(0, file.size), 200, {**headers, "Content-Length": str(file.size)})


def _elsewhere(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a redirect: what may be kept for ever is the file, not a URL that is good for minutes."""
    digest = {name: value for name, value in headers.items() if name == "Docker-Content-Digest"}
    return {**digest, "Location": url, "Cache-Control": "no-store"}


def _send(file: StoredFile, part: ByteRange, status: int, headers: dict[str, str]) -> Response:
    if request.method == "HEAD":
        return requests.stream((), status, headers)
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper else None
    if wrapper is None or opened is None:
        return requests.stream(_Begun(file.read(part.start, part.length)), status, headers)
    opened.seek(part.start)
    return requests.stream(wrapper(opened, _BLOCK_BYTES), status, headers)


def _send_parts(file: StoredFile, parts: Sequence[ByteRange], headers: dict[str, str]) -> Response:
    multipart = Multipart(parts, file.size, headers["Content-Type"])
    headers = {**headers, "Content-Type": multipart.content_type, "Content-Length": str(multipart.length)}
    wrapper = request.environ.get("wsgi.file_wrapper")
    sends_segments = getattr(request.environ.get("gunicorn.socket"), "sends_segments", False)
    opened = file.open() if wrapper and sends_segments else None
    blocks = multipart.blocks(file.read, MAX_GAP_BYTES)
    if wrapper is None or opened is None:
        return requests.stream(_Begun(blocks), 206, headers)
    return requests.stream(wrapper(MultipartFile(opened, multipart, blocks), _BLOCK_BYTES), 206, headers)


def _is_local(file: StoredFile) -> bool:
    opened = file.open()
    if opened is None:
        return False
    opened.close()
    return True


class _Begun:
    """Blocks of which the first is known, so that whatever keeps it from coming can still be answered."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._first: bytes | None = next(self._blocks, None)

    def __iter__(self) -> Iterator[bytes]:
        first, self._first = self._first, None
        if first is not None:
            yield first
            yield from self._blocks

    def close(self) -> None:
        """End the blocks, begun or not; called by the server."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
