"""A registry below a path, such as ``https://example.com/registry``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docker_registry import dependencies
from docker_registry.http.clients import TrustedProxies
from docker_registry.http.external_url import ExternalUrl, path_prefix


class PathPrefix:
    """
    The path below which the registry is, as the client sees it.

    It is that of ``external_url``, or X-Forwarded-Prefix of a trusted proxy, or SCRIPT_NAME of the WSGI server.

    Attributes:
        is_fixed: whether it is the same for all requests.
    """

    def __init__(self, proxies: TrustedProxies, external_url: ExternalUrl) -> None:
        self._proxies = proxies
        self._path = external_url.path
        self.is_fixed = bool(self._path)

    def apply(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Callable[..., Any]:
        """
        Move the path from the beginning of PATH_INFO, unless a proxy has removed it, to SCRIPT_NAME.

        Returns:
            *start_response*, which also adds the path to Location and Link.
        """
        prefix = self._path or self._forwarded(environ) or environ.get("SCRIPT_NAME", "")
        if not prefix:
            return start_response
        environ["SCRIPT_NAME"] = prefix
        path = environ.get("PATH_INFO", "")
        if path == prefix or path.startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"

        def start_below(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [(name, _below(prefix, name, value)) for name, value in headers], *more)

        return start_below

    def _forwarded(self, environ: dict[str, Any]) -> str:
        header = environ.get("HTTP_X_FORWARDED_PREFIX")
        if header is None:
            return ""
        # Whether the header is trusted depends on the connection, which is no part of the key of a cached response.
        dependencies.make_uncacheable()
        if not self._proxies.is_trusted(environ.get("REMOTE_ADDR") or ""):
            return ""
        return path_prefix(_last(header)) or ""


def _below(prefix: str, name: str, value: str) -> str:
    """Return the value of a header with the prefix before its path; URLs of other hosts are unchanged."""
    if name == "Location" and value.startswith("/"):
        return f"{prefix}{value}"
    if name == "Link" and value.startswith("</"):
        return f"<{prefix}{value[1:]}"
    return value


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()
