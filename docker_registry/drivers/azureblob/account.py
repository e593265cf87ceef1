"""
Create an Azure Blob Storage client from settings, and translate its errors.

The client is azure-storage-blob over requests: pure Python on plain sockets, so under gevent a waiting request does not
block the others.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import requests
from azure.core import exceptions
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient, LinearRetry
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from docker_registry.errors import ConfigError, PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

#: Attempts per request, about one second apart.
_ATTEMPTS: Final = 4
_CONNECT_SECONDS: Final = 10
#: Size of the connection pool. Additional concurrent requests use connections that are closed afterwards.
_CONNECTIONS: Final = 256
#: Maximum number of bytes read by one request.
READ_BYTES: Final = 2 * 1024 * 1024

_REFUSED: Final = "Azure refuses the credentials (azure_storage_account_name, azure_storage_account_key)"
_MESSAGES: Final = {
    "AccountIsDisabled": "The account of azure_storage_account_name is disabled",
    "AuthenticationFailed": _REFUSED,
    "ContainerDisabled": "The container of azure_storage_container is disabled",
    "ContainerNotFound": "Azure has no container of the name in azure_storage_container",
    "InvalidAuthenticationInfo": _REFUSED,
    "InvalidResourceName": "The name of the container (azure_storage_container) is not one that Azure can have",
}
_BUSY: Final = {
    "ContainerBeingDeleted",
    "InvalidBlobOrBlock",  # a concurrent upload of the same blob
    "InvalidBlockList",
    "OperationTimedOut",
    "ServerBusy",
}
_ABSENT: Final = {"BlobNotFound", "CannotVerifyCopySource", "ResourceNotFound"}
_CHANGED: Final = {"BlobAlreadyExists", "ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet"}


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the key
class Account:
    """
    The credentials and endpoint of a storage account.

    Attributes:
        key: account key in Base64; required to sign URLs.
        signature: a shared access signature, used instead of the key.
        endpoint: URL of the blob service; None derives it from *name*.
        timeout_seconds: read timeout of every request.
    """

    name: str | None = None
    key: str | None = None
    signature: str | None = None
    endpoint: str | None = None
    use_https: bool = True
    timeout_seconds: int = 60

    def with_connection_string(self, connection_string: str) -> Account:
        """
        Return a copy of this account with the name, credentials and endpoint of a connection string.

        Raises:
            ConfigError: the connection string has neither an account name nor an endpoint.
        """
        pairs = (part.partition("=") for part in connection_string.strip().strip(";").split(";"))
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        scheme = fields.get("defaultendpointsprotocol", "https")
        name, endpoint = fields.get("accountname"), fields.get("blobendpoint")
        if name and not endpoint:
            endpoint = f"{scheme}://{name}.blob.{fields.get('endpointsuffix') or 'core.windows.net'}"
        if not endpoint:
            raise ConfigError("azure_connection_string has neither AccountName nor BlobEndpoint")
        return replace(
            self,
            name=name,
            key=fields.get("accountkey"),
            signature=fields.get("sharedaccesssignature"),
            endpoint=endpoint,
            use_https=False,  # the connection string chooses the scheme
        )

    def connect(self, container: str) -> ContainerClient:
        """
        Create a client that threads and greenlets may share.

        Raises:
            ConfigError: the container or the credentials are missing or malformed, the endpoint is not a URL, or the
                settings contradict each other.
        """
        if not container:
            raise ConfigError("azure_storage_container is not set")
        session = requests.Session()
        session.mount("https://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        session.mount("http://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        try:
            return ContainerClient(
                self._account_url(),
                container,
                credential=self._credential(),
                transport=RequestsTransport(session=session),  # closes the session too
                retry_policy=LinearRetry(backoff=1, retry_total=_ATTEMPTS - 1, random_jitter_range=1),
                connection_timeout=min(_CONNECT_SECONDS, self.timeout_seconds),
                read_timeout=self.timeout_seconds,
                max_single_get_size=READ_BYTES,
                max_chunk_get_size=READ_BYTES,
                user_agent="docker-registry",
            )
        except ValueError:
            raise ConfigError(
                "azure_endpoint, or BlobEndpoint in azure_connection_string, is not the URL of a blob service"
            ) from None

    def _account_url(self) -> str:
        if not self.endpoint:
            if not self.name:
                raise ConfigError("azure_storage_account_name is not set")
            return f"{'https' if self.use_https else 'http'}://{self.name}.blob.core.windows.net"
        if self.use_https and not self.endpoint.startswith("https:"):
            raise ConfigError("azure_endpoint is http://…, but azure_use_https is true: set it to false, or use https")
        return self.endpoint.rstrip("/")

    def _credential(self) -> Any:
        if self.signature:
            return self.signature
        if not self.name or not self.key:
            raise ConfigError(
                "There are no credentials for Azure: set azure_storage_account_name and azure_storage_account_key, "
                "or azure_connection_string"
            )
        try:
            base64.b64decode(self.key, validate=True)
        except ValueError:
            raise ConfigError(
                "azure_storage_account_key, or AccountKey in azure_connection_string, is not valid Base64"
            ) from None
        return {"account_name": self.name, "account_key": self.key}


@contextmanager
def translated() -> Iterator[None]:
    """Translate the client's exceptions into the registry's errors, whose messages contain no addresses."""
    try:
        yield
    except exceptions.HttpResponseError as error:
        raise registry_error_of(code_of(error), error.status_code) from None
    except exceptions.DeserializationError:  # truncated headers; this is a ValueError, not an AzureError
        raise StorageUnavailable("A response from Azure was cut off.") from None
    except (exceptions.AzureError, requests.RequestException, HTTPError, OSError) as error:
        raise StorageUnavailable(f"Azure cannot be reached ({type(error).__name__}).") from None


def code_of(error: exceptions.HttpResponseError) -> str:
    """Return the Azure error code; an empty string if the response has none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def registry_error_of(code: str, status: int | None) -> StorageError:
    """Return the registry's error for an Azure error response (REST API reference, "Blob Storage error codes")."""
    if code in _MESSAGES:
        return StorageError(f"{_MESSAGES[code]} ({code}).")
    if code in _CHANGED or (status == 412 and not code):
        return PreconditionFailed()
    if code in _ABSENT or (status == 404 and not code):
        return PathNotFound()
    if status is None or code in _BUSY or status in (408, 429) or status >= 500:
        return StorageUnavailable(f"Azure cannot answer for now ({code or status}).")
    if status in (401, 403):
        return StorageError(f"Azure denies these credentials that access to the container ({code or status}).")
    return StorageError(f"Azure refuses a request ({code or status}).")
