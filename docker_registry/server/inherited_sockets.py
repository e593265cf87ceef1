"""
Sockets that another process has opened for this one: systemd (socket activation) or the previous master (SIGUSR2).

They stay open while the server is replaced, so that clients never meet a closed port.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from docker_registry.errors import ConfigError

#: The first descriptor that systemd passes, and the variables that describe them (sd_listen_fds(3)).
_FIRST: Final = 3
_COUNT: Final = "LISTEN_FDS"
_RECEIVER: Final = "LISTEN_PID"

#: The descriptors that a master of gunicorn passes to its successor.
_GUNICORN: Final = "GUNICORN_FD"


def addresses(environ: Mapping[str, str]) -> list[str]:
    """
    Return the addresses of the inherited sockets; empty if this process opens its own.

    Raises:
        ConfigError: a variable is invalid, or a descriptor is not a listening socket.
    """
    return [_address(descriptor) for descriptor in _descriptors(environ)]


def _descriptors(environ: Mapping[str, str]) -> list[int]:
    if environ.get(_RECEIVER) == str(os.getpid()):
        count = environ.get(_COUNT, "0")
        if not count.isdecimal():
            raise ConfigError(f"{_COUNT} must be a number.")
        return [*range(_FIRST, _FIRST + int(count))]
    given = environ.get(_GUNICORN, "")
    try:
        return [int(each) for each in given.split(",")] if given else []
    except ValueError:
        raise ConfigError(f"{_GUNICORN} must be a list of numbers.") from None


def _address(descriptor: int) -> str:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as inherited:
            if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ConfigError(f"The inherited socket {descriptor} does not listen.")
            name = inherited.getsockname()
    except OSError as error:
        raise ConfigError(f"The inherited descriptor {descriptor} cannot be used: {error.strerror}.") from None
    if not isinstance(name, tuple):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
