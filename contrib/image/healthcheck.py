"""
Health check of the container image: asks the server for /livez, at the address that its configuration names.

The server is the first process of the container, or a child of its init. Without either, the environment of the check
has the configuration.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import sys
from pathlib import Path

from docker_registry.cli.command import choose_file
from docker_registry.errors import ConfigError
from docker_registry.server import launch

#: For each of two attempts; Docker waits 5 s.
TIMEOUT_SECONDS = 2


def main() -> None:
    """Exit with status 0 if the server is alive."""
    choose_configuration()
    try:
        sys.exit(not is_alive())
    except OSError as error:
        sys.exit(f"the server cannot be reached: {error}")


def is_alive() -> bool:
    """Ask the server, by TLS if it does not answer without."""
    try:
        with connect() as connection:
            return ask(connection)
    except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
        return is_alive_by_tls()


def is_alive_by_tls() -> bool:
    """Ask the server by TLS; if it needs the client's certificate, workers that do handshakes are alive."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect() as plain:
        try:
            connection = context.wrap_socket(plain)
        except ssl.SSLError as error:  # TLS 1.2 refuses clients in the handshake, 1.3 after it
            return "ALERT" in (error.reason or "")
        with connection:
            try:
                return ask(connection)
            except (ssl.SSLError, ConnectionError, http.client.HTTPException):
                return True


def ask(connection: socket.socket) -> bool:
    """Send the request, and return whether the response is no error of the server."""
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    client.request("GET", "/livez")
    return client.getresponse().status < 500


def connect() -> socket.socket:
    """Connect to the address on which the server listens."""
    if os.environ.get("GUNICORN_OPTS"):
        address = launch.read_options(os.environ).address[0]
    else:
        address = launch.address(os.environ)
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(address)
        return connection
    host, port = address
    return socket.create_connection(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port), TIMEOUT_SECONDS)


def choose_configuration() -> None:
    """Take over the environment of the server, and the configuration file in its command line."""
    config = None
    found = find_server()
    if found is not None:
        process, arguments = found
        variables = (process / "environ").read_text(errors="surrogateescape").split("\0")
        os.environ.update(dict(each.split("=", 1) for each in variables if "=" in each))
        if arguments[:1] == ["serve"]:
            config = next((each for each in arguments[1:] if each and not each.startswith("-")), None)
    try:
        choose_file(config)
    except ConfigError as error:  # the server may have started with an earlier version of the file
        print(f"{error}", file=sys.stderr)


def find_server() -> tuple[Path, list[str]] | None:
    """Return the folder of the server below /proc, and the arguments of its command."""
    first, own = Path("/proc/1"), Path("/proc/self")
    children: list[Path] = []
    with contextlib.suppress(OSError):
        children = [Path("/proc", pid) for pid in (first / "task/1/children").read_text().split()]
    for process in (first, *children):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if (process / "ns/mnt").readlink() != (own / "ns/mnt").readlink():
                continue  # a process of the host
            arguments = (process / "cmdline").read_text(errors="surrogateescape").split("\0")
            for number, argument in enumerate(arguments[:3]):  # after the interpreter
                if Path(argument).name in ("docker-registry", "registry"):
                    return process, arguments[number + 1 :]
    return None


if __name__ == "__main__":
    main()
