"""
The driver for buckets of Google Cloud Storage.

An object's name is ``storage_path`` followed by the path. Buckets of docker-registry 0.7 to 0.9 are served unchanged,
as are those of registry:2 and 3, whose ``rootdirectory`` corresponds to ``storage_path``.

Versions are generations; conditional puts use ``ifGenerationMatch``. :mod:`~docker_registry.drivers.gcs.upload` writes
large files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from google.auth.credentials import Signing
from google.cloud import storage

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.gcs import upload
from docker_registry.drivers.gcs.bucket import Entry, GcsBucket
from docker_registry.drivers.gcs.client import Account
from docker_registry.drivers.objects import OBJECT_CAPABILITIES, VersionedObjectDriver
from docker_registry.errors import ConfigError
from docker_registry.settings import Setting, sent


class GcsDriver(VersionedObjectDriver[Entry]):
    """Stores files in a Google Cloud Storage bucket."""

    capabilities = replace(OBJECT_CAPABILITIES, if_match=True, remove_if_match=True)

    _objects: GcsBucket

    settings: ClassVar[tuple[Setting, ...]] = sent(
        (
            Setting("storage_path", str, "/registry", "Prefix of all object names."),
            Setting("gcs_bucket", help="Name of the bucket, which must exist."),
            Setting("boto_bucket", help="Alias of `gcs_bucket`."),
            Setting(
                "gcs_credentials_file",
                Path,
                None,
                "JSON key file of a service account. When unset, google-auth finds the credentials.",
            ),
            Setting("gcs_endpoint", help="URL of a compatible store other than Google's."),
            Setting("gcs_timeout", int, 60, "Timeout for a response of the store.", unit="seconds", minimum=1),
            Setting(
                "gcs_chunk_bytes",
                int,
                16777216,
                "Chunk size of large files, a multiple of 262144; every upload needs twice this memory.",
                unit="bytes",
                minimum=upload.CHUNK_UNIT_BYTES,
            ),
            Setting("gcs_redirect_seconds", int, 1200, "Lifetime of signed URLs.", unit="seconds", minimum=1),
        )
    )

    def __init__(
        self,
        *,
        storage_path: str = "/registry",
        gcs_bucket: str | None = None,
        boto_bucket: str | None = None,
        gcs_credentials_file: Path | None = None,
        gcs_endpoint: str | None = None,
        gcs_timeout: int = 60,
        gcs_chunk_bytes: int = 16 * 1024 * 1024,
        gcs_redirect_seconds: int = 1200,
    ) -> None:
        """
        Raises:
            ConfigError: a setting is missing or wrong, or there are no credentials.
            StorageError: the bucket cannot be used.
        """
        name = gcs_bucket or boto_bucket
        if not name:
            raise ConfigError("gcs_bucket is not set")
        if gcs_chunk_bytes % upload.CHUNK_UNIT_BYTES:
            raise ConfigError(f"gcs_chunk_bytes must be a multiple of {upload.CHUNK_UNIT_BYTES}")
        super().__init__(storage_path)
        self._chunk_bytes = gcs_chunk_bytes
        self._redirect_time = timedelta(seconds=gcs_redirect_seconds)
        account = Account(credentials_file=gcs_credentials_file, endpoint=gcs_endpoint, timeout_seconds=gcs_timeout)
        self._objects = GcsBucket(account.connect(), name, probe_prefix=self._root)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return upload.write(self._objects, self._name(path), blocks, self._chunk_bytes)

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; None unless the credentials can sign, as the key of a service account can."""
        key, credentials = self._name(path), self._objects.api.credentials
        if not isinstance(credentials, Signing):
            return None
        client = storage.Client(project="", credentials=credentials)  # signing is local: no request is sent
        blob = client.bucket(self._objects.name).blob(key)
        return str(
            blob.generate_signed_url(
                version="v4",
                expiration=self._redirect_time,
                credentials=credentials,
                api_access_endpoint=self._objects.api.endpoint,
            )
        )

    def close(self) -> None:
        """Close all connections."""
        self._objects.api.close()

    def _copy(self, source: Entry, target: str) -> None:
        self._objects.copy(source, target)

    def _delete(self, entry: Entry) -> None:
        self._objects.delete(entry.name, entry.generation)

    def _remove_file(self, path: str) -> None:
        self._objects.delete(self._name(path))

    def _touch(self, path: str) -> None:
        self._objects.touch(self._name(path))
