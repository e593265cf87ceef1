"""
Create an S3 client from settings, and translate its errors.

Missing settings are taken from the sources that boto3 searches (``AWS_…`` variables, profiles, instance roles) and from
the configuration files of boto 2, ``/etc/boto.cfg`` and ``~/.boto``::

    [Credentials]
    aws_access_key_id = …
    aws_secret_access_key = …
    s3_host = rgw.example.org

Only botocore is imported, not boto3, which saves several MiB of memory in every worker.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore import exceptions
from botocore.config import Config
from botocore.handlers import add_expect_header
from botocore.session import Session
from urllib3.exceptions import HTTPError

from docker_registry.drivers.base import Bytes
from docker_registry.errors import (
    ConfigError,
    PathNotFound,
    PreconditionFailed,
    RegistryError,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

#: Exceptions that the libraries raise on network errors, including those in the middle of a response.
NETWORK_ERRORS: Final = (exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError, OSError)

#: Attempts per request, with exponential backoff.
_ATTEMPTS: Final = 4
_CONNECT_SECONDS: Final = 10
#: Size of the connection pool. Additional concurrent requests use connections that are closed afterwards.
_CONNECTIONS: Final = 256
_BOTO_FILES: Final = ("/etc/boto.cfg", "~/.boto")
_AMAZON = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")

_NO_CREDENTIALS: Final = (
    "There are no credentials for S3: set s3_access_key and s3_secret_key, or give boto3 a profile or a role"
)
_REFUSED: Final = "S3 refuses the credentials (s3_access_key, s3_secret_key)"

_MESSAGES: Final = {
    "AccessDenied": "S3 denies these credentials this operation in the bucket of s3_bucket",
    "AllAccessDisabled": "S3 denies all access to the bucket of s3_bucket",
    "AuthorizationHeaderMalformed": "The bucket is in another region; check s3_region",
    "ExpiredToken": "The token of the credentials for S3 has expired",
    "IllegalLocationConstraintException": "The bucket is in another region; check s3_region",
    "InvalidAccessKeyId": _REFUSED,
    "InvalidToken": _REFUSED,
    "InvalidBucketName": "The name of the bucket (s3_bucket) is invalid",
    "NoSuchBucket": "The bucket of s3_bucket does not exist",
    "NotImplemented": "The store does not support a request; check s3_encrypt, s3_kms_key and s3_storage_class",
    "PermanentRedirect": "The bucket is in another region; check s3_region",
    "RequestTimeTooSkewed": "The clocks of this host and of S3 differ too much",
    "SignatureDoesNotMatch": _REFUSED,
}
_FULL: Final = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity"}
_ABSENT: Final = {"404", "NoSuchKey", "NotFound", "NoSuchUpload", "NoSuchVersion"}
_BUSY: Final = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
}
_CONFIG_ERRORS: Final = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.ConfigParseError,
    exceptions.ParamValidationError,
    exceptions.UnknownEndpointError,
    exceptions.InvalidRegionError,
)


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the keys
class Account:
    """
    The credentials and endpoint of an S3 service.

    Attributes:
        access_key: set together with *secret_key*; without them botocore searches for credentials.
        endpoint: URL of an S3-compatible store.
        host: host name of the store, as in boto's configuration; ignored if *endpoint* is set.
        path_style: whether the bucket is part of the URL's path instead of the host name; None chooses path style for
            an endpoint other than Amazon's.
        proxy: URL of the proxy for all requests.
        timeout_seconds: read timeout of every request.
    """

    access_key: str | None = None
    secret_key: str | None = None
    region: str | None = None
    is_secure: bool = True
    endpoint: str | None = None
    host: str | None = None
    port: int | None = None
    path_style: bool | None = None
    proxy: str | None = None
    timeout_seconds: int = 60

    def connect(self) -> Any:
        """
        Create a client that threads and greenlets may share.

        Raises:
            ConfigError: the credentials are incomplete, or the settings contradict each other.
        """
        if bool(self.access_key) != bool(self.secret_key):
            raise ConfigError("set both s3_access_key and s3_secret_key, or neither")
        endpoint, region = self._endpoint_and_region()
        with translated():
            try:
                client = _session().create_client(
                    "s3",
                    aws_access_key_id=self.access_key,
                    aws_secret_access_key=self.secret_key,
                    region_name=region,
                    endpoint_url=endpoint,
                    use_ssl=self.is_secure,
                    config=self._config(endpoint),
                )
            except ValueError:  # "Invalid endpoint"
                raise ConfigError("s3_endpoint, or boto_host with boto_port, is not the URL of a store") from None
        if self.is_secure and not client.meta.endpoint_url.startswith("https:"):
            raise ConfigError("s3_endpoint uses http://, but s3_secure is true: set it to false, or use https://")
        # Send a signed Content-MD5 with every body. Older stores reject DeleteObjects without it.
        for call in ("DeleteObjects", "CompleteMultipartUpload"):
            client.meta.events.register(f"before-call.s3.{call}", _add_md5)
        # Do not send "Expect: 100-continue". Bodies are in memory and can be resent, so it saves nothing; and if the
        # response is cut off, botocore reads forever (AWSConnection._consume_headers) and blocks the event loop.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client

    def _endpoint_and_region(self) -> tuple[str | None, str | None]:
        """Return the endpoint, or None for the default one of the region, and the region."""
        if self.endpoint:
            return self.endpoint, self.region or _default_region()
        files = _boto_files()
        host = self.host or _first(files, ("Credentials", "boto_host"), ("Credentials", "s3_host"), ("s3", "host"))
        port = self.port or _first(files, ("Credentials", "boto_port"), ("Credentials", "s3_port"), ("s3", "port"))
        if not host:
            return None, self.region or _default_region()
        amazon = _AMAZON.fullmatch(host)
        if amazon:  # botocore knows the endpoint of each region
            return None, self.region or amazon["region"] or _default_region()
        scheme = "https" if self.is_secure else "http"
        return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}", self.region or _default_region()

    def _config(self, endpoint: str | None) -> Config:
        path_style = bool(endpoint) if self.path_style is None else self.path_style
        style = "path" if path_style else "auto" if self.path_style is None else "virtual"
        return Config(
            signature_version="s3v4",
            s3={
                "addressing_style": style,
                "us_east_1_regional_endpoint": "regional",
                # The signed MD5 already covers the body; a signed SHA-256 would cost a second pass over it.
                "payload_signing_enabled": False,
            },
            proxies={"http": self.proxy, "https": self.proxy} if self.proxy else None,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=min(_CONNECT_SECONDS, self.timeout_seconds),
            read_timeout=self.timeout_seconds,
            max_pool_connections=_CONNECTIONS,
            # Content-MD5 covers all requests. Only recent stores understand the newer checksum headers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="docker-registry",
        )


def proxy_url(host: str | None, port: int | None, user: str | None, password: str | None) -> str | None:
    """
    Return the proxy URL built from boto's proxy settings or its configuration files; None without a proxy.

    Raises:
        ConfigError: a configuration file of boto is invalid.
    """
    if not host:
        files = _boto_files()
        host = _first(files, ("Boto", "proxy"))
        if not host:
            return None
        port = port or _port(_first(files, ("Boto", "proxy_port")))
        user = user or _first(files, ("Boto", "proxy_user"))
        password = password or _first(files, ("Boto", "proxy_pass"))
    credentials = f"{quote(user, safe='')}:{quote(password or '', safe='')}@" if user else ""
    scheme, separator, rest = host.rpartition("://")
    return f"{scheme or 'http'}{separator or '://'}{credentials}{rest}" + (f":{port}" if port else "")


@contextmanager
def translated() -> Iterator[None]:
    """Translate library exceptions into the registry's errors, whose sentences contain no keys and no addresses."""
    try:
        yield
    except exceptions.ClientError as error:
        raise registry_error_of(error) from None
    except _CONFIG_ERRORS as error:
        raise _config_error(error) from None
    except (exceptions.BotoCoreError, *NETWORK_ERRORS) as error:
        raise StorageUnavailable(f"S3 cannot be reached ({type(error).__name__}).", **_address_of(error)) from None


def _address_of(error: Exception) -> dict[str, str]:
    """Return the host and port that could not be reached, of S3 or its proxy, as a detail; empty if unknown."""
    known = getattr(error, "kwargs", {})  # of botocore
    url = known.get("endpoint_url") or known.get("proxy_url") or ""
    address = urlsplit(url).netloc.rpartition("@")[2]
    return {"address": address} if address else {}


def code_of(error: exceptions.ClientError) -> str:
    """Return the S3 error code. The response to a HEAD has no body, so there it is the status code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: exceptions.ClientError) -> int:
    """Return the HTTP status code; 0 for a per-key error inside a successful response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def registry_error_of(error: exceptions.ClientError) -> StorageError:
    """Return the registry's error for an S3 error response."""
    code, status = code_of(error), status_of(error)
    if code in _ABSENT:
        return PathNotFound()
    if code in _FULL or status == 507:
        return StorageFull("S3 is full, or the quota of the bucket is used up.")
    if status == 412 or code == "PreconditionFailed":
        return PreconditionFailed()
    if code in _MESSAGES:
        return StorageError(f"{_MESSAGES[code]} ({code}).")
    if code in _BUSY or status in (408, 409, 429) or status >= 500:
        return StorageUnavailable(f"S3 cannot answer for now ({code or status}).")
    if status == 403:
        return StorageError(f"{_MESSAGES['AccessDenied']} ({code}).")
    return StorageError(f"S3 refuses a request ({code or status}).")


def content_md5(content: Bytes) -> str:
    """Return the Content-MD5 of a body, which S3 verifies: protection against corruption, not against attackers."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _config_error(error: Exception) -> RegistryError:
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ConfigError(_NO_CREDENTIALS)
    if isinstance(error, exceptions.ParamValidationError):
        return ConfigError("A setting of S3 is invalid, most likely the name of the bucket (s3_bucket)")
    return ConfigError(f"The configuration of boto3 is invalid: {error}")


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def _session() -> Session:
    """Create a session with the endpoints of S3 only; those of the other 300 services take 4 MiB in every worker."""
    session = Session()
    for partition in session.get_component("data_loader").load_data("endpoints")["partitions"]:
        partition["services"] = {"s3": partition["services"].get("s3", {})}
    return session


def _default_region() -> str:
    with translated():  # the profile of AWS_PROFILE may be missing
        return Session().get_config_variable("region") or "us-east-1"


def _boto_files() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    configured = os.environ.get("BOTO_CONFIG")
    try:
        parser.read([configured] if configured else [os.path.expanduser(path) for path in _BOTO_FILES])
    except (configparser.Error, UnicodeDecodeError):
        raise ConfigError(f"{configured or ' or '.join(_BOTO_FILES)} is not a valid boto configuration file") from None
    return parser


def _first(files: configparser.RawConfigParser, *options: tuple[str, str]) -> str | None:
    return next((value for option in options if (value := files.get(*option, fallback=""))), None)


def _port(text: str | None) -> int | None:
    if text and not text.isdecimal():
        raise ConfigError("proxy_port in the configuration file of boto is not a number")
    return int(text) if text else None
