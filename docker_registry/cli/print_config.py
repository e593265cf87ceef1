"""``docker-registry config``: print the effective configuration."""

from __future__ import annotations

import argparse
from typing import Final

from docker_registry.cli.command import Command, load_config


def run(_: argparse.Namespace) -> int:
    """Print the effective configuration as YAML, with secrets masked."""
    from docker_registry.config.render import render

    print(render(load_config()), end="")
    return 0


COMMAND: Final = Command("config", "print the configuration in force, secrets masked", run)
