"""Signed URLs, which allow reading an object without credentials for a limited time."""

from __future__ import annotations

from typing import Protocol

from docker_registry.drivers.s3.bucket import S3Bucket
from docker_registry.drivers.s3.client import translated


class Signer(Protocol):
    """Creates signed URLs."""

    def url(self, key: str) -> str:
        """Return a signed URL of an object."""


class S3Signer:
    """Signs URLs with the bucket's credentials (S3 API Reference, "Authenticating Requests: Query Parameters")."""

    def __init__(self, bucket: S3Bucket, seconds: int) -> None:
        self._bucket = bucket
        self._seconds = seconds

    def url(self, key: str) -> str:
        """See :class:`Signer`."""
        parameters = {"Bucket": self._bucket.name, "Key": key}
        with translated():
            return str(self._bucket.client.generate_presigned_url("get_object", parameters, self._seconds))
