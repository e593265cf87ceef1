"""
Resumable uploads of large files (https://cloud.google.com/storage/docs/resumable-uploads).

The object becomes visible when the last chunk has arrived. An unfinished upload is neither listed nor billed; Google
discards it after a week.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import google_crc32c

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.gcs.bucket import GcsBucket
from docker_registry.drivers.gcs.client import RETRIED, ApiResponse
from docker_registry.drivers.objects import chunks
from docker_registry.errors import PathNotFound, StorageError, StorageUnavailable

#: The size of every chunk but the last must be a multiple of this.
CHUNK_UNIT_BYTES: Final = 256 * 1024
#: Maximum number of consecutive resumes of a chunk that transfer no byte.
_RESUMES: Final = 5
#: Status for bytes that do not continue the upload: a request that seemed lost has arrived after all.
_OUT_OF_SEQUENCE: Final = 400
#: After these status codes, Google is asked how many bytes have arrived.
_QUERIED: Final = RETRIED | {_OUT_OF_SEQUENCE}
_RANGE = re.compile(r"bytes=0-([0-9]+)")


def write(bucket: GcsBucket, key: str, blocks: Iterable[Bytes], chunk_bytes: int) -> int:
    """
    Write an object of any size. It becomes visible when *blocks* ends; a failed upload leaves nothing behind.

    Args:
        chunk_bytes: size of the chunks, of which up to two are in memory; a smaller file is sent in one request.

    Returns:
        The object's size in bytes.
    """
    contents = chunks(blocks, chunk_bytes)
    content = next(contents)
    if len(content) < chunk_bytes:
        bucket.put(key, content)
        return len(content)
    upload = _Upload(bucket, key)
    try:
        while len(content) == chunk_bytes:
            upload.send(content)
            content = next(contents)
        return upload.finish(content)
    except BaseException:
        upload.cancel()
        raise


class _Upload:
    """One resumable upload."""

    def __init__(self, bucket: GcsBucket, key: str) -> None:
        self._bucket = bucket
        self._size = 0
        self._crc32c = google_crc32c.Checksum()
        try:
            response = bucket.api.send(
                "POST",
                f"/upload/storage/v1/b/{quote(bucket.name, safe='')}/o",
                params={"uploadType": "resumable", "name": key},
                headers={"X-Upload-Content-Type": "application/octet-stream"},
                json={},
            ).check()
        except PathNotFound:
            raise StorageError(f"The bucket {bucket.name} (gcs_bucket) does not exist or is not accessible.") from None
        self._url = response.response.headers["Location"]

    def send(self, content: bytes) -> None:
        """Send a chunk that is not the last one."""
        self._send(content, "*")

    def finish(self, content: bytes) -> int:
        """Send the last chunk, which may be empty, verify the object, and return its size in bytes."""
        response = self._send(content, str(self._size + len(content)))
        self._bucket.check_upload(response, self._size, self._crc32c.digest())
        return self._size

    def cancel(self) -> None:
        """Discard the upload; errors are ignored."""
        with suppress(StorageError):
            self._bucket.api.send("DELETE", self._url, attempts=1)

    def _send(self, content: bytes, total: str) -> ApiResponse:
        """Send a chunk; resend the bytes that did not arrive until Google has received all of them."""
        start, end, failures = self._size, self._size + len(content), 0
        position = start
        while True:
            response = self._put(content[position - start :], position, total)
            if (
                response is None
                or response.status in _QUERIED
                or (response.status == 308 and _received_bytes(response) == position)
            ):
                failures += 1
                if failures > _RESUMES:
                    if response is not None and response.status == _OUT_OF_SEQUENCE:
                        response.check()
                    raise StorageUnavailable("Google Cloud Storage temporarily rejects an upload.")
                time.sleep(0.1 * 2**failures)
                response = self._request(total)
            if response.status in (200, 201):
                break
            if response.status != 308:
                self._raise_for(response)
            received = _received_bytes(response)
            position, failures = received, 0 if received > position else failures
            if position == end and total == "*":
                break
            if not start <= position <= end:
                raise StorageUnavailable("Google Cloud Storage lost part of an upload.")
        self._crc32c.update(content)
        self._size = end
        return response

    def _put(self, content: bytes, position: int, total: str) -> ApiResponse | None:
        """Send bytes once; return None if there is no response, so that any number of them may have arrived."""
        span = f"{position}-{position + len(content) - 1}" if content else "*"
        headers = {"Content-Range": f"bytes {span}/{total}"}
        try:
            return self._bucket.api.send("PUT", self._url, headers=headers, body=content, attempts=1)
        except StorageUnavailable:
            return None

    def _request(self, total: str) -> ApiResponse:
        """Query the state of the upload."""
        return self._bucket.api.send("PUT", self._url, headers={"Content-Range": f"bytes */{total}"}, body=b"")

    def _raise_for(self, response: ApiResponse) -> None:
        try:
            response.check()
        except PathNotFound:
            raise StorageUnavailable("Google Cloud Storage lost an upload.") from None
        raise StorageError(f"Google Cloud Storage answered an upload with status {response.status}.")


def _received_bytes(response: ApiResponse) -> int:
    """Return how many bytes of the object have arrived."""
    match = _RANGE.fullmatch(response.response.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0
