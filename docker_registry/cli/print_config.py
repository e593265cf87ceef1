"""``docker-registry config``: print the effective configuration, that of another server, or the schema of the files."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Final

from docker_registry.cli.command import Command, choose_file, load_config
from docker_registry.errors import ConfigError


def run(chosen: argparse.Namespace) -> int:
    """
    Print the effective configuration with secrets masked, a translated file, or the JSON Schema of the files.

    Raises:
        ConfigError: a file cannot be read or used, or has no effect beside an option.
    """
    import yaml

    from docker_registry.config.json_schema import configuration_schema
    from docker_registry.config.render import render

    if chosen.config is not None and (chosen.translate is not None or chosen.schema):
        raise ConfigError("CONFIG has no effect beside --from and --schema.")
    if chosen.translate is not None:
        print(_translated(chosen.translate), end="")
        return 0
    if chosen.schema:
        print(json.dumps(configuration_schema(), indent=2))
        return 0
    choose_file(chosen.config)
    content = render(load_config())
    print(json.dumps(yaml.safe_load(content)) if chosen.json else content, end="\n" if chosen.json else "")
    return 0


def _translated(path: Path) -> str:
    """
    Return the equivalent of a file of the CNCF distribution registry, with its secrets.

    Raises:
        ConfigError: the file cannot be read, is another one, or cannot be honoured.
    """
    import yaml

    from docker_registry.config import distribution, flavors

    tree = flavors.read_tree(path)
    if not distribution.is_distribution(tree):
        raise ConfigError(f"{path} is no file of the CNCF distribution registry: it has no version")
    made = flavors.translate(tree, os.environ, path)
    lines = [f"# Translated from {path}."]
    lines += [f"# Variable of the server: {name}={value}" for name, value in made.environment.items()]
    lines += [f"# Ignored: {key}" for key in made.ignored]
    content = yaml.safe_dump({flavors.DEFAULT_FLAVOR: made.settings}, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join([*lines, content])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the configuration file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of YAML")
    form.add_argument(
        "--from", dest="translate", metavar="FILE", type=Path, help="translate a file of registry:2 or registry:3"
    )
    form.add_argument("--schema", action="store_true", help="print the JSON Schema of configuration files")


COMMAND: Final = Command("config", "print the configuration in force, secrets masked", run, _add_arguments)
