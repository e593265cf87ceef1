"""The console script ``docker-registry``: it serves, and does what there is to do around serving."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from docker_registry import __version__
from docker_registry.errors import RegistryError

if TYPE_CHECKING:
    from docker_registry.config import Config

#: Exit status when the registry cannot run as it is configured.
CANNOT_RUN: Final = 2


@dataclass(frozen=True, slots=True)
class Command:
    """
    What can be said after ``docker-registry``.

    Attributes:
        run: does it, and returns the exit status.
        arguments: declares what may follow.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; ``serve`` when they name none."""
    parser = argparse.ArgumentParser(prog="docker-registry", description="The server that keeps container images.")
    parser.add_argument("--version", action="version", version=f"docker-registry {__version__}")
    names = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command_parser = names.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    chosen = parser.parse_args(arguments)
    try:
        return int(getattr(chosen, "run", serve)(chosen))
    except RegistryError as error:
        print(f"docker-registry: {error}", file=sys.stderr)
        return CANNOT_RUN


def serve(_: argparse.Namespace) -> int:
    """Serve, once the configuration and the store have been tried out."""
    from docker_registry import server

    server.check_environment(os.environ)
    server.check_address(os.environ)
    gc.disable()  # nothing that is imported becomes garbage, so there is no use in searching for that meanwhile
    try:
        server.load()

        from docker_registry import app

        config = _load_config(os.environ)
        app.load(config)
    finally:
        gc.enable()
    # In a process of its own: no connection or thread must be there when gunicorn forks its workers.
    status = _in_child(lambda: _check(config))
    return status or server.run(os.environ)


def check(_: argparse.Namespace) -> int:
    """Try out the configuration and the store."""
    return _check(_load_config(os.environ))


def print_config(_: argparse.Namespace) -> int:
    """Print the configuration in force."""
    from docker_registry.config_text import render

    print(render(_load_config(os.environ)), end="")
    return 0


def migrate(chosen: argparse.Namespace) -> int:
    """Make raw layers of old registries blobs."""
    from docker_registry import maintenance

    return maintenance.migrate(_load_config(os.environ), dry_run=chosen.dry_run)


def reindex(_: argparse.Namespace) -> int:
    """Rebuild from the store what can be rebuilt."""
    from docker_registry import maintenance

    return maintenance.reindex(_load_config(os.environ))


def work_out_diffs(_: argparse.Namespace) -> int:
    """Work out the diffs that wait in Redis, until told to stop."""
    from docker_registry import maintenance

    return maintenance.work_out_diffs(_load_config(os.environ))


def _migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only tell what there is to do")


#: Everything that ``docker-registry`` can do; further commands are one row here.
COMMANDS: Final = (
    Command("serve", "serve (this is also done without a command)", serve),
    Command("check", "try out the configuration and the store without serving", check),
    Command("config", "print the configuration in force, secrets masked", print_config),
    Command("migrate", "make the layers that docker-registry 0.6 to 0.9 wrote blobs", migrate, _migrate_arguments),
    Command("reindex", "rebuild the search index, and find private repositories anew", reindex),
    Command("diff-worker", "work out diffs that wait in Redis", work_out_diffs),
)


def _load_config(environ: Mapping[str, str]) -> Config:
    from docker_registry.config import load_config

    return load_config(environ)


def _check(config: Config) -> int:
    from docker_registry import app

    for line in app.check(config):
        print(line)
    return 0


def _in_child(work: Callable[[], int]) -> int:
    """Do a work in a process of its own and return its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = CANNOT_RUN
    try:
        status = work()
    except RegistryError as error:
        print(f"docker-registry: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(status)
