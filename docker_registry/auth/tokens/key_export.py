"""Public forms of signing keys, for other registries that verify our tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from docker_registry.auth.tokens.signing_keys import ES256, SigningKey

#: A certificate carries a key only; its life does not matter, but verifiers check it.
_VALID: Final = timedelta(days=3650)


def public_pem(key: SigningKey) -> str:
    """Return a public key as PEM (SubjectPublicKeyInfo)."""
    return key.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def certificate(key: SigningKey) -> str:
    """Return a self-signed certificate of a key as PEM, for ``rootcertbundle`` of distribution."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "docker-registry")])
    created = datetime.fromtimestamp(key.created, timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(created - timedelta(days=1))
        .not_valid_after(created + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key.private, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()


def jwks(keys: Sequence[SigningKey]) -> dict[str, Any]:
    """Return a JSON Web Key Set (RFC 7517)."""
    return {"keys": [_jwk(key) for key in keys]}


def _jwk(key: SigningKey) -> dict[str, Any]:
    text = ECAlgorithm.to_jwk(key.public) if key.algorithm == ES256 else RSAAlgorithm.to_jwk(key.public)  # type: ignore[arg-type] # the algorithm follows from the key
    return {**json.loads(text), "kid": key.key_id, "alg": key.algorithm, "use": "sig"}
