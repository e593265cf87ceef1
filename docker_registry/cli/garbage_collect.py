"""``docker-registry garbage-collect``: the command of registry:2 and registry:3, which this version refuses."""

from __future__ import annotations

import argparse
from typing import Final

from docker_registry.cli.command import Command
from docker_registry.errors import ConfigError


def run(_: argparse.Namespace) -> int:
    """
    Raises:
        ConfigError: always; nothing is deleted.
    """
    raise ConfigError(
        "garbage-collect is not available in this version. Nothing was deleted: blobs without a manifest stay in the "
        "store (docs/deleting.md)"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--dry-run", action="store_true", help="change nothing")
    parser.add_argument("-m", "--delete-untagged", action="store_true", help="delete manifests without a tag")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the configuration file")


COMMAND: Final = Command("garbage-collect", "not available in this version: deletes nothing", run, _add_arguments)
