"""Opens the keys of another service as the settings name them."""

from __future__ import annotations

import os
from pathlib import Path

from docker_registry.auth.external import https_documents
from docker_registry.auth.external.key_sets import FileKeys, KeySource, parse_certificates, parse_jwks
from docker_registry.auth.external.remote_keys import RemoteKeys
from docker_registry.errors import ConfigError


def open_keys(section: str, *, certificates: Path | None, jwks: str | None, ca: Path | None, name: str) -> KeySource:
    """
    Open the one source of keys that is configured.

    Args:
        section: name of the section of settings, for errors.
        certificates: PEM file of certificates or public keys.
        jwks: JSON Web Key Set; a path, or a URL with ``https://``.
        ca: certificate authorities for the URL.
        name: of the service, for the log.

    Raises:
        ConfigError: neither or both are set, or a file cannot be used.
    """
    if (certificates is None) == (jwks is None):
        raise ConfigError(f"{section}: set either rootcertbundle or jwks")
    if certificates is not None:
        return FileKeys(certificates, parse_certificates, f"{section}.rootcertbundle")
    url = jwks or ""
    if "://" not in url:
        return FileKeys(Path(os.path.expanduser(url)).absolute(), parse_jwks, f"{section}.jwks")
    https_documents.check_url(f"{section}.jwks", url)
    if ca is not None and not os.path.isfile(ca):  # noqa: PTH113 - raises no PermissionError
        raise ConfigError(f"{section}.ca: {ca} cannot be read")
    return RemoteKeys(name, lambda: https_documents.fetch(url, ca))
