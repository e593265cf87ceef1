"""The console script ``docker-registry``: the server and the maintenance commands."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Final

from docker_registry import __version__
from docker_registry.cli import (
    access,
    backup,
    check,
    diff_worker,
    keys,
    migrate,
    print_config,
    private,
    readonly,
    reindex,
    restore_backup,
    robot,
    serve,
    token,
    user,
)
from docker_registry.cli.command import CANNOT_RUN, Command, audit
from docker_registry.errors import RegistryError

#: All commands; each is a module of this package.
COMMANDS: Final[tuple[Command, ...]] = (
    serve.COMMAND,
    check.COMMAND,
    print_config.COMMAND,
    migrate.COMMAND,
    reindex.COMMAND,
    readonly.COMMAND,
    private.COMMAND,
    user.COMMAND,
    access.COMMAND,
    robot.COMMAND,
    token.COMMAND,
    keys.COMMAND,
    backup.COMMAND,
    restore_backup.COMMAND,
    diff_worker.COMMAND,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command given by the arguments, by default ``serve``, and return its exit status."""
    parser = argparse.ArgumentParser(prog="docker-registry", description="A registry server for container images.")
    parser.add_argument("--version", action="version", version=f"docker-registry {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command_parser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(command_parser)
        command_parser.set_defaults(command=command)
    words = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(words)
    command = getattr(parsed, "command", serve.COMMAND)
    try:
        status = command.run(parsed)
        if command.changes(parsed):
            audit(shlex.join(("docker-registry", *words)))
        return status
    except RegistryError as error:
        print(f"docker-registry: {error}", file=sys.stderr)
        return CANNOT_RUN
