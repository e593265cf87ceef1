"""``docker-registry completion SHELL``: print a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from typing import Final

from docker_registry.cli.command import Command

#: The shells that shtab knows.
_SHELLS: Final = ("bash", "zsh", "tcsh")


def run(chosen: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(chosen.parser, shell=chosen.shell))
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or tcsh")


COMMAND: Final = Command("completion", "print a script that completes commands in a shell", run, _add_arguments)
