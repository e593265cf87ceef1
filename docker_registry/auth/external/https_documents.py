"""
Fetches small documents of authentication services, with limits for size and time.

The limit for the whole time needs gevent's patches, which commands do not apply: there each read has a limit of its own
only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import gevent

from docker_registry.errors import AuthorityUnavailable, ConfigError

if TYPE_CHECKING:
    import requests

#: Default of the maximum size of a document.
MAX_BYTES: Final = 256 * 1024

#: Time limits: for a whole request, and for connecting and each read.
TOTAL_SECONDS: Final = 10.0
STEP_SECONDS: Final = 5.0

_CHUNK_BYTES: Final = 16 * 1024


def check_url(setting: str, url: str, schemes: Collection[str] = ("https",)) -> None:
    """
    Check a URL that the configuration or a document contains.

    Args:
        setting: its name, for the message.
        schemes: those that are allowed.

    Raises:
        ConfigError: the text is not a URL, has another scheme, or contains credentials, spaces or quotes.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host.isascii():  # else requests encodes it, by a newer version of IDNA
            host.encode("idna")  # as a name lookup does; raises ValueError for an empty label, as in a..b
        is_valid = parts.scheme in schemes and bool(host) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url or '"' in url:
        beginning = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ConfigError(
            f"{setting} must be a URL that begins with {beginning}, without user name, password, spaces or quotes"
        )


def fetch(url: str, ca: Path | None = None) -> bytes:
    """
    Return a document; see :func:`request`.

    Raises:
        AuthorityUnavailable: the server cannot be reached, or its response is late, too large, or has another status
            than 200.
    """
    status, content = request(url, ca)
    if status != 200:
        raise AuthorityUnavailable(f"{url} answered {status}.")
    return content


def request(
    url: str, ca: Path | None = None, *, headers: Mapping[str, str] | None = None, max_bytes: int = MAX_BYTES
) -> tuple[int, bytes]:
    """
    Return status and body of a GET; an empty body for a status other than 200.

    Redirects are not followed; proxies of the environment are used.

    Args:
        ca: PEM file of the certificate authorities that sign the server's certificate; None for those of the system.
        headers: further headers of the request.
        max_bytes: maximum size of the body.

    Raises:
        AuthorityUnavailable: the server cannot be reached, its certificate is not valid, or its response is late or
            larger than *max_bytes*.
    """
    import requests

    late = AuthorityUnavailable(f"{url} took longer than {TOTAL_SECONDS:.0f} seconds.")
    try:
        with gevent.Timeout(TOTAL_SECONDS, late), requests.Session() as session:
            session.auth = _unchanged  # else requests would send a password of ~/.netrc
            with session.get(
                url,
                timeout=STEP_SECONDS,
                stream=True,
                allow_redirects=False,
                hooks={"response": _forget_location},
                verify=True if ca is None else str(ca),
                headers={"Accept": "application/json", **(headers or {})},
            ) as response:
                return response.status_code, _read(response, url, max_bytes) if response.status_code == 200 else b""
    except (requests.RequestException, OSError) as error:
        raise AuthorityUnavailable(f"{url} cannot be read ({type(error).__name__}).") from None


def _unchanged(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _forget_location(response: requests.Response, *_: object, **__: object) -> None:
    """Hide a redirect from requests, which would read its whole body, of any size, even without following it."""
    response.headers.pop("Location", None)


def _read(response: requests.Response, url: str, max_bytes: int) -> bytes:
    content = b""
    for chunk in response.iter_content(_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            raise AuthorityUnavailable(f"{url} is larger than {max_bytes // 1024} KiB.")
    return content
