"""
Requests of API V1 that are signed with a private key of the operator (``privileged_key``), as docker-registry 0.7 did.

::

    X-Signature: key=…;data=<base64>

The signature (RSA, PKCS#1 v1.5) covers the method, the path without its query, and the ``X-Docker-*`` headers sorted
by name, joined with commas: ``PUT,/v1/images/…/json,X-Docker-Token:true``. It covers neither the body nor the ``Date``
header. So only TLS protects the body, and only ``X-Docker-Date``, which is signed, bounds the time in which a captured
request can be sent again.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Iterable
from datetime import timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import ConfigError

logger = logging.getLogger(__name__)

#: Hashes that a signature may use, by the name in the setting.
HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha512": hashes.SHA512(),
    "sha384": hashes.SHA384(),
    "sha256": hashes.SHA256(),
    "sha1": hashes.SHA1(),  # noqa: S303 - what the signers of 0.7 use; can be refused by a setting
    "md5": hashes.MD5(),  # noqa: S303 - refused unless a setting allows it
}

#: Maximum difference between the clock and the Date or X-Docker-Date of a request, if it has one.
MAX_AGE_SECONDS: Final = 300.0

MIN_BITS: Final = 1024
_MAX_HEADER_CHARACTERS: Final = 8192
_WEAK: Final = frozenset({"sha1", "md5"})
_SIGNED_PREFIX: Final = "x-docker"
_DATE_HEADERS: Final = ("date", "x-docker-date")


class PrivilegedKey:
    """The public key of the operator; verifies signed requests."""

    def __init__(self, path: Path, allowed: Iterable[str], now: Callable[[], float] = time.time) -> None:
        """
        Args:
            path: PEM file, PKCS#1 or SubjectPublicKeyInfo; read again when it changes.
            allowed: names of hashes that a signature may use.
            now: the clock; returns seconds since the Unix epoch.

        Raises:
            ConfigError: the file cannot be used, or a hash is unknown.
        """
        allowed = tuple(allowed)
        unknown = [name for name in allowed if name not in HASHES]
        if unknown or not allowed:
            raise ConfigError(f"privileged_key_hashes must be one or more of {', '.join(HASHES)}")
        self._file = WatchedFile(path, _parse, setting="privileged_key")
        self._hashes = [(name, HASHES[name]) for name in HASHES if name in allowed]
        self._now = now
        self._has_warned = False

    def verify(self, method: str, path: str, headers: Iterable[tuple[str, str]]) -> bool:
        """
        Return whether a request has a valid signature, and no date that is too old or in the future.

        Args:
            path: decoded, without the query.
            headers: all headers of the request.
        """
        pairs = [(name.title(), value.strip()) for name, value in headers]
        given = [value for name, value in pairs if name == "X-Signature"]
        if len(given) != 1 or not self._is_recent(pairs):
            return False
        signature = _read(given[0])
        if signature is None:
            return False
        signed = sorted(f"{name}:{value}" for name, value in pairs if name.lower().startswith(_SIGNED_PREFIX))
        message = ",".join([method.upper(), path, *signed]).encode("utf-8", "surrogateescape")
        used = self._find_hash(signature, message)
        if used in _WEAK and not self._has_warned:
            self._has_warned = True
            logger.warning("requests are signed with %s, which is weak; see privileged_key_hashes", used)
        return used is not None

    def _find_hash(self, signature: bytes, message: bytes) -> str | None:
        """Return the hash of a valid signature; None if it is not valid."""
        for name, algorithm in self._hashes:
            try:
                self._file.get().verify(signature, message, padding.PKCS1v15(), algorithm)
            except (InvalidSignature, UnsupportedAlgorithm):
                continue
            return name
        return None

    def _is_recent(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Return whether no date header of a request differs from the clock by more than MAX_AGE_SECONDS."""
        for text in (value for name, value in pairs if name.lower() in _DATE_HEADERS):
            try:
                found = parsedate_to_datetime(text)
                # "-0000" (RFC 5322, section 3.3), as Python's formatdate() writes it, is UTC; without a zone too.
                date = found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
                seconds = date.timestamp()
            except (ValueError, TypeError, OverflowError):
                return False
            if abs(seconds - self._now()) > MAX_AGE_SECONDS:
                return False
        return True


def _read(header: str) -> bytes | None:
    """Return the signature in a header; None if it is malformed."""
    if len(header) > _MAX_HEADER_CHARACTERS or not header.isascii():
        return None
    fields = [part.partition("=") for part in header.split(";")]
    found = [value.strip() for name, _, value in fields if name.strip() == "data"]
    try:
        return base64.b64decode(found[0], validate=True) if len(found) == 1 else None
    except binascii.Error:
        return None


def _parse(content: bytes, path: Path) -> rsa.RSAPublicKey:
    try:
        public = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, rsa.RSAPublicKey):
        raise ConfigError(f"{path} is not the PEM of an RSA public key (PKCS#1 or SubjectPublicKeyInfo)")
    if public.key_size < MIN_BITS:
        raise ConfigError(f"{path} has a key of {public.key_size} bits; at least {MIN_BITS} are required")
    return public
