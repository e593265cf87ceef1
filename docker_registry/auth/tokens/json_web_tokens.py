"""
Verification of JSON Web Tokens (RFC 7519) that this registry or another service has signed.

Keys come from a trusted source only, and each key has its algorithms: a header can neither bring a key nor choose an
algorithm that does not fit the key (RFC 8725, sections 3.1 and 3.10).
"""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from docker_registry.auth.tokens.signing_keys import PublicKey
from docker_registry.errors import Unauthorized

Verified = TypeVar("Verified")

#: Maximum length of a token.
MAX_CHARACTERS: Final = 16 * 1024

#: Maximum number of verified tokens that are remembered, and of their characters in total: a client may get any number
#: of tokens with a hundred scopes, and what is remembered of these takes several times the memory of their text.
MAX_REMEMBERED: Final = 10_000
MAX_REMEMBERED_CHARACTERS: Final = 8 * 1024 * 1024

#: Clocks of hosts may differ by this much.
SKEW_SECONDS: Final = 60

#: A shorter RSA key is not used.
MIN_RSA_BITS: Final = 2048

#: All algorithms that may be configured: those with a public key.
ALGORITHMS: Final = (
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
)  # fmt: skip

#: Headers that name or carry a key, or demand extensions (RFC 7515, section 4.1); never followed.
_FORBIDDEN: Final = ("jku", "jwk", "x5u", "x5c", "crit")

_OF_CURVES: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """
    A public key that a token may name.

    Attributes:
        key_ids: the ids by which tokens name it (``kid``).
        algorithms: those that it may verify.
    """

    key_ids: frozenset[str]
    public: PublicKey
    algorithms: tuple[str, ...]


def algorithms_of(public: PublicKey) -> tuple[str, ...]:
    """Return the algorithms that fit a key; none for a curve or a length that is not accepted."""
    if isinstance(public, rsa.RSAPublicKey):
        return ALGORITHMS[3:9] if public.key_size >= MIN_RSA_BITS else ()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return ("EdDSA",)
    return _OF_CURVES.get(public.curve.name, ())


def decode(
    text: str,
    find: Callable[[str | None], Sequence[VerifyingKey]],
    *,
    issuer: str,
    audience: str,
    algorithms: Collection[str],
    required: Collection[str],
    now: float,
) -> dict[str, Any]:
    """
    Verify a token except for its expiry, and return its claims; ``exp``, if it is there, is a finite number.

    Args:
        find: returns the keys of an id; all keys for None, a token without ``kid``.
        audience: must be the ``aud`` of the token, or one of them.
        required: claims without which a token is refused.
        now: seconds since the Unix epoch.

    Raises:
        Unauthorized: the token is malformed, not valid yet, or not signed by these keys for this audience; the
            message gives the reason.
    """
    header = read_header(text)
    algorithm, key_id = header.get("alg"), header.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise invalid("its header is malformed")
    keys = find(key_id)
    if not keys:
        raise invalid("its key is unknown")
    keys = [key for key in keys if algorithm in key.algorithms and algorithm in algorithms]
    if not keys:
        raise invalid("its algorithm is not allowed")
    claims = _claims(text, keys, str(algorithm), issuer=issuer, audience=audience, required=required)
    times = [claims.get(name, 0) for name in ("exp", "nbf", "iat")]
    if not all(_is_finite_number(value) for value in times):
        raise invalid("its times are malformed")
    if max(times[1:]) > now + SKEW_SECONDS:
        raise invalid("it is not valid yet")
    return claims


def read_header(text: str) -> dict[str, Any]:
    """
    Return the header of a token that is not verified yet.

    Raises:
        Unauthorized: the token is malformed, its header names a key or an extension, or it contains another token.
    """
    if len(text) > MAX_CHARACTERS:
        raise invalid("it is too long")
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, RecursionError, UnicodeEncodeError):  # a password may contain surrogates
        raise invalid("it is malformed") from None
    if any(name in header for name in _FORBIDDEN):
        raise invalid("its header names a key or an extension")
    if str(header.get("cty", "")).lower().rpartition("/")[2] == "jwt":
        raise invalid("it contains another token")
    return header


def read_claims(text: str) -> dict[str, Any]:
    """
    Return the claims of a token that is not verified yet, to choose the issuer whose keys verify it.

    Raises:
        Unauthorized: the token is malformed.
    """
    read_header(text)
    try:
        claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError):
        raise invalid("it is malformed") from None
    return claims


def _claims(
    text: str, keys: Sequence[VerifyingKey], algorithm: str, *, issuer: str, audience: str, required: Collection[str]
) -> dict[str, Any]:
    """Return the claims of a token that one of the keys has signed."""
    options: Any = {"require": [*required], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
    for number, key in enumerate(keys, 1):
        try:
            return jwt.decode(
                text, key.public, [algorithm], audience=audience, issuer=issuer, options=options
            )  # fmt: skip
        except jwt.InvalidSignatureError:
            if number == len(keys):
                raise invalid("its signature is wrong") from None
        except (jwt.PyJWTError, RecursionError) as error:
            raise invalid(_reason(error)) from None
    raise invalid("its key is unknown")


def _is_finite_number(value: object) -> bool:
    # Python's JSON parser accepts NaN, Infinity and integers that are larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def invalid(reason: str) -> Unauthorized:
    """Return the error for a token that is not valid."""
    return Unauthorized(f"The token is not valid: {reason}.", error="invalid_token")


def _reason(error: Exception) -> str:
    for kind, reason in (
        (jwt.InvalidAudienceError, "it is for another service"),
        (jwt.InvalidIssuerError, "it is from another issuer"),
        (jwt.MissingRequiredClaimError, "it lacks a claim"),
    ):
        if isinstance(error, kind):
            return reason
    return "it is malformed"


class Remembered(Generic[Verified]):
    """Results of verified tokens, by a hash of the token; beyond a maximum, the oldest ones are forgotten."""

    def __init__(self) -> None:
        self._verified: OrderedDict[bytes, tuple[Verified, int]] = OrderedDict()  # with the length of the token
        self._characters = 0

    def get(self, text: str, verify: Callable[[str], Verified], version: object = "") -> Verified:
        """
        Return the result for a token, from memory or from *verify*.

        Args:
            version: of the keys; a result is not used any more when it has changed.
        """
        mark = hashlib.sha256(f"{version}\n{text}".encode("utf-8", "replace")).digest()
        found = self._verified.get(mark)
        if found is not None:
            return found[0]
        result = verify(text)
        if mark not in self._verified:  # another request may have verified the same token meanwhile
            self._verified[mark] = result, len(text)
            self._characters += len(text)
        while len(self._verified) > MAX_REMEMBERED or self._characters > MAX_REMEMBERED_CHARACTERS:
            _, (_, length) = self._verified.popitem(last=False)
            self._characters -= length
        return result

    def __len__(self) -> int:
        return len(self._verified)
