"""
What all commands share.

Each command is a module with a ``COMMAND``. All of these modules are imported at every start, so they import what a
command needs only when it runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from docker_registry.config import Config

#: Exit status: work or damage is left, and standard output says which.
INCOMPLETE: Final = 1

#: Exit status: wrong usage, or a configuration with which the registry cannot run.
CANNOT_RUN: Final = 2


@dataclass(frozen=True, slots=True)
class Command:
    """
    A command of ``docker-registry``.

    Attributes:
        help: one line for ``--help``.
        run: runs the command and returns its exit status.
        add_arguments: declares the command's arguments.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None


def load_config() -> Config:
    """
    Load the configuration that the environment names.

    Raises:
        ConfigError: it does not parse, or a setting is unknown or invalid.
    """
    from docker_registry import config

    return config.load_config(os.environ)
