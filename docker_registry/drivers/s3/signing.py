"""Signed URLs, under which anybody may read an object for some time."""

from __future__ import annotations

from typing import Protocol

from docker_registry.drivers.s3.bucket import S3Bucket
from docker_registry.drivers.s3.client import translated


class Signer(Protocol):
    """Makes URLs."""

    def url(self, key: str) -> str:
        """Return a URL under which an object may be read."""


class S3Signer:
    """Signs with the credentials of the bucket (S3 API Reference, "Authenticating Requests: Query Parameters")."""

    def __init__(self, bucket: S3Bucket, seconds: int) -> None:
        self._bucket = bucket
        self._seconds = seconds

    def url(self, key: str) -> str:
        """See :class:`Signer`."""
        place = {"Bucket": self._bucket.name, "Key": key}
        with translated():
            return str(self._bucket.client.generate_presigned_url("get_object", place, self._seconds))
