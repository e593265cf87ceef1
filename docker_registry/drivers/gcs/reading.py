"""Reading an object of Google Cloud Storage: after a broken connection another one goes on with the same generation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import requests

from docker_registry.drivers.gcs.client import NETWORK_ERRORS, Api
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_BLOCK_BYTES: Final = 256 * 1024
#: A broken read is taken up again so often without a single byte in between.
_RESUMES: Final = 3


class Reading:
    """
    One object while it is read.

    Attributes:
        generation: that is read; empty before it is open.
    """

    def __init__(self, api: Api, path: str) -> None:
        """
        Args:
            path: of the object (:func:`~.client.object_path`).
        """
        self.generation = ""
        self._api = api
        self._path = path

    def blocks(self, position: int, length: int | None) -> Iterator[bytes]:
        """
        Yield nothing once it is open, then the blocks.

        Args:
            position: the first byte.
            length: bytes at most; None reads to the end.

        Raises:
            PathNotFound: there is no such object; before the first block.
            StorageError: the rest cannot be had, or has been replaced.
        """
        end, failures = "" if length is None else str(position + length - 1), 0
        left, response = self._ask(position, end)
        yield b""
        while True:
            try:
                while left and (block := response.raw.read(min(_BLOCK_BYTES, left))):
                    position, left, failures = position + len(block), left - len(block), 0
                    yield block
            except NETWORK_ERRORS:
                pass
            finally:
                response.close()
            if not left:
                return
            if failures == _RESUMES:
                raise StorageUnavailable("Google Cloud Storage broke off the reading of a file again and again.")
            failures += 1
            time.sleep(0.1 * 2**failures)
            left, response = self._ask(position, end)

    def _ask(self, position: int, end: str) -> tuple[int, requests.Response]:
        """Ask for a part of an object, of the very generation that was begun; return how much comes, and the body."""
        params = {"alt": "media"}
        if self.generation:
            params["ifGenerationMatch"] = self.generation
        headers = {"Range": f"bytes={position}-{end}"} if position or end else {}
        answer = self._api.send("GET", self._path, params=params, headers=headers, stream=True)
        if answer.status == 416:  # it ends before
            answer.response.close()
            return 0, answer.response
        try:
            response = answer.check().response
        except (PathNotFound, PreconditionFailed) as error:
            if self.generation:
                raise StorageError("The file was replaced or removed while it was read.") from None
            raise error from None
        self.generation = response.headers["X-Goog-Generation"]
        return int(response.headers["Content-Length"]), response
