"""``docker-registry doctor``: examine a registry and its proxies through the public address."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from docker_registry.cli.command import INCOMPLETE, Command, add_json
from docker_registry.errors import ConfigError

#: Variable with the password of ``--user``, which must not appear in the list of processes.
PASSWORD_VARIABLE: Final = "DOCKER_REGISTRY_PASSWORD"  # noqa: S105 - a name


def run(arguments: argparse.Namespace) -> int:
    """
    Push a probe, pull it, remove it, and print the faults.

    Raises:
        ConfigError: the address is no URL, cannot be reached or refuses the push.
    """
    from docker_registry.doctor.connection import Target
    from docker_registry.doctor.probes import CannotExamine, Examination

    parts = urlsplit(arguments.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"{arguments.url} must be https://HOST or http://HOST, without a path")
    target = Target(
        f"{parts.scheme}://{parts.netloc}", arguments.ca, arguments.user, os.environ.get(PASSWORD_VARIABLE, "")
    )
    try:
        findings = Examination(target, arguments.repository, arguments.silence).run()
    except CannotExamine as error:
        raise ConfigError(f"The registry cannot be examined: {error}.") from None
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'fault' if finding.is_fault else 'note'}: {finding.probe}: {finding.message}")
        if not any(finding.is_fault for finding in findings):
            print("No fault was found.")
    return INCOMPLETE if any(finding.is_fault for finding in findings) else 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the public address, such as https://registry.example.com")
    parser.add_argument("--user", help=f"user that may push; the password is in the variable {PASSWORD_VARIABLE}")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM file of further certificate authorities")
    parser.add_argument("--repository", default="docker-registry-doctor/probe", help="where to push (%(default)s)")
    parser.add_argument("--silence", type=float, default=0, metavar="SECONDS", help="pause in an upload (try 120)")
    add_json(parser)


COMMAND: Final = Command("doctor", "find faults of proxies by pushing through the public address", run, _add_arguments)
