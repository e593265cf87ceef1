"""``docker-registry config``: print the effective configuration, or the schema of configuration files."""

from __future__ import annotations

import argparse
import json
from typing import Final

from docker_registry.cli.command import Command, load_config


def run(chosen: argparse.Namespace) -> int:
    """Print the effective configuration with secrets masked, or the JSON Schema of configuration files."""
    import yaml

    from docker_registry.config.json_schema import configuration_schema
    from docker_registry.config.render import render

    if chosen.schema:
        print(json.dumps(configuration_schema(), indent=2))
        return 0
    content = render(load_config())
    print(json.dumps(yaml.safe_load(content)) if chosen.json else content, end="\n" if chosen.json else "")
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of YAML")
    form.add_argument("--schema", action="store_true", help="print the JSON Schema of configuration files")


COMMAND: Final = Command("config", "print the configuration in force, secrets masked", run, _add_arguments)
