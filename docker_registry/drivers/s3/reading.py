"""Read an S3 object; after a lost connection, the read resumes with the same version on a new one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from docker_registry.drivers.s3.client import NETWORK_ERRORS, code_of, translated
from docker_registry.drivers.s3.connections import Download
from docker_registry.drivers.s3.object_requests import ObjectRequests
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_BLOCK_BYTES: Final = 256 * 1024
#: In the body of a 404 for an object that does not exist; not in that for a bucket.
NO_KEY: Final = b"<Code>NoSuchKey</Code>"
#: Maximum number of consecutive resumes of a read that receive no byte.
_RESUMES: Final = 3


class Reading:
    """
    One read of an object.

    Attributes:
        etag: ETag of the version that is read; empty until the object is open.
    """

    def __init__(self, client: Any, requests: ObjectRequests, bucket: str, key: str) -> None:
        """
        Args:
            client: of botocore, for what *requests* leave to it.
        """
        self.etag = ""
        self._client = client
        self._requests = requests
        self._key = key
        self._object = {"Bucket": bucket, "Key": key}

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
        remaining, body = self._request(position, end)
        first: tuple[bytes, ...] = (b"",)
        while True:
            try:
                yield from first
                first = ()
                while remaining and (block := body.read(_BLOCK_BYTES)):
                    position, remaining, failures = position + len(block), remaining - len(block), 0
                    yield block
            except NETWORK_ERRORS:
                pass
            finally:
                if body is not None:
                    body.close()
            if not remaining:
                return
            if failures == _RESUMES:
                raise StorageUnavailable("S3 interrupted a download repeatedly.")
            failures += 1
            time.sleep(0.1 * 2**failures)
            missing = remaining
            remaining, body = self._request(position, end)
            if remaining != missing:
                if body is not None:
                    body.close()
                raise StorageError("The file was replaced while it was read.")

    def _request(self, position: int, end: str) -> tuple[int, Any]:
        """Request a range of the version that is being read; return its length in bytes and the body."""
        options = {"IfMatch": self.etag} if self.etag else {}
        if position or end:
            options["Range"] = f"bytes={position}-{end}"
        download = self._requests.download(self._key, options)
        if isinstance(download, Download):
            etag, content_range = download.headers.get("etag", ""), download.headers.get("content-range", "")
            if etag and etag == (self.etag or etag) and _is_requested(content_range, position, options):
                self.etag = etag
                return download.remaining, download
            download.close()
        elif download is not None and download.status == 404 and NO_KEY in download.content and not self.etag:
            raise PathNotFound
        return self._request_by_client(position, options)

    def _request_by_client(self, position: int, options: dict[str, str]) -> tuple[int, Any]:
        """Request as :meth:`_request` does, with retries and with the errors of every response."""
        try:
            with translated():
                try:
                    response = self._client.get_object(**self._object, **options)
                except ClientError as error:
                    if code_of(error) not in ("InvalidRange", "416"):
                        raise
                    self.etag = self._client.head_object(**self._object)["ETag"]  # the range starts beyond the end
                    return 0, None
        except PreconditionFailed:
            raise StorageError("The file was replaced while it was read.") from None
        except PathNotFound:
            if self.etag:
                raise StorageError("The file was removed while it was read.") from None
            raise
        if not _is_requested(response.get("ContentRange", ""), position, options):
            response["Body"].close()
            raise StorageError("S3 ignores the range of a request.")
        if self.etag not in ("", response["ETag"]):
            response["Body"].close()
            raise StorageError("The file was replaced while it was read.")
        self.etag = response["ETag"]
        return response["ContentLength"], response["Body"]


def _is_requested(content_range: str, position: int, options: Mapping[str, str]) -> bool:
    """Return whether a response begins at the requested position; it has no Content-Range if it is a whole object."""
    return content_range.startswith(f"bytes {position}-") if "Range" in options else not content_range
