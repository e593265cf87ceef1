"""Read an S3 object; after a lost connection, the read resumes with the same version on a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from docker_registry.drivers.object_reading import Body, ObjectReading
from docker_registry.drivers.s3.client import NETWORK_ERRORS, code_of, translated
from docker_registry.drivers.s3.connections import Download
from docker_registry.drivers.s3.object_requests import ObjectRequests
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError

#: In the body of a 404 for an object that does not exist; not in that for a bucket.
NO_KEY: Final = b"<Code>NoSuchKey</Code>"


class Reading(ObjectReading):
    """One read of an object, whose version is its ETag."""

    store = "S3"
    network_errors = NETWORK_ERRORS

    def __init__(self, client: Any, requests: ObjectRequests, bucket: str, key: str) -> None:
        """
        Args:
            client: of botocore, for what *requests* leave to it.
        """
        super().__init__()
        self._client = client
        self._requests = requests
        self._key = key
        self._object = {"Bucket": bucket, "Key": key}

    def _request(self, position: int, end: str) -> tuple[int, Body | None]:
        options = {"IfMatch": self.version} if self.version else {}
        if position or end:
            options["Range"] = f"bytes={position}-{end}"
        download = self._requests.download(self._key, options)
        if isinstance(download, Download):
            etag, content_range = download.headers.get("etag", ""), download.headers.get("content-range", "")
            if etag and etag == (self.version or etag) and _is_requested(content_range, position, options):
                self.version = etag
                return download.remaining, download
            download.close()
        elif download is not None and download.status == 404 and NO_KEY in download.content and not self.version:
            raise PathNotFound
        return self._request_by_client(position, options)

    def _request_by_client(self, position: int, options: dict[str, str]) -> tuple[int, Body | None]:
        """Request as :meth:`_request` does, with retries and with the errors of every response."""
        try:
            with translated():
                try:
                    response = self._client.get_object(**self._object, **options)
                except ClientError as error:
                    if code_of(error) not in ("InvalidRange", "416"):
                        raise
                    self.version = self._client.head_object(**self._object)["ETag"]  # the range starts beyond the end
                    return 0, None
        except PreconditionFailed:
            raise StorageError("The file was replaced while it was read.") from None
        except PathNotFound:
            if self.version:
                raise StorageError("The file was removed while it was read.") from None
            raise
        if not _is_requested(response.get("ContentRange", ""), position, options):
            response["Body"].close()
            raise StorageError("S3 ignores the range of a request.")
        if self.version not in ("", response["ETag"]):
            response["Body"].close()
            raise StorageError("The file was replaced while it was read.")
        self.version = response["ETag"]
        return response["ContentLength"], response["Body"]


def _is_requested(content_range: str, position: int, options: Mapping[str, str]) -> bool:
    """Return whether a response begins at the requested position; it has no Content-Range if it is a whole object."""
    return content_range.startswith(f"bytes {position}-") if "Range" in options else not content_range
