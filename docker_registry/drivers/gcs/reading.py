"""Read a Google Cloud Storage object; after a lost connection, the read resumes with the same generation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import requests

from docker_registry.drivers.gcs.client import NETWORK_ERRORS, Api
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_BLOCK_BYTES: Final = 256 * 1024
#: Maximum number of consecutive resumes of a read that receive no byte.
_RESUMES: Final = 3


class Reading:
    """
    One read of an object.

    Attributes:
        generation: the generation that is read; empty until the object is open.
    """

    def __init__(self, api: Api, path: str) -> None:
        """
        Args:
            path: URL path of the object (:func:`~.client.object_path`).
        """
        self.generation = ""
        self._api = api
        self._path = path

    def blocks(self, position: int, length: int | None) -> Iterator[bytes]:
        """
        Yield one empty block when the object is open, then its content.

        Args:
            position: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: there is no such object; raised before the first block.
            StorageError: the object cannot be read further, or was replaced or removed.
        """
        end, failures = "" if length is None else str(position + length - 1), 0
        remaining, response = self._request(position, end)
        yield b""
        while True:
            try:
                while remaining and (block := response.raw.read(min(_BLOCK_BYTES, remaining))):
                    position, remaining, failures = position + len(block), remaining - len(block), 0
                    yield block
            except NETWORK_ERRORS:
                pass
            finally:
                response.close()
            if not remaining:
                return
            if failures == _RESUMES:
                raise StorageUnavailable("Google Cloud Storage interrupted a download repeatedly.")
            failures += 1
            time.sleep(0.1 * 2**failures)
            remaining, response = self._request(position, end)

    def _request(self, position: int, end: str) -> tuple[int, requests.Response]:
        """Request a range of the generation that is being read; return its length in bytes and the response."""
        params = {"alt": "media"}
        if self.generation:
            params["ifGenerationMatch"] = self.generation
        headers = {"Range": f"bytes={position}-{end}"} if position or end else {}
        api_response = self._api.send("GET", self._path, params=params, headers=headers, stream=True)
        if api_response.status == 416:  # the range starts beyond the object's end
            api_response.response.close()
            return 0, api_response.response
        try:
            response = api_response.check().response
        except (PathNotFound, PreconditionFailed) as error:
            if self.generation:
                raise StorageError("The file was replaced or removed while it was read.") from None
            raise error from None
        self.generation = response.headers["X-Goog-Generation"]
        return int(response.headers["Content-Length"]), response
