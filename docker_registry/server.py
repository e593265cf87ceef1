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


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and the port to listen on; an IPv6 address may be in brackets, and is returned without."""
    host = environ.get("REGISTRY_HOST") or "0.0.0.0"  # noqa: S104 - meant
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, number(environ, "REGISTRY_PORT", 5000)


def bind_address(environ: Mapping[str, str]) -> str:
    """Return the address to listen on as gunicorn reads it: ``127.0.0.1:5000``, ``[::1]:5000``."""
    host, port = address(environ)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def owner(environ: Mapping[str, str]) -> tuple[int, int]:
    """
    Return the user and the group that workers run as (``GUNICORN_USER``, ``GUNICORN_GROUP``), by number.

    Raises:
        ConfigError: there is no such user or group, or this process may not become it.
    """
    from gunicorn.config import validate_group, validate_user

    user, group = environ.get("GUNICORN_USER"), environ.get("GUNICORN_GROUP")
    try:
        uid = validate_user(user) if user else os.geteuid()
        gid = validate_group(group) if group else os.getegid()
    except Exception as error:  # noqa: BLE001 - gunicorn raises its own ConfigError, which is no class of its own
        raise ConfigError(f"GUNICORN_USER, GUNICORN_GROUP: {error}") from None
    if os.geteuid() != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        raise ConfigError("GUNICORN_USER and GUNICORN_GROUP can be changed by root only.")
    return uid, gid


def become(uid: int, gid: int) -> None:
    """Become the user and the group that workers run as, as gunicorn does it."""
    if (uid, gid) != (os.geteuid(), os.getegid()):
        from gunicorn.util import set_owner_process

        set_owner_process(uid, gid)


def give_folder(folder: Path, uid: int, gid: int) -> None:
    """
    Make the folder of a new store for the user that workers run as; one that exists is left as it is.

    Raises:
        ConfigError: it cannot be made.
    """
    if os.path.lexists(folder) or uid == os.geteuid():
        return
    try:
        folder.mkdir(parents=True)
        os.chown(folder, uid, gid)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}.") from None


def check_address(environ: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: nobody can listen on the address, or somebody does already.
    """
    host, port = address(environ)
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found)
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
