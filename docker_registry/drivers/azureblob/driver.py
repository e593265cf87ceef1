"""
Keeps everything in a container of Azure Blob Storage.

A path is a blob's name behind ``storage_path``. The containers of registry:2 and 3 are served as they are, with its
``rootdirectory`` as the ``storage_path`` here.

A version is an ETag; conditional puts are those of Azure (``If-Match``, ``If-None-Match``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import ClassVar

from azure.storage.blob import BlobSasPermissions, generate_blob_sas

from docker_registry.drivers.azureblob.account import Account
from docker_registry.drivers.azureblob.container import AzureContainer, Entry
from docker_registry.drivers.base import Bytes, Stat, StorageDriver, Versioned, check_path
from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed
from docker_registry.settings import Setting


class AzureBlobDriver(StorageDriver):
    """A store in a container of Azure."""

    supports_if_match: ClassVar[bool] = True
    move_copies: ClassVar[bool] = True
    walks_by_pages: ClassVar[bool] = True
    min_chunk_bytes: ClassVar[int | None] = 5 * 1024 * 1024

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "", "What every blob's name begins with."),
        Setting("azure_storage_account_name", help="The storage account."),
        Setting("azure_storage_account_key", help="One of its two keys.", secret=True),
        Setting("azure_storage_container", str, "registry", "The container; it must be there."),
        Setting("azure_use_https", bool, True, "Use TLS; an endpoint without it is then refused."),
        Setting("azure_endpoint", help="URL of the blob service, where it is not `NAME.blob.core.windows.net`."),
        Setting(
            "azure_connection_string",
            help="Name, key (or a shared access signature) and endpoint in one, in place of the settings above.",
            secret=True,
        ),
        Setting("azure_timeout", int, 60, "How long Azure may be silent.", unit="seconds", minimum=1),
        Setting(
            "azure_block_bytes",
            int,
            16777216,
            "Size of the blocks of larger files, 50000 at most; every upload needs twice as much memory.",
            unit="bytes",
            minimum=65536,
        ),
        Setting("azure_redirect_seconds", int, 1200, "How long a signed URL is good.", unit="seconds", minimum=1),
    )

    def __init__(
        self,
        *,
        storage_path: str = "",
        azure_storage_account_name: str | None = None,
        azure_storage_account_key: str | None = None,
        azure_storage_container: str = "registry",
        azure_use_https: bool = True,
        azure_endpoint: str | None = None,
        azure_connection_string: str | None = None,
        azure_timeout: int = 60,
        azure_block_bytes: int = 16 * 1024 * 1024,
        azure_redirect_seconds: int = 1200,
    ) -> None:
        """
        Raises:
            ConfigError: a setting is missing or wrong.
            StorageError: the container cannot be used.
        """
        root = (storage_path or "").strip("/")
        self._root = f"{root}/" if root else ""
        self._block_bytes = azure_block_bytes
        self._redirect_time = timedelta(seconds=azure_redirect_seconds)
        account = Account(
            name=azure_storage_account_name,
            key=azure_storage_account_key,
            endpoint=azure_endpoint,
            use_https=azure_use_https,
            timeout_seconds=azure_timeout,
        )
        self._account = account.named_in(azure_connection_string) if azure_connection_string else account
        self._container = AzureContainer(self._account.connect(azure_storage_container), listed=self._root)

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return self.get_versioned(path).content

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`; the version is the ETag."""
        name = self._name(path)
        try:
            return Versioned(*self._container.get(name))
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._container.put(self._name(path), content, if_match=if_match)
        except PreconditionFailed:
            raise PreconditionFailed(path=path) from None

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        name = self._name(path)
        if length == 0:
            self.stat(path)
            return iter(())
        try:
            return self._container.read(name, offset, length)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return self._container.write(self._name(path), blocks, self._block_bytes)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        is_there = not path
        for entry in self._container.children(self._prefix(path)):
            found = self._path(entry.name.removesuffix("/"))
            if found is not None:
                is_there = True
                yield found
        if not is_there:
            raise PathNotFound(path=path)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for entry in self._container.entries(self._prefix(path)):
            found = self._path(entry.name)
            if found is not None:
                yield Stat(found, entry.size, entry.modified)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            self._head(path)
        except PathNotFound:
            return self._container.has_any(self._prefix(path))
        return True

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        entry = self._head(path)
        return Stat(path, entry.size, entry.modified)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`; Azure copies the bytes by itself."""
        new, old = self._name(target), self._head(source)
        while old.name != new:
            try:
                self._container.copy(old, new)
                with suppress(PathNotFound):  # somebody else was faster
                    self._container.delete(old.name, old.etag)
            except PreconditionFailed:  # somebody wrote it meanwhile: that comes along
                old = self._head(source)
                continue
            except PathNotFound:
                raise PathNotFound(path=source) from None
            return

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._container.touch(self._name(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._container.delete(self._name(path))
        except PathNotFound:
            if not self._container.delete_all(entry.name for entry in self._container.entries(self._prefix(path))):
                raise PathNotFound(path=path) from None

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; only the key of the account can sign."""
        name = self._name(path)
        if not self._account.name or not self._account.key:
            return None
        client = self._container.client
        signature = generate_blob_sas(
            self._account.name,
            client.container_name,
            name,
            account_key=self._account.key,
            permission=BlobSasPermissions(read=True),
            expiry=datetime.now(timezone.utc) + self._redirect_time,
        )
        return f"{client.get_blob_client(name).url}?{signature}"

    def close(self) -> None:
        """Close all connections."""
        self._container.client.close()

    # ---------------------------------------------------------------------------------------- paths and names

    def _name(self, path: str) -> str:
        return self._root + check_path(path)

    def _prefix(self, path: str) -> str:
        return f"{self._root}{check_path(path)}/" if path else self._root

    def _path(self, name: str) -> str | None:
        """Return the path of a blob; None when it has none."""
        try:
            return check_path(name[len(self._root) :])
        except PathInvalid:
            return None

    def _head(self, path: str) -> Entry:
        try:
            return self._container.head(self._name(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None
