"""Starts gunicorn for the registry, with the settings that come from environment variables."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from docker_registry.errors import ConfigError
from docker_registry.server import inherited_sockets, open_files
from docker_registry.server.environment import NUMBERS, number
from docker_registry.server.monkey_patch import patch_master, patch_worker

if TYPE_CHECKING:
    from docker_registry.server.master import LogSettings
    from docker_registry.server.tls import TlsSettings

APPLICATION: Final = "docker_registry.wsgi:application"


def default_workers() -> int:
    """Return the default number of workers: one per processor available to this process, at most 8."""
    return min(len(os.sched_getaffinity(0)), 8)


def check_environment(environ: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: a variable has an invalid value.
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
    """Return the host and port to listen on; brackets around an IPv6 address are optional and removed."""
    host = environ.get("REGISTRY_HOST") or "0.0.0.0"  # noqa: S104 - intended
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, number(environ, "REGISTRY_PORT", 5000)


def bind_address(environ: Mapping[str, str]) -> str:
    """Return the address to listen on in gunicorn's format: ``127.0.0.1:5000``, ``[::1]:5000``."""
    host, port = address(environ)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(environ: Mapping[str, str]) -> list[str]:
    """
    Return the addresses that the server listens on, in gunicorn's format or as ``unix:PATH``.

    Raises:
        ConfigError: an inherited socket or ``GUNICORN_OPTS`` cannot be used.
    """
    if inherited := inherited_sockets.addresses(environ):
        return inherited
    return [*read_options(environ).bind] if _may_bind_elsewhere(environ) else [bind_address(environ)]


def is_loopback(environ: Mapping[str, str]) -> bool:
    """Return whether only this machine can reach the addresses to listen on."""
    return all(map(_is_local, addresses(environ)))


def _is_local(address: str) -> bool:
    from gunicorn.util import parse_address

    parsed = parse_address(address)
    if not isinstance(parsed, tuple):
        return isinstance(parsed, str)  # the path of a Unix socket; else a descriptor
    try:
        return ip_address(parsed[0]).is_loopback
    except ValueError:
        return bool(parsed[0] == "localhost")


def _may_bind_elsewhere(environ: Mapping[str, str]) -> bool:
    """Return whether GUNICORN_OPTS gives an address, or a configuration file that may contain one."""
    options = shlex.split(environ.get("GUNICORN_OPTS", ""))
    return any(option.startswith(("-b", "--bind", "-c", "--config")) for option in options)


def worker_ids(environ: Mapping[str, str]) -> tuple[int, int]:
    """
    Return the user id and group id that workers run as (``GUNICORN_USER``, ``GUNICORN_GROUP``).

    Raises:
        ConfigError: the user or group does not exist, or this process may not switch to it.
    """
    from gunicorn.config import validate_group, validate_user

    user, group = environ.get("GUNICORN_USER"), environ.get("GUNICORN_GROUP")
    try:
        uid = validate_user(user) if user else os.geteuid()
        gid = validate_group(group) if group else os.getegid()
    except Exception as error:  # noqa: BLE001 - gunicorn's ConfigError derives directly from Exception
        raise ConfigError(f"GUNICORN_USER, GUNICORN_GROUP: {error}") from None
    if os.geteuid() != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        raise ConfigError("GUNICORN_USER and GUNICORN_GROUP can only be used by root.")
    return uid, gid


def switch_user(uid: int, gid: int) -> None:
    """
    Switch this process to the user and group that workers run as, the way gunicorn does.

    Raises:
        ConfigError: the process lacks the capabilities SETUID and SETGID, as in a container that drops them.
    """
    if (uid, gid) != (os.geteuid(), os.getegid()):
        from gunicorn.util import set_owner_process

        try:
            set_owner_process(uid, gid)
        except OSError as error:
            raise ConfigError(
                f"GUNICORN_USER, GUNICORN_GROUP: cannot switch to user {uid} and group {gid}: {error.strerror}."
            ) from None


def create_store_folder(folder: Path, uid: int, gid: int) -> None:
    """
    Create the folder of a new store, owned by the user that workers run as; leave an existing one unchanged.

    Raises:
        ConfigError: the folder cannot be created.
    """
    if os.path.lexists(folder) or uid == os.geteuid():
        return
    try:
        folder.mkdir(parents=True)
        os.chown(folder, uid, gid)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be created: {error.strerror}.") from None


def check_options(environ: Mapping[str, str], tls: TlsSettings) -> None:
    """
    Check gunicorn's options and the files of TLS; an expired certificate is only warned about.

    Raises:
        ConfigError: gunicorn rejects its configuration file or an option in ``GUNICORN_OPTS``, or could serve no
            connection with it; or the files of *tls* cannot be used.
    """
    from gunicorn.sock import ssl_context

    from docker_registry.server.tls import make_context, warn_if_expired

    options = read_options(environ)
    for name, value in (("workers", options.workers), ("worker-connections", options.worker_connections)):
        if value < 1:
            raise ConfigError(f"GUNICORN_OPTS: --{name} must be at least 1.")
    _check_ports(options)
    if tls.certificate is not None and options.is_ssl:
        raise ConfigError("Set either tls.certificate or --certfile in GUNICORN_OPTS, not both.")
    if tls.certificate is not None:
        make_context(tls)
        warn_if_expired(tls.certificate)
    elif options.is_ssl:
        try:
            ssl_context(options)
        except (OSError, ValueError, TypeError) as error:  # TypeError: there is a key and no certificate
            raise ConfigError(f"GUNICORN_OPTS: the files of --certfile and --keyfile cannot be used: {error}") from None


def _check_ports(options: Any) -> None:
    try:
        ports = [each[1] for each in options.address if isinstance(each, tuple)]
    except RuntimeError as error:  # such as a port that is not a number
        raise ConfigError(f"GUNICORN_OPTS: {error}") from None
    if any(port > 65535 for port in ports):
        raise ConfigError("GUNICORN_OPTS: a port must be at most 65535.")


def check_log_files(environ: Mapping[str, str]) -> None:
    """
    Check, as the user of the master, that gunicorn can write its logs; create no file that another user could not use.

    Raises:
        ConfigError: one cannot be written, or as for :func:`read_options`.
    """
    options = read_options(environ)
    for name, text in (("GUNICORN_ERROR_LOG_FILE", options.errorlog), ("GUNICORN_ACCESS_LOG_FILE", options.accesslog)):
        if text in (None, "-"):
            continue
        path = Path(text).absolute()
        if problem := _why_unwritable(path):
            raise ConfigError(f"{name}: {path} cannot be written: {problem}.")


def _why_unwritable(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "it is a folder"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        return None if os.access(path if path.exists() else path.parent, os.W_OK) else "permission denied"
    except OSError as error:  # a folder above it must not be searched, or the name is too long
        return error.strerror


def read_options(environ: Mapping[str, str]) -> Any:
    """
    Return the settings of gunicorn: those of its configuration file and of ``GUNICORN_OPTS``.

    Raises:
        ConfigError: gunicorn rejects one.
    """
    from gunicorn.app.wsgiapp import WSGIApplication

    arguments, messages = sys.argv, io.StringIO()
    sys.argv = _arguments(environ)
    try:
        with contextlib.redirect_stderr(messages):
            return WSGIApplication("%(prog)s [OPTIONS]", prog="docker-registry").cfg
    except SystemExit:
        problem = messages.getvalue().strip().rpartition("\n")[2].rpartition("rror: ")[2]
        raise ConfigError(f"GUNICORN_OPTS: {problem or '--help and --version do not start the server'}.") from None
    finally:
        sys.argv = arguments


def check_address(environ: Mapping[str, str], *, may_be_in_use: bool = False) -> None:
    """
    Check the address that the environment names; gunicorn itself reports one of ``GUNICORN_OPTS`` that is unavailable.

    Args:
        may_be_in_use: accept an address that another process listens on, such as the running server.

    Raises:
        ConfigError: the address is unavailable or already in use, or an inherited socket cannot be used.
    """
    if inherited_sockets.addresses(environ) or _may_bind_elsewhere(environ):
        return
    host, port = address(environ)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as gunicorn chooses, also for a name
    try:
        *_, found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found)
    except UnicodeError:
        raise ConfigError(f"{host} port {port} cannot be opened for listening: it is not the name of a host.") from None
    except OSError as error:
        if may_be_in_use and error.errno == errno.EADDRINUSE:
            return
        advice = ""
        if error.errno == errno.EADDRINUSE:
            advice = " REGISTRY_PORT chooses another port."
        elif error.errno == errno.EACCES:
            advice = " Ports below 1024 need root or the capability CAP_NET_BIND_SERVICE."
        raise ConfigError(f"{host} port {port} cannot be opened for listening: {error.strerror}.{advice}") from None


def become_like_worker(uid: int, gid: int) -> None:
    """
    Give a child of the master the user, the group and the patches of a worker.

    Without these patches a thread pool, such as a driver or library may use, would wait forever on its queue.

    Raises:
        ConfigError: as for :func:`switch_user`.
    """
    switch_user(uid, gid)
    patch_worker()


def import_modules() -> None:
    """
    Import the modules that workers need before they are forked.

    This saves half a second per worker, and they share the memory. gevent's patches are applied first
    (:mod:`docker_registry.server.monkey_patch`).
    """
    patch_master()

    import gunicorn.app.wsgiapp  # noqa: F401

    import docker_registry.server.master
    import docker_registry.server.worker  # noqa: F401


def run(environ: Mapping[str, str], log_settings: Callable[[], LogSettings], can_start: Callable[[], bool]) -> int:
    """
    Serve until a signal stops gunicorn; its settings are in ``gunicorn.py`` and ``GUNICORN_OPTS``.

    Args:
        log_settings: returns the configuration for gunicorn's own messages.
        can_start: returns whether workers can start with the configuration as it is now.
    """
    from docker_registry.server.master import RegistryApplication

    open_files.allow_many()
    sys.argv = _arguments(environ)
    RegistryApplication("%(prog)s [OPTIONS]", "docker-registry", log_settings, can_start).run()
    return 0


def _arguments(environ: Mapping[str, str]) -> list[str]:
    """Return the command line of gunicorn."""
    options = shlex.split(environ.get("GUNICORN_OPTS", ""))
    return ["docker-registry", "--config", str(gunicorn_config()), *options, APPLICATION]


def gunicorn_config() -> Path:
    """Return the path of gunicorn's configuration: inside an installed package, or in ``config/`` of a clone."""
    package = Path(__file__).parent.parent
    installed = package / "sample" / "gunicorn.py"
    return installed if installed.exists() else package.parent / "config" / "gunicorn.py"
