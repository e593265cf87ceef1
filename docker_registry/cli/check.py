"""``docker-registry check``: try out the configuration and the store without serving."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, load_config

if TYPE_CHECKING:
    from docker_registry.config import Config


def run(_: argparse.Namespace) -> int:
    """Check the configuration in force."""
    return check(load_config())


def check(config: Config) -> int:
    """Check a configuration and print what is worth knowing at the start."""
    from docker_registry import app

    for line in app.check(config):
        print(line)
    return 0


COMMAND: Final = Command("check", "try out the configuration and the store without serving", run)
