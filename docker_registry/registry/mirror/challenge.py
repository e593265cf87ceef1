"""
Challenges: how a server wants its clients to authenticate (``WWW-Authenticate``; RFC 9110, section 11.6.1).

::

    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull", Basic realm=x
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

#: A longer header is ignored.
MAX_HEADER_CHARACTERS: Final = 16 * 1024

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of HTTP, not a secret
#: A parameter, or the scheme of the next challenge, with what separates it from the one before.
_PART: Final = re.compile(
    rf'[\s,]*(?:(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))|(?P<scheme>{_TOKEN}))'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """
    One challenge.

    Attributes:
        scheme: in lower case.
        parameters: values by name in lower case.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> list[Challenge]:
    """
    Parse the values of all WWW-Authenticate headers of a response, joined by commas.

    What cannot be parsed ends the list; challenges before it are returned.
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
