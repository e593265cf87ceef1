"""Environment variables of the server that are whole numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from docker_registry.errors import ConfigError

#: Variables that must be whole numbers, with the smallest valid value.
NUMBERS: Final = {
    "REGISTRY_PORT": 1,
    "REGISTRY_MAX_CONNECTIONS_PER_ADDRESS": 0,
    "GUNICORN_WORKERS": 1,
    "GUNICORN_GRACEFUL_TIMEOUT": 0,
    "GUNICORN_SILENT_TIMEOUT": 0,
}

#: Kubernetes sets REGISTRY_PORT to such a URL in every container of a namespace with a service called ``registry``.
_KUBERNETES: Final = "tcp://"


def number(environ: Mapping[str, str], name: str, default: int) -> int:
    """
    Return a variable that is a whole number.

    Raises:
        ConfigError: it is something else, or too small.
    """
    text = environ.get(name, "")
    if not text or (name == "REGISTRY_PORT" and text.startswith(_KUBERNETES)):
        return default
    least = NUMBERS[name]
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {text!r}.")
    return int(text)
