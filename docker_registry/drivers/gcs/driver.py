"""
Keeps everything in a bucket of Google Cloud Storage.

A path is an object's name behind ``storage_path``. The buckets of docker-registry 0.7 to 0.9 are served as they are,
and so are those of registry:2 and 3, whose ``rootdirectory`` is the ``storage_path`` here.

A version is a generation; conditional puts are those of Google (``ifGenerationMatch``). Large files are the business of
:mod:`~docker_registry.drivers.gcs.upload`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from google.auth.credentials import Signing
from google.cloud import storage

from docker_registry.drivers.base import Bytes, Stat, StorageDriver, Versioned, check_path
from docker_registry.drivers.gcs import upload
from docker_registry.drivers.gcs.bucket import Entry, GcsBucket
from docker_registry.drivers.gcs.client import Account
from docker_registry.errors import ConfigError, PathInvalid, PathNotFound, PreconditionFailed
from docker_registry.settings import Setting


class GcsDriver(StorageDriver):
    """A store in a bucket of Google Cloud Storage."""

    supports_if_match: ClassVar[bool] = True
    move_copies: ClassVar[bool] = True
    walks_by_pages: ClassVar[bool] = True
    min_chunk_bytes: ClassVar[int | None] = 5 * 1024 * 1024

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "/registry", "What every object's name begins with."),
        Setting("gcs_bucket", help="The bucket; it must be there."),
        Setting("boto_bucket", help="Another name of `gcs_bucket`."),
        Setting(
            "gcs_credentials_file",
            Path,
            None,
            "JSON key of a service account; without it google-auth looks for credentials.",
        ),
        Setting("gcs_endpoint", help="URL of a store that is not Google's."),
        Setting("gcs_timeout", int, 60, "How long Google may be silent.", unit="seconds", minimum=1),
        Setting(
            "gcs_chunk_bytes",
            int,
            16777216,
            "Size of the chunks of larger files, in steps of 262144; every upload needs twice as much memory.",
            unit="bytes",
            minimum=upload.CHUNK_UNIT_BYTES,
        ),
        Setting("gcs_redirect_seconds", int, 1200, "How long a signed URL is good.", unit="seconds", minimum=1),
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
        root = (storage_path or "").strip("/")
        self._root = f"{root}/" if root else ""
        self._chunk_bytes = gcs_chunk_bytes
        self._redirect_time = timedelta(seconds=gcs_redirect_seconds)
        account = Account(credentials_file=gcs_credentials_file, endpoint=gcs_endpoint, timeout_seconds=gcs_timeout)
        self._bucket = GcsBucket(account.connect(), name, listed=self._root)

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return self.get_versioned(path).content

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`; the version is the generation."""
        key = self._key(path)
        try:
            return Versioned(*self._bucket.get(key))
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._bucket.put(self._key(path), content, if_match=if_match)
        except PreconditionFailed:
            raise PreconditionFailed(path=path) from None

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        key = self._key(path)
        if length == 0:
            self.stat(path)
            return iter(())
        try:
            return self._bucket.read(key, offset, length)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return upload.write(self._bucket, self._key(path), blocks, self._chunk_bytes)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        is_there = not path
        for entry in self._bucket.children(self._prefix(path)):
            found = self._path(entry.key.removesuffix("/"))
            if found is not None:
                is_there = True
                yield found
        if not is_there:
            raise PathNotFound(path=path)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for entry in self._bucket.entries(self._prefix(path)):
            found = self._path(entry.key)  # a key that ends with a slash is the mark of a folder, and no path
            if found is not None:
                yield Stat(found, entry.size, entry.modified)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            self._head(path)
        except PathNotFound:
            return self._bucket.has_any(self._prefix(path))
        return True

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        entry = self._head(path)
        return Stat(path, entry.size, entry.modified)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`; Google copies the bytes by itself, mostly without moving any."""
        new, old = self._key(target), self._head(source)
        while old.key != new:
            try:
                self._bucket.copy(old, new)
                with suppress(PathNotFound):  # somebody else was faster
                    self._bucket.delete(old.key, old.generation)
            except PreconditionFailed:  # somebody wrote it meanwhile: that comes along
                old = self._head(source)
                continue
            except PathNotFound:
                raise PathNotFound(path=source) from None
            return

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._bucket.touch(self._key(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._bucket.delete(self._key(path))
        except PathNotFound:
            if not self._bucket.delete_all(entry.key for entry in self._bucket.entries(self._prefix(path))):
                raise PathNotFound(path=path) from None

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; only the key of a service account can sign."""
        key, credentials = self._key(path), self._bucket.api.credentials
        if not isinstance(credentials, Signing):
            return None
        client = storage.Client(project="", credentials=credentials)  # signing asks nobody
        blob = client.bucket(self._bucket.name).blob(key)
        return str(
            blob.generate_signed_url(
                version="v4",
                expiration=self._redirect_time,
                credentials=credentials,
                api_access_endpoint=self._bucket.api.endpoint,
            )
        )

    def close(self) -> None:
        """Close all connections."""
        self._bucket.api.close()

    # ----------------------------------------------------------------------------------------- paths and keys

    def _key(self, path: str) -> str:
        return self._root + check_path(path)

    def _prefix(self, path: str) -> str:
        return f"{self._root}{check_path(path)}/" if path else self._root

    def _path(self, key: str) -> str | None:
        """Return the path of an object; None when it has none."""
        try:
            return check_path(key[len(self._root) :])
        except PathInvalid:
            return None

    def _head(self, path: str) -> Entry:
        try:
            return self._bucket.head(self._key(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None
