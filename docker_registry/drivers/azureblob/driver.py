"""
The driver for containers of Azure Blob Storage.

A blob's name is ``storage_path`` followed by the path. Containers of registry:2 and 3 are served unchanged; their
``rootdirectory`` corresponds to ``storage_path``.

Versions are ETags; conditional puts use ``If-Match`` and ``If-None-Match``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import ClassVar

from azure.storage.blob import BlobSasPermissions, generate_blob_sas

from docker_registry.drivers.azureblob.account import Account
from docker_registry.drivers.azureblob.container import AzureContainer, Entry
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.objects import OBJECT_CAPABILITIES, VersionedObjectDriver
from docker_registry.settings import Setting, sent


class AzureBlobDriver(VersionedObjectDriver[Entry]):
    """Stores files in an Azure Blob Storage container."""

    capabilities = replace(OBJECT_CAPABILITIES, if_match=True, remove_if_match=True)

    _objects: AzureContainer

    settings: ClassVar[tuple[Setting, ...]] = sent(
        (
            Setting("storage_path", str, "", "Prefix of all blob names."),
            Setting("azure_storage_account_name", help="Name of the storage account."),
            Setting("azure_storage_account_key", help="Key of the storage account.", secret=True),
            Setting("azure_storage_container", str, "registry", "Name of the container, which must exist."),
            Setting("azure_use_https", bool, True, "Use TLS; endpoints without TLS are rejected."),
            Setting("azure_endpoint", help="URL of the blob service, if it is not `NAME.blob.core.windows.net`."),
            Setting(
                "azure_connection_string",
                help="Name, key (or shared access signature) and endpoint in one string; replaces the settings above.",
                secret=True,
            ),
            Setting("azure_timeout", int, 60, "Timeout for a response of the store.", unit="seconds", minimum=1),
            Setting(
                "azure_block_bytes",
                int,
                16777216,
                "Block size of large files (at most 50000 blocks); every upload needs twice this memory.",
                unit="bytes",
                minimum=65536,
            ),
            Setting("azure_redirect_seconds", int, 1200, "Lifetime of signed URLs.", unit="seconds", minimum=1),
        )
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
        super().__init__(storage_path)
        self._block_bytes = azure_block_bytes
        self._redirect_time = timedelta(seconds=azure_redirect_seconds)
        account = Account(
            name=azure_storage_account_name,
            key=azure_storage_account_key,
            endpoint=azure_endpoint,
            use_https=azure_use_https,
            timeout_seconds=azure_timeout,
        )
        self._account = account.with_connection_string(azure_connection_string) if azure_connection_string else account
        self._objects = AzureContainer(self._account.connect(azure_storage_container), probe_prefix=self._root)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return self._objects.write(self._name(path), blocks, self._block_bytes)

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; None without the account's key, which is needed to sign."""
        name = self._name(path)
        if not self._account.name or not self._account.key:
            return None
        client = self._objects.client
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
        self._objects.client.close()

    def _copy(self, source: Entry, target: str) -> None:
        self._objects.copy(source, target)

    def _delete(self, entry: Entry) -> None:
        self._objects.delete(entry.name, entry.etag)

    def _remove_file(self, path: str) -> None:
        self._objects.delete(self._name(path))

    def _touch(self, path: str) -> None:
        self._objects.touch(self._name(path))
