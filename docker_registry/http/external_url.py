"""The URL under which clients reach the registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from docker_registry.errors import ConfigError

#: A host with an optional port, as in the header Host; a name in its ASCII form.
HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

#: Longer prefixes of proxies are ignored.
_MAX_CHARACTERS: Final = 256

#: A path of unreserved characters (RFC 3986, section 2.3), whose first component does not begin an API.
_PATH: Final = re.compile(r"(?!/v[12](?:/|$))(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True, slots=True)
class ExternalUrl:
    """
    The setting ``external_url``.

    Attributes:
        origin: scheme, host and port, such as ``https://registry.example.com``; empty to take those of each request.
        path: below which the registry is, such as ``/registry``; empty at the root of the host.
    """

    origin: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str | None) -> ExternalUrl:
        """
        Raises:
            ConfigError: the text is neither an http or https URL nor a path.
        """
        wrong = ConfigError(
            "external_url must be a URL such as https://registry.example.com or "
            "https://example.com/registry, or a path such as /registry, not below /v1 or /v2"
        )
        try:
            parts = urlsplit((text or "").rstrip("/"))
            _ = parts.port
            host = parts.netloc.removesuffix(":")  # an empty port is the default one
            if not host.isascii():  # headers take only the ASCII form of a name
                host = host.encode("idna").decode("ascii")
        except ValueError:  # brackets without an IPv6 address, a port that is no number up to 65535, or no host name
            raise wrong from None
        is_url = parts.scheme in ("http", "https") and HOST.fullmatch(host) is not None
        is_path = not parts.scheme and not parts.netloc
        path = path_prefix(parts.path)
        if not (is_url or is_path) or path is None or parts.query or parts.fragment:
            raise wrong
        return cls(f"{parts.scheme}://{host}" if is_url else "", path)


def path_prefix(text: str) -> str | None:
    """Return a path without a slash at its end; None if it cannot be the prefix of the registry's paths."""
    path = text.rstrip("/")
    return path if len(path) <= _MAX_CHARACTERS and _PATH.fullmatch(path) else None
