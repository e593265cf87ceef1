"""The console script ``docker-registry``: the server and the maintenance commands."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Final

from docker_registry import __version__
from docker_registry.cli import (
    access,
    backup,
    check,
    completion,
    diff_worker,
    doctor,
    garbage_collect,
    keys,
    migrate,
    mirror,
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
from docker_registry.cli.command import CANNOT_RUN, INCOMPLETE, Command, audit
from docker_registry.cli.guide import GUIDES, OVERVIEW
from docker_registry.errors import ConfigError, Invalid, NameUnknown, RegistryError

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
    mirror.COMMAND,
    backup.COMMAND,
    restore_backup.COMMAND,
    diff_worker.COMMAND,
    doctor.COMMAND,
    completion.COMMAND,
    garbage_collect.COMMAND,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="docker-registry",
        description="A registry server for container images.",
        epilog=OVERVIEW.text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"docker-registry {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        guide = GUIDES.get(command.name)
        command_parser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[:1].upper()}{command.help[1:]}.",
            epilog=guide.text() if guide else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(command_parser)
        command_parser.set_defaults(command=command, parser=parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command given by the arguments, by default ``serve``, and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = build_parser().parse_args(words)
    try:
        try:
            status = _run(getattr(parsed, "command", serve.COMMAND), parsed, words)
        except OSError:
            _write_output("\n")  # fails again if the output is the reason
            raise
        _write_output("")
        return status
    except RegistryError as error:
        print(f"docker-registry: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print("docker-registry: interrupted", file=sys.stderr)
        return INCOMPLETE
    except BrokenPipeError:  # such as `docker-registry config | head -1`
        _discard_output()
        return INCOMPLETE


def _write_output(end: str) -> None:
    """
    Write what is buffered and *end*; at exit, a failure would neither be explained nor determine the status.

    Raises:
        BrokenPipeError: the reader has left.
        RegistryError: it cannot be written, such as to a full disk.
    """
    try:
        print(end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise RegistryError(f"Standard output cannot be written: {error.strerror}") from None


def _discard_output() -> None:
    """Discard buffered output, which is flushed once more at exit and must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: Command, parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run a command and audit it if it changes something, also if it is interrupted or fails after a part of that."""
    if not command.changes(parsed):
        return command.run(parsed)
    line = shlex.join(("docker-registry", *words))
    try:
        status = command.run(parsed)
    except (ConfigError, Invalid, NameUnknown):  # nothing was changed
        raise
    except BaseException:
        audit(f"{line} (failed or interrupted)")
        raise
    audit(line)
    return status
