"""Sending files of the store: whole or in part, by the kernel where it can, or by a server in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flask import Response, request

from docker_registry.api import requests
from docker_registry.registry.stored_file import StoredFile

#: For servers that read the file themselves instead of letting the kernel send it.
_BLOCK_BYTES: Final = 256 * 1024


class Downloads:
    """How files leave the registry."""

    def __init__(self, x_accel_prefix: str | None = None) -> None:
        """
        Args:
            x_accel_prefix: of an internal location of nginx over the store, which then sends local files itself.
        """
        self._x_accel_prefix = x_accel_prefix.rstrip("/") if x_accel_prefix else None

    def send(self, file: StoredFile, headers: Mapping[str, str], validator: str) -> Response:
        """
        Send a file, or the part of it that the client wants.

        Args:
            headers: of the answer; those of its length and of ranges are added.
            validator: what If-Range must hold for a part to be sent.

        Raises:
            RangeNotSatisfiable: the part lies beyond the end.
        """
        headers = {**headers, "Accept-Ranges": "bytes"}
        if self._x_accel_prefix is not None and _is_local(file):
            # nginx reads Range by itself.
            return Response(b"", 200, {**headers, "X-Accel-Redirect": f"{self._x_accel_prefix}/{file.path}"})
        # Range means nothing but for GET (RFC 9110, section 14.2).
        part = requests.byte_range(file.size, validator) if request.method == "GET" else None
        start, length = (part.start, part.length) if part else (0, file.size)
        headers["Content-Length"] = str(length)
        if part:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
        return _send(file, start, length, 206 if part else 200, headers)


def _send(file: StoredFile, start: int, length: int, status: int, headers: dict[str, str]) -> Response:
    if request.method == "HEAD":
        return requests.stream((), status, headers)
    wrapper = request.environ.get("wsgi.file_wrapper")
    opened = file.open() if wrapper else None
    if wrapper is None or opened is None:
        return requests.stream(file.read(start, length), status, headers)
    opened.seek(start)
    return requests.stream(wrapper(opened, _BLOCK_BYTES), status, headers)


def _is_local(file: StoredFile) -> bool:
    opened = file.open()
    if opened is None:
        return False
    opened.close()
    return True
