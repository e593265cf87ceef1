"""The Authorization header of a request (RFC 9110, section 11.6.2; RFC 7617; RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from docker_registry.errors import Unauthorized

#: A longer header is rejected without being decoded. The longest token fits into it as a password, in base64 once more.
MAX_HEADER_CHARACTERS: Final = 24 * 1024

#: Sent by Homebrew, which has no credentials.
_NO_TOKEN: Final = "QQ=="  # noqa: S105 - known to everyone

_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True)
class Basic:
    """A user name and a password; the password keeps bytes that are not UTF-8 as surrogates."""

    name: str
    password: str

    def __repr__(self) -> str:
        return "Basic(…)"


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token."""

    token: str

    def __repr__(self) -> str:
        return "Bearer(…)"


@dataclass(frozen=True, slots=True)
class ImageToken:
    """A token of API V1, as the whole header."""

    header: str

    def __repr__(self) -> str:
        return "ImageToken(…)"


def parse(header: str | None) -> Basic | Bearer | ImageToken | None:
    """
    Return the credentials in an Authorization header; None for an anonymous client.

    ``Basic Og==`` (an empty name and password), ``Bearer QQ==`` and empty credentials are anonymous too.

    Raises:
        Unauthorized: the header is malformed, or its scheme is not supported.
    """
    if header is None or not header.strip():
        return None
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if len(header) > MAX_HEADER_CHARACTERS:
        raise Unauthorized("The Authorization header is too long.")
    if scheme.lower() == "token":
        return ImageToken(header.strip())
    if scheme.lower() not in ("basic", "bearer"):
        raise Unauthorized("The scheme of the Authorization header is not supported.")
    if not value:
        return None
    if scheme.lower() == "bearer":
        if not _BEARER.fullmatch(value):
            raise Unauthorized("The token is malformed.", error="invalid_token")
        return None if value == _NO_TOKEN else Bearer(value)
    return _basic(value)


def _basic(value: str) -> Basic | None:
    try:
        decoded = base64.b64decode(value.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Unauthorized("The Basic credentials are malformed.") from None
    name, colon, password = decoded.partition(b":")
    if not colon or b"\0" in decoded:
        raise Unauthorized("The Basic credentials are malformed.")
    if not name and not password:
        return None
    return Basic(name.decode("utf-8", "replace"), password.decode("utf-8", "surrogateescape"))
