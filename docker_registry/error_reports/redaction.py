"""Redaction of secrets in texts that leave the registry, such as reports of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from docker_registry.http.exchange import MASK, SENSITIVE_NAMES

#: Shorter secrets are replaced only where they are whole words, so that a password `a` does not destroy every text.
_SHORT: Final = 6

#: What precedes a secret is kept, what follows the group is replaced. Patterns that search a word (``[\w-]*``) are only
#: tried where it begins: if they were tried inside it too, the time would grow with the square of its length.
_PATTERNS: Final = (
    # scheme://user:password@host; the user name may contain an @
    re.compile(r"(?P<kept>\w://[^\s:/]*:)[^\s/]*(?=@)"),
    # Headers as text and in mappings: Authorization: Basic …, 'Cookie': 'a=b; c=d'.
    re.compile(
        r"(?P<kept>(?:(?<![\w-])[\w-]*authorization|\b(?:set-)?cookie)\b['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+",
        re.IGNORECASE,
    ),
    # Credentials of HTTP, and signed JSON (RFC 7519), wherever they are.
    re.compile(r"(?P<kept>\b(?:basic|bearer)\s+)[\w.~+/=-]{4,}", re.IGNORECASE),
    re.compile(r"(?<![\w-])(?=[\w-]*\.)(?P<kept>[\w-]*?)eyJ[\w-]*\.[\w-]*(?:\.[\w-]*)?"),
    # Query parameters, V1's tokens and attributes: signature=…, "password": "…".
    re.compile(rf"(?P<kept>(?<![\w-]){SENSITIVE_NAMES}['\"]?\s*[:=]\s*['\"]?)[^\s&;,'\"]+", re.IGNORECASE),
)


class Redactor:
    """Replaces known secrets, credentials of HTTP, passwords in URLs and signed query parameters by a mask."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """
        Args:
            secrets: texts that never appear in the result, such as the passwords of the configuration.
        """
        self._secrets = frozenset(secrets)

    def redact(self, text: str, secrets: Iterable[str] = ()) -> str:
        """
        Return a text without secrets.

        Args:
            secrets: further ones, such as the credentials of a request.
        """
        for secret in sorted({*self._secrets, *secrets} - {""}, key=len, reverse=True):
            if len(secret) < _SHORT:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
            else:
                text = text.replace(secret, MASK)
        for pattern in _PATTERNS:
            text = pattern.sub(_mask, text)
        return text


def _mask(found: re.Match[str]) -> str:
    return f"{found['kept']}{MASK}"
