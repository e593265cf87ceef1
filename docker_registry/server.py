"""How gunicorn is started for the registry, and what the environment may change about it."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docker_registry import open_files
from docker_registry.environment import NUMBERS, number
from docker_registry.errors import ConfigError
from docker_registry.patching import patch_master

APPLICATION: Final = "docker_registry.wsgi:application"


def default_workers() -> int:
    """Return how many workers use this machine well: one for each processor that we may use, at most 8."""
    return min(len(os.sched_getaffinity(0)), 8)


def check_environment(environ: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: a variable cannot be what it is.
    """
    for name, least in NUMBERS.items():
        number(environ, name, least)
    if number(environ, "REGISTRY_PORT", 5000) > 65535:
        raise ConfigError("REGISTRY_PORT must be at most 65535.")
    try:
        shlex.split(environ.get("GUNICORN_OPTS", ""))
    except ValueError as error:
        raise ConfigError(f"GUNICORN_OPTS cannot be read: {error}.") from None


def check_address(environ: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: nobody can listen on the address, or somebody does already.
    """
    host, port = environ.get("REGISTRY_HOST") or "0.0.0.0", number(environ, "REGISTRY_PORT", 5000)  # noqa: S104 - meant
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(f"{host} port {port} cannot be listened on: {error.strerror}.") from None


def load() -> None:
    """
    Import what workers need, so that they are forked with it: it takes them half a second each, and much memory.

    gevent's patches go first (:mod:`docker_registry.patching`).
    """
    patch_master()

    import gunicorn.app.wsgiapp  # noqa: F401

    import docker_registry.worker  # noqa: F401


def run(environ: Mapping[str, str]) -> int:
    """Serve until told to stop; everything that gunicorn can do is in its configuration, ``gunicorn.py``."""
    from gunicorn.app.wsgiapp import WSGIApplication

    open_files.allow_many()
    options = shlex.split(environ.get("GUNICORN_OPTS", ""))
    sys.argv = ["docker-registry", "--config", str(gunicorn_config()), *options, APPLICATION]
    WSGIApplication("%(prog)s [OPTIONS]", prog="docker-registry").run()
    return 0


def gunicorn_config() -> Path:
    """Return gunicorn's configuration: inside an installed package, in ``config/`` of a clone."""
    package = Path(__file__).parent
    installed = package / "sample" / "gunicorn.py"
    return installed if installed.exists() else package.parent / "config" / "gunicorn.py"
