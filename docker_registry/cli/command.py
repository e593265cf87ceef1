"""
Definitions that all commands share.

Each command is a module with a ``COMMAND``. All of these modules are imported at every start, so they import the
dependencies of a command only when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from docker_registry.config.schema import Config

#: Exit status: work is left to do or damage was found; standard output has the details.
INCOMPLETE: Final = 1

#: Exit status: wrong usage, invalid configuration, or another error of the registry.
CANNOT_RUN: Final = 2


@dataclass(frozen=True, slots=True)
class Command:
    """
    A command of ``docker-registry``.

    Attributes:
        help: one line for ``--help``.
        run: runs the command and returns its exit status.
        add_arguments: declares the command's arguments.
        changes: returns whether the chosen action changes something, so that it is audited.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None
    changes: Callable[[argparse.Namespace], bool] = lambda _: False


def changes_by(*actions: str) -> Callable[[argparse.Namespace], bool]:
    """Return a function for :attr:`Command.changes` that knows the actions that change something."""
    return lambda chosen: chosen.action in actions


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def audit(message: str) -> None:
    """Append a line of a command to the audit log, if there is one; a failure to write it is only reported."""
    from docker_registry.logs.audit import record_command

    path = load_config().audit_log
    if not path:
        return
    try:
        record_command(path, message)
    except OSError as error:  # the change has been made
        print(f"docker-registry: audit_log: {path} cannot be written: {error.strerror}", file=sys.stderr)


def choose_file(path: str | None) -> None:
    """
    Use a configuration file in this process and those that it starts, with the variables of the server that it sets.

    Args:
        path: None for the file that the environment selects.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    from docker_registry.config.flavors import server_variables

    if path is not None:
        os.environ["DOCKER_REGISTRY_CONFIG"] = str(Path(path).absolute())
    os.environ.update(server_variables(os.environ))


def load_store_config() -> Config:
    """
    Load the configuration for a command that opens the store, which must create files as the server does.

    Raises:
        ConfigError: as for :func:`load_config`; or the user of the workers does not exist.
    """
    from docker_registry import services
    from docker_registry.cli.store_owner import act_as_owner

    config = load_config()
    folder = services.storage_folder(config)
    if folder is not None and os.geteuid() == 0:
        if os.environ.get("GUNICORN_USER"):
            from docker_registry.server import launch

            uid, gid = launch.worker_ids(os.environ)
            launch.create_store_folder(folder, uid, gid)
            act_as_owner(folder, uid, gid)
        else:
            act_as_owner(folder)
    return config


def load_config() -> Config:
    """
    Load the configuration that the environment selects.

    Raises:
        ConfigError: the file cannot be parsed, or a setting is unknown or invalid.
    """
    from docker_registry.config import schema

    return schema.load_config(os.environ)
