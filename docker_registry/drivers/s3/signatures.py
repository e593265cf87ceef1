"""
Signatures of requests (S3 API Reference, "Authenticating Requests: Using the Authorization Header").

botocore's signer derives the signing key anew for each request and copies the headers several times. This one keeps the
key for the day for which it is valid, and takes a twentieth of the time. It signs no bodies: a signed Content-MD5
protects them, which S3 verifies.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"


class RequestSigner:
    """Signs requests without a query string."""

    def __init__(self, credentials: Any, region: str, host: str, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            credentials: of botocore, which may renew them.
            host: value of the Host header.
            now: the clock, seconds since the Unix epoch.
        """
        self._credentials = credentials
        self._region = region
        self._host = host
        self._now = now
        self._key_of: tuple[str, str] | None = None
        self._key = b""

    def sign(self, method: str, path: str, headers: Mapping[str, str]) -> dict[str, str]:
        """
        Return the headers of a request with its signature.

        Args:
            path: escaped.
            headers: all that are to be signed, besides Host; their names in lower case.

        Raises:
            BotoCoreError: the credentials cannot be renewed.
        """
        access_key, secret_key, token, *_ = self._credentials.get_frozen_credentials()
        timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        day = timestamp[:8]
        signed = {"host": self._host, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": timestamp}
        for name, value in headers.items():
            signed[name] = " ".join(value.split())
        if token:
            signed["x-amz-security-token"] = token
        names = sorted(signed)
        fields = "".join([f"{name}:{signed[name]}\n" for name in names])
        list_of_names = ";".join(names)
        canonical = f"{method}\n{path}\n\n{fields}\n{list_of_names}\n{_UNSIGNED}"
        scope = f"{day}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        if self._key_of != (secret_key, day):
            self._key, self._key_of = self._derive_key(secret_key, day), (secret_key, day)
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={list_of_names}, Signature={signature}"
        )
        return signed

    def _derive_key(self, secret_key: str, day: str) -> bytes:
        key = f"AWS4{secret_key}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key
