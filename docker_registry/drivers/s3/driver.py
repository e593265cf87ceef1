"""
The driver for buckets of Amazon S3 and S3-compatible stores.

An object's key is ``storage_path`` followed by the path. Buckets of docker-registry 0.7 to 0.9 are served unchanged, as
are those of registry:2 and 3, whose ``rootdirectory`` corresponds to ``storage_path``.

:mod:`~docker_registry.drivers.s3.multipart` transfers large files, :mod:`~docker_registry.drivers.s3.signing` signs
URLs. Versions are ETags; conditional puts use ``If-Match`` and ``If-None-Match`` if the store supports them.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Final

from docker_registry.drivers.base import Bytes, Capabilities
from docker_registry.drivers.objects import OBJECT_CAPABILITIES, VersionedObjectDriver
from docker_registry.drivers.s3.bucket import Entry, S3Bucket
from docker_registry.drivers.s3.client import Account, proxy_url
from docker_registry.drivers.s3.multipart import Multipart
from docker_registry.drivers.s3.signing import S3Signer, Signer
from docker_registry.errors import (
    ConfigError,
    PathNotFound,
    PreconditionFailed,
    StorageError,
    StorageUnavailable,
)
from docker_registry.settings import Setting, sent

#: Class names of boto's calling formats, without their module, and whether each is path style.
_CALLING_FORMATS: Final = {
    "": None,
    "ordinarycallingformat": True,
    "protocolindependentordinarycallingformat": True,
    "subdomaincallingformat": False,
    "vhostcallingformat": False,
}


class S3Driver(VersionedObjectDriver[Entry]):
    """Stores files in an S3 bucket."""

    reserved: ClassVar[str | None] = ".docker-registry"

    _objects: S3Bucket

    settings: ClassVar[tuple[Setting, ...]] = sent(
        (
            Setting("storage_path", str, "/registry", "Prefix of all object keys."),
            Setting("s3_bucket", help="Name of the bucket, which must exist."),
            Setting("boto_bucket", help="Alias of `s3_bucket`."),
            Setting("s3_region", help="Region of the bucket. When unset: boto3's own configuration, else `us-east-1`."),
            Setting("s3_access_key", help="Access key ID. When unset, boto3 finds a profile or role.", secret=True),
            Setting("s3_secret_key", help="Secret access key.", secret=True),
            Setting("s3_encrypt", bool, True, "Encrypt objects on the server (AES256)."),
            Setting("s3_kms_key", help="Encrypt with this KMS key instead; `aws/s3` is the account's default key."),
            Setting("s3_storage_class", help="Storage class of new objects, such as `STANDARD_IA`."),
            Setting("s3_secure", bool, True, "Use TLS; endpoints without TLS are rejected."),
            Setting("s3_endpoint", help="URL of a compatible store other than Amazon's."),
            Setting(
                "s3_path_style", bool, None, "Address the bucket in the path. True when unset and `s3_endpoint` is set."
            ),
            Setting("s3_timeout", int, 60, "Timeout for a response of the store.", unit="seconds", minimum=1),
            Setting(
                "s3_part_bytes",
                int,
                16777216,
                "Part size of large files; every upload needs memory for two parts, at least 32 MiB.",
                unit="bytes",
                minimum=5242880,
            ),
            Setting("s3_redirect_seconds", int, 1200, "Lifetime of signed URLs.", unit="seconds", minimum=1),
            Setting("s3_host", help="Alias of `boto_host`."),
            Setting("boto_host", help="Host of a compatible store other than Amazon's; prefer `s3_endpoint`."),
            Setting("boto_port", int, None, "Port of that store.", minimum=1, maximum=65535),
            Setting("boto_secure", bool, None, "`false` means `s3_secure: false`."),
            Setting(
                "boto_calling_format",
                help="`boto.s3.connection.OrdinaryCallingFormat` sets `s3_path_style`; `…Subdomain…` clears it.",
            ),
            Setting("boto_proxy", help="Host of the proxy for requests to the store."),
            Setting("boto_proxy_port", int, None, "Port of that proxy.", minimum=1, maximum=65535),
            Setting("boto_proxy_user", help="User name for that proxy."),
            Setting("boto_proxy_pass", help="Password for that proxy.", secret=True),
            Setting(
                "cloudfront.base", help="URL of the CloudFront distribution of the bucket, for `storage_redirect`."
            ),
            Setting("cloudfront.keyid", help="ID of the public key that CloudFront verifies signed URLs with."),
            Setting(
                "cloudfront.keysecret",
                help="RSA private key (PEM), or the path of its file.",
                secret=True,
                form="file",
            ),
        )
    )

    def __init__(
        self,
        *,
        storage_path: str = "/registry",
        s3_bucket: str | None = None,
        boto_bucket: str | None = None,
        s3_region: str | None = None,
        s3_access_key: str | None = None,
        s3_secret_key: str | None = None,
        s3_encrypt: bool = True,
        s3_kms_key: str | None = None,
        s3_storage_class: str | None = None,
        s3_secure: bool = True,
        s3_endpoint: str | None = None,
        s3_path_style: bool | None = None,
        s3_timeout: int = 60,
        s3_part_bytes: int = 16 * 1024 * 1024,
        s3_redirect_seconds: int = 1200,
        s3_host: str | None = None,
        boto_host: str | None = None,
        boto_port: int | None = None,
        boto_secure: bool | None = None,
        boto_calling_format: str | None = None,
        boto_proxy: str | None = None,
        boto_proxy_port: int | None = None,
        boto_proxy_user: str | None = None,
        boto_proxy_pass: str | None = None,
        cloudfront_base: str | None = None,
        cloudfront_keyid: str | None = None,
        cloudfront_keysecret: str | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: a setting is missing, or contradicts another one.
            StorageError: the bucket cannot be used.
        """
        name = s3_bucket or boto_bucket
        if not name:
            raise ConfigError("s3_bucket is not set")
        account = Account(
            access_key=s3_access_key,
            secret_key=s3_secret_key,
            region=s3_region,
            is_secure=s3_secure and boto_secure is not False,
            endpoint=s3_endpoint,
            host=s3_host or boto_host,
            port=boto_port,
            path_style=_path_style(boto_calling_format) if s3_path_style is None else s3_path_style,
            proxy=proxy_url(boto_proxy, boto_proxy_port, boto_proxy_user, boto_proxy_pass),
            timeout_seconds=s3_timeout,
        )
        super().__init__(storage_path)
        object_options = _object_options(s3_encrypt, s3_kms_key, s3_storage_class)
        self._objects = S3Bucket(account.connect(), name, object_options=object_options, probe_prefix=self._root)
        self._multipart = Multipart(self._objects, s3_part_bytes)
        self._signer: Signer = S3Signer(self._objects, s3_redirect_seconds)
        if cloudfront_base:
            from docker_registry.drivers.s3.cloudfront import CloudFront

            self._signer = CloudFront(cloudfront_base, cloudfront_keyid, cloudfront_keysecret, s3_redirect_seconds)
        self._probed: Capabilities | None = None
        self._probe_lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # known only after probing the store
        """
        What the store supports; probed once, on first use.

        Conditional deletes only count with conditional puts: Swift's S3 API, which has no conditional puts, checks
        ``If-Match`` of a DELETE, but not atomically.
        """
        with self._probe_lock:
            if self._probed is None:
                has_puts = self._try_conditional_puts()
                has_deletes = has_puts and self._try_conditional_deletes()
                self._probed = replace(OBJECT_CAPABILITIES, if_match=has_puts, remove_if_match=has_deletes)
            return self._probed

    @property
    def tracks_dependencies(self) -> bool:
        """See :class:`StorageDriver`; the same in every store."""
        return OBJECT_CAPABILITIES.tracks_dependencies

    def _try_conditional_puts(self) -> bool:
        """Create an object, then check that puts with two conditions that do not hold are rejected."""
        key = f"{self._root}{self.reserved}/conditions-{secrets.token_hex(16)}"
        try:
            self._objects.put(key, b"", if_match="")
            for etag in ("", '"00000000000000000000000000000000"'):
                try:
                    self._objects.put(key, b"x", if_match=etag)
                except PreconditionFailed:
                    continue
                return False
        except StorageUnavailable:
            raise
        except StorageError:  # the store rejects the header
            return False
        finally:
            self._objects.delete(key)
        return True

    def _try_conditional_deletes(self) -> bool:
        """Check that a delete with a condition that does not hold is rejected."""
        key = f"{self._root}{self.reserved}/conditions-{secrets.token_hex(16)}"
        try:
            self._objects.put(key, b"")
            try:
                self._objects.delete(key, '"00000000000000000000000000000000"')
            except PreconditionFailed:
                return True
            return False
        except StorageUnavailable:
            raise
        except StorageError:  # the store rejects the header
            return False
        finally:
            self._objects.delete(key)

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return self._multipart.write(self._name(path), blocks)

    def discard_file(self, path: str) -> None:
        """See :class:`StorageDriver`; S3 does not tell whether the object existed."""
        self._objects.delete(self._name(path))

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        try:  # some stores answer 204 for a missing object, whatever the condition
            self._head(path)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None
        super().remove_if_match(path, version)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`; aborts abandoned multipart uploads."""
        return self._multipart.sweep(self._root, older_than_seconds)

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        return self._signer.url(self._name(path))

    def close(self) -> None:
        """Close all connections."""
        self._objects.close()

    def _copy(self, source: Entry, target: str) -> None:
        self._multipart.copy(source, target)

    def _delete(self, entry: Entry) -> None:
        self._objects.delete(entry.name)

    def _touch(self, path: str) -> None:
        self._multipart.touch(self._head(path))


def _path_style(calling_format: str | None) -> bool | None:
    name = (calling_format or "").rpartition(".")[2].lower()
    if name not in _CALLING_FORMATS:
        raise ConfigError("boto_calling_format must be OrdinaryCallingFormat or SubdomainCallingFormat")
    return _CALLING_FORMATS[name]


def _object_options(encrypt: bool, kms_key: str | None, storage_class: str | None) -> dict[str, str]:
    """Return the request parameters for every object that is created."""
    options = {}
    if kms_key:
        options["ServerSideEncryption"] = "aws:kms"
        if kms_key != "aws/s3":
            options["SSEKMSKeyId"] = kms_key
    elif encrypt:
        options["ServerSideEncryption"] = "AES256"
    if storage_class:
        options["StorageClass"] = storage_class
    return options
