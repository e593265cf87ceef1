"""``docker-registry private``: list private repositories, and make one public again."""

from __future__ import annotations

import argparse
import json
from typing import Final

from docker_registry.cli.command import Command, changes_by, load_store_config


def run(arguments: argparse.Namespace) -> int:
    """Run ``list`` or ``clear``."""
    names = _clear(arguments.name) if arguments.action == "clear" else _list()
    if arguments.json:
        print(json.dumps({"cleared" if arguments.action == "clear" else "repositories": names}))
    elif arguments.action == "clear":
        print(f"{arguments.name} is public")
    else:
        print("".join(f"{name}\n" for name in names), end="")
    return 0


def _list() -> list[str]:
    from docker_registry import services

    with services.build(load_store_config()) as built:
        return built.registry.private_repositories.canonical_names()


def _clear(text: str) -> list[str]:
    """
    Make a repository public.

    Raises:
        NameUnknown: there is no private repository of this name.
    """
    from docker_registry import services
    from docker_registry.errors import NameUnknown
    from docker_registry.registry.actor import COMMAND_LINE
    from docker_registry.registry.names import ImageRepositoryName

    name = ImageRepositoryName.parse(text)
    with services.build(load_store_config(), v1=True) as built:
        if not built.registry.private_repositories.is_private(name):
            raise NameUnknown("No private repository has this name.", name=text)
        built.require_legacy().private_images.set_private(name, private=False, actor=COMMAND_LINE)
    return [text]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list private repositories")
    clearing = actions.add_parser("clear", help="make a private repository public")
    clearing.add_argument("name", metavar="NAME", help="the repository, by its name in either API")
    for action in (listing, clearing):
        action.add_argument("--json", action="store_true", help="print one JSON document")


COMMAND: Final = Command(
    "private", "list private repositories, or make one public", run, _add_arguments, changes_by("clear")
)
