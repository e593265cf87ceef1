"""``docker-registry readonly``: refuse writes on all hosts of a store, and allow them again."""

from __future__ import annotations

import argparse
import json
from typing import Final

from docker_registry.cli.command import Command, changes_by, load_store_config


def run(chosen: argparse.Namespace) -> int:
    """Run ``on``, ``off`` or ``status``."""
    from docker_registry import services
    from docker_registry.registry.read_only import ReadOnly

    read_only = ReadOnly(services.open_driver(load_store_config()))
    if chosen.action == "on":
        read_only.switch_on(chosen.why)
    elif chosen.action == "off":
        read_only.switch_off()
    else:
        read_only.refresh()
    if chosen.json:
        print(json.dumps({"read_only": read_only.is_on, "why": read_only.why}))
    else:
        print(f"read-only: {read_only.why}" if read_only.is_on else "writes are allowed")
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    switching_on = actions.add_parser("on", help="refuse writes with 405 and a reason")
    switching_on.add_argument("--why", metavar="TEXT", required=True, help="the reason, which clients are shown")
    switching_off = actions.add_parser("off", help="allow writes again")
    showing = actions.add_parser("status", help="show whether writes are refused, and why")
    for action in (switching_on, switching_off, showing):
        action.add_argument("--json", action="store_true", help="print one JSON document")


COMMAND: Final = Command(
    "readonly",
    "make the registry read-only on all hosts, or writable again",
    run,
    _add_arguments,
    changes_by("on", "off"),
)
