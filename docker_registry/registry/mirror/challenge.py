"""
Parsing of authentication challenges (``WWW-Authenticate``; RFC 9110, section 11.6.1).

A header may contain several challenges, each a scheme followed by its parameters::

    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull", Basic realm=x
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

#: A header longer than this is treated as if it contained no challenge.
MAX_HEADER_CHARACTERS: Final = 16 * 1024

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar rule of HTTP, not a secret
#: One parameter (``name=value``) or the scheme that begins the next challenge, with the separators before it.
_PART: Final = re.compile(
    rf'[\s,]*(?:(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))|(?P<scheme>{_TOKEN}))'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """
    One way in which a client may authenticate.

    Attributes:
        scheme: the authentication scheme in lower case, such as ``bearer``.
        parameters: values without quotes, by lower-case name.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> list[Challenge]:
    """
    Parse the WWW-Authenticate headers of a response.

    Parsing stops silently at the first syntax error; the challenges up to there are returned, the last one with the
    parameters read so far (an unterminated quoted value is empty). If a challenge repeats a parameter, the first value
    counts.

    Args:
        header: the values of all WWW-Authenticate headers, joined by commas.

    Returns:
        The challenges in the order of the header; none if it is longer than :data:`MAX_HEADER_CHARACTERS`.
    """
    return list(_challenges(header)) if len(header) <= MAX_HEADER_CHARACTERS else []


def _challenges(header: str) -> Iterator[Challenge]:
    scheme, parameters, position = "", dict[str, str](), 0
    while match := _PART.match(header, position):
        position = match.end()
        if match["scheme"]:
            if scheme:
                yield Challenge(scheme, parameters)
            scheme, parameters = match["scheme"].lower(), {}
        else:
            quoted = match["quoted"]
            value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(match["name"].lower(), value)
    if scheme:
        yield Challenge(scheme, parameters)
