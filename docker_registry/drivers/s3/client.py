"""
From settings to a client of S3: where it listens, who we are, and its errors in our words.

What no setting says comes from where boto3 looks by itself (``AWS_…`` variables, profiles, roles of instances), and
from the files of the boto of old, ``/etc/boto.cfg`` and ``~/.boto``::

    [Credentials]
    aws_access_key_id = …
    aws_secret_access_key = …
    s3_host = rgw.example.org

Of boto3 only what lies below it is imported, botocore, which makes every worker smaller by some MiB.
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
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

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

#: What the libraries below raise when the network fails them, also in the middle of an answer.
NETWORK_ERRORS: Final = (exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError, OSError)

#: A request is sent so often, after pauses that double, until S3 has served it.
_ATTEMPTS: Final = 4
_CONNECT_SECONDS: Final = 10
#: More requests at once than this are served too, over connections that are closed after them.
_CONNECTIONS: Final = 256
_BOTO_FILES: Final = ("/etc/boto.cfg", "~/.boto")
_AMAZON = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com")

_NO_CREDENTIALS: Final = (
    "There are no credentials for S3: set s3_access_key and s3_secret_key, or give boto3 a profile or a role"
)
_REFUSED: Final = "S3 refuses the credentials (s3_access_key, s3_secret_key)"

_PHRASES: Final = {
    "AccessDenied": "S3 does not let these credentials do that with the bucket of s3_bucket",
    "AllAccessDisabled": "S3 does not let anybody use the bucket of s3_bucket",
    "AuthorizationHeaderMalformed": "S3 knows the bucket in another region (s3_region)",
    "ExpiredToken": "The token of the credentials for S3 has expired",
    "IllegalLocationConstraintException": "S3 knows the bucket in another region (s3_region)",
    "InvalidAccessKeyId": _REFUSED,
    "InvalidToken": _REFUSED,
    "InvalidBucketName": "The name of the bucket (s3_bucket) is not one that S3 can have",
    "NoSuchBucket": "S3 has no bucket of the name in s3_bucket",
    "NotImplemented": "This store cannot do what is asked of it, maybe by s3_encrypt, s3_kms_key or s3_storage_class",
    "PermanentRedirect": "S3 knows the bucket in another region (s3_region)",
    "RequestTimeTooSkewed": "The clock of this host and that of S3 differ too much",
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
_MISTAKES: Final = (
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
    Whose buckets they are, and where.

    Attributes:
        access_key: with *secret_key*; where either is missing boto3 looks for credentials.
        endpoint: URL of a store that is not Amazon's.
        host: the same by its name alone, as boto took it.
        path_style: whether the bucket is part of the path instead of the host; None decides by the store.
        proxy: URL of the proxy for all requests.
        timeout_seconds: how long S3 may be silent.
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
        Make a client, which any number of threads and greenlets may share.

        Raises:
            ConfigError: the settings do not say who we are, or contradict each other.
        """
        if bool(self.access_key) != bool(self.secret_key):
            raise ConfigError("s3_access_key and s3_secret_key belong together: set both, or none")
        endpoint, region = self._place()
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
                raise ConfigError("s3_endpoint is not the URL of a store") from None
        if self.is_secure and not client.meta.endpoint_url.startswith("https:"):
            raise ConfigError(
                "The endpoint of S3 is http://…, but s3_secure is true: set it to false, or use https://…"
            )
        # Every body has its MD5, which is signed. The first call is one that older stores refuse without.
        for call in ("DeleteObjects", "CompleteMultipartUpload"):
            client.meta.events.register(f"before-call.s3.{call}", _add_md5)
        # Our bodies are in memory and can be sent again, so asking first saves nothing; and of an answer to that which
        # breaks off, botocore would read the end for ever (AWSConnection._consume_headers), and stop the event loop.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client

    def _place(self) -> tuple[str | None, str | None]:
        """Return the endpoint, None for what boto3 would choose, and the region."""
        if self.endpoint:
            return self.endpoint, self.region or _default_region()
        files = _boto_files()
        host = self.host or _first(files, ("Credentials", "boto_host"), ("Credentials", "s3_host"), ("s3", "host"))
        port = self.port or _first(files, ("Credentials", "boto_port"), ("Credentials", "s3_port"), ("s3", "port"))
        if not host:
            return None, self.region or _default_region()
        amazon = _AMAZON.fullmatch(host)
        if amazon:  # boto3 knows by itself where which region listens
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
                # A signed MD5 says as much of a body as a signed SHA-256 besides it, and costs no second pass.
                "payload_signing_enabled": False,
            },
            proxies={"http": self.proxy, "https": self.proxy} if self.proxy else None,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=min(_CONNECT_SECONDS, self.timeout_seconds),
            read_timeout=self.timeout_seconds,
            max_pool_connections=_CONNECTIONS,
            # We send the MD5 of everything. What newer ones add, only newest stores understand.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="docker-registry",
        )


def proxy_url(host: str | None, port: int | None, user: str | None, password: str | None) -> str | None:
    """Return the URL of a proxy out of what boto called its parts, or boto's files do; None without one."""
    if not host:
        files = _boto_files()
        host = _first(files, ("Boto", "proxy"))
        if not host:
            return None
        port = port or int(_first(files, ("Boto", "proxy_port")) or 0)
        user = user or _first(files, ("Boto", "proxy_user"))
        password = password or _first(files, ("Boto", "proxy_pass"))
    who = f"{quote(user, safe='')}:{quote(password or '', safe='')}@" if user else ""
    scheme, separator, rest = host.rpartition("://")
    return f"{scheme or 'http'}{separator or '://'}{who}{rest}" + (f":{port}" if port else "")


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the libraries raise in the registry's words; what they say themselves shows keys and addresses."""
    try:
        yield
    except exceptions.ClientError as error:
        raise in_our_words(error) from None
    except _MISTAKES as error:
        raise _mistake(error) from None
    except (exceptions.BotoCoreError, *NETWORK_ERRORS) as error:
        raise StorageUnavailable(f"S3 cannot be reached ({type(error).__name__}).") from None


def code_of(error: exceptions.ClientError) -> str:
    """Return the name that S3 gives an error; a HEAD has no body, so there it is the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: exceptions.ClientError) -> int:
    """Return the status of an answer; 0 of an error that is told inside a good one."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def in_our_words(error: exceptions.ClientError) -> StorageError:
    """Translate what S3 answers."""
    code, status = code_of(error), status_of(error)
    if code in _ABSENT:
        return PathNotFound()
    if code in _FULL or status == 507:
        return StorageFull("S3 has no room left, or the quota of the bucket is used up.")
    if status == 412 or code == "PreconditionFailed":
        return PreconditionFailed()
    if code in _PHRASES:
        return StorageError(f"{_PHRASES[code]} ({code}).")
    if code in _BUSY or status in (408, 409, 429) or status >= 500:
        return StorageUnavailable(f"S3 cannot answer for now ({code or status}).")
    if status == 403:
        return StorageError(f"{_PHRASES['AccessDenied']} ({code}).")
    return StorageError(f"S3 refuses a request ({code or status}).")


def content_md5(content: Bytes) -> str:
    """Return what S3 compares a body with; nobody relies on it against an attacker."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _mistake(error: Exception) -> RegistryError:
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ConfigError(_NO_CREDENTIALS)
    if isinstance(error, exceptions.ParamValidationError):
        return ConfigError("A setting of S3 is not one that S3 can have; most likely the bucket's name (s3_bucket)")
    return ConfigError(f"What boto3 reads by itself for S3 cannot be used: {error}")


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def _session() -> Session:
    """Make a session that knows where S3 is, and forgets the other 300 services, which take 4 MiB in every worker."""
    session = Session()
    for partition in session.get_component("data_loader").load_data("endpoints")["partitions"]:
        partition["services"] = {"s3": partition["services"].get("s3", {})}
    return session


def _default_region() -> str:
    return Session().get_config_variable("region") or "us-east-1"


def _boto_files() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    named = os.environ.get("BOTO_CONFIG")
    try:
        parser.read([named] if named else [Path(path).expanduser() for path in _BOTO_FILES])
    except (configparser.Error, UnicodeDecodeError):
        raise ConfigError(f"{named or ' or '.join(_BOTO_FILES)} is not a configuration file of boto") from None
    return parser


def _first(files: configparser.RawConfigParser, *places: tuple[str, str]) -> str | None:
    return next((found for place in places if (found := files.get(*place, fallback=""))), None)
