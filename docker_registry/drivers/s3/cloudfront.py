"""
Signed URLs for CloudFront, Amazon's content delivery network in front of a bucket.

This module is imported only if ``cloudfront.base`` is set: its dependencies take memory that others do not need.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from docker_registry.errors import ConfigError


class CloudFront:
    """Signs URLs of a CloudFront distribution whose origin is the bucket (CloudFront Guide, "canned policy")."""

    def __init__(self, base: str, key_id: str | None, key: str | None, seconds: int) -> None:
        """
        Args:
            base: URL of the distribution.
            key_id: ID of the public key in CloudFront.
            key: the RSA private key in PEM, or the path of its file.
            seconds: how long a URL is valid.

        Raises:
            ConfigError: *base* is not a URL, *key_id* or *key* is missing, or the key is unreadable or not RSA.
        """
        if not base.startswith(("https://", "http://")):
            raise ConfigError("cloudfront.base must be a URL such as https://d111111abcdef8.cloudfront.net")
        if not key_id or not key:
            raise ConfigError("cloudfront.base needs cloudfront.keyid and cloudfront.keysecret")
        self._base = base.rstrip("/")
        self._seconds = seconds
        private_key = _private_key(key)

        def sign(message: bytes) -> bytes:
            return private_key.sign(message, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - required by CloudFront

        self._signer = CloudFrontSigner(key_id, sign)

    def url(self, key: str) -> str:
        """See :class:`~.signing.Signer`."""
        expiry = datetime.now(timezone.utc) + timedelta(seconds=self._seconds)
        return str(self._signer.generate_presigned_url(f"{self._base}/{quote(key)}", date_less_than=expiry))


def _private_key(key: str) -> rsa.RSAPrivateKey:
    try:
        # In environment variables, line breaks are often written as \n.
        pem = key.replace("\\n", "\n").encode() if "-----BEGIN" in key else Path(os.path.expanduser(key)).read_bytes()
        private_key = serialization.load_pem_private_key(pem, None)
    except OSError as error:
        raise ConfigError(f"The file of cloudfront.keysecret cannot be read ({error.strerror})") from None
    except (ValueError, TypeError):
        raise ConfigError("cloudfront.keysecret is not an unencrypted private key in PEM format") from None
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise ConfigError("cloudfront.keysecret is not an RSA key")
    return private_key
