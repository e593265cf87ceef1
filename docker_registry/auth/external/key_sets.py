"""
Public keys of other services: bundles of certificates, and JSON Web Key Sets (RFC 7517).

A key has the ids by which tokens may name it: the one in its set, libtrust's (distribution 2) and the thumbprint of
RFC 7638 (distribution 3).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from docker_registry.auth.tokens.json_web_tokens import VerifyingKey, algorithms_of
from docker_registry.auth.tokens.signing_keys import PublicKey, key_id
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import ConfigError

#: Maximum number of keys of one source.
MAX_KEYS: Final = 100

_PEM: Final = b"-----BEGIN "


class KeySource(Protocol):
    """Where the keys of another service come from."""

    @property
    def version(self) -> object:
        """Changes with the keys."""

    def find(self, wanted: str | None) -> Sequence[VerifyingKey]:
        """
        Return the keys of an id; all keys for None.

        Raises:
            AuthorityUnavailable: the keys could not be fetched.
        """
        ...


class FileKeys:
    """Keys in a file of the operator that is read again when it changes; a :class:`KeySource`."""

    def __init__(self, path: Path, parse: Callable[[bytes], Sequence[VerifyingKey]], setting: str = "") -> None:
        """
        Args:
            parse: :func:`parse_certificates` or :func:`parse_jwks`.
            setting: the name of the setting with the path, for messages.

        Raises:
            ConfigError: the file cannot be read or used.
        """

        def parse_file(content: bytes, path: Path) -> Sequence[VerifyingKey]:
            try:
                return parse(content)
            except ValueError as error:
                raise ConfigError(f"{path} {error}") from None

        self._file = WatchedFile(path, parse_file, setting=setting)

    @property
    def version(self) -> object:
        """See :class:`KeySource`."""
        self._file.get()
        return self._file.version

    def find(self, wanted: str | None) -> Sequence[VerifyingKey]:
        """See :class:`KeySource`."""
        return select(self._file.get(), wanted)


def select(keys: Sequence[VerifyingKey], wanted: str | None) -> Sequence[VerifyingKey]:
    """Return the keys of an id; all of them for None."""
    return keys if wanted is None else [key for key in keys if wanted in key.key_ids]


def parse_certificates(content: bytes) -> list[VerifyingKey]:
    """
    Return the keys of a bundle of PEM certificates or public keys that may verify signatures; others are left out.

    Raises:
        ValueError: the bundle is damaged or contains no usable key; the message ends a sentence that begins with the
            file's name.
    """
    found = []
    for block in (_PEM + rest for rest in content.split(_PEM)[1:]):
        try:
            public = (
                serialization.load_pem_public_key(block)
                if block.startswith(b"-----BEGIN PUBLIC KEY-----")
                else x509.load_pem_x509_certificate(block).public_key()
            )
        except UnsupportedAlgorithm:
            continue
        except ValueError:
            raise ValueError("contains a certificate that cannot be read") from None
        found += _usable(public, None, None)
    return _checked(found)


def parse_jwks(content: bytes) -> list[VerifyingKey]:
    """
    Return the keys of a JSON Web Key Set that may verify signatures; others are left out.

    Raises:
        ValueError: it is damaged or contains no usable key; as for :func:`parse_certificates`.
    """
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("is not a JSON Web Key Set") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"is not a list of at most {MAX_KEYS} keys")
    return _checked([key for entry in entries if isinstance(entry, dict) for key in _read(entry)])


def _read(entry: dict[str, Any]) -> list[VerifyingKey]:
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return []
    readers: dict[object, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    try:
        reader = readers.get(entry.get("kty"))  # TypeError: it is a list or an object
        public = None if reader is None else reader.from_jwk(entry)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return []
    return _usable(public, entry.get("kid"), entry.get("alg"))


def _usable(public: object, own_id: object, algorithm: object) -> list[VerifyingKey]:
    """Return a key with its ids and algorithms; nothing if no algorithm fits it."""
    if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return []
    algorithms = tuple(each for each in algorithms_of(public) if algorithm in (None, each))
    ids = {own_id} if isinstance(own_id, str) else {key_id(public), _thumbprint(public)}
    return [VerifyingKey(frozenset(ids), public, algorithms)] if algorithms else []


def _checked(found: list[VerifyingKey]) -> list[VerifyingKey]:
    if not found:
        raise ValueError("contains no key that can verify tokens")
    if len(found) > MAX_KEYS:
        raise ValueError(f"contains more than {MAX_KEYS} keys")
    return found


def _thumbprint(public: PublicKey) -> str:
    """Return the SHA-256 thumbprint of a key (RFC 7638)."""
    if isinstance(public, rsa.RSAPublicKey):
        entry = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        entry = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        entry = OKPAlgorithm.to_jwk(public, as_dict=True)
    required = {name: entry[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in entry}
    text = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
