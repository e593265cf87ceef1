"""``docker-registry doctor``: examine a registry and its proxies through the public address."""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from docker_registry.cli.command import INCOMPLETE, Command, add_json
from docker_registry.errors import ConfigError

if TYPE_CHECKING:
    from docker_registry.doctor.connection import Target

#: Variable with the password of ``--user``, which must not appear in the list of processes.
PASSWORD_VARIABLE: Final = "DOCKER_REGISTRY_PASSWORD"  # noqa: S105 - a name

_MAX_SILENCE_SECONDS: Final = 3600


def run(arguments: argparse.Namespace) -> int:
    """
    Push a probe, pull it, remove it, and print the faults.

    Raises:
        ConfigError: the address is no URL, cannot be reached or refuses the push, or an option is invalid.
    """
    from docker_registry.doctor.examination import CannotExamine, Examination
    from docker_registry.doctor.probes import examine

    target = _target(arguments)
    if not 0 <= arguments.silence <= _MAX_SILENCE_SECONDS:
        raise ConfigError(f"--silence must be 0 to {_MAX_SILENCE_SECONDS} seconds")
    if arguments.silence and sys.stderr.isatty():
        print(f"One probe pauses for {arguments.silence:.0f} s; --silence 0 leaves it out.", file=sys.stderr)
    try:
        findings = examine(Examination(target, arguments.repository, arguments.silence))
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


def _target(arguments: argparse.Namespace) -> Target:
    """
    Return the registry that the arguments name.

    Raises:
        ConfigError: the URL is malformed, the file of authorities cannot be used, or a user has no password.
    """
    from docker_registry.doctor.connection import Target, host_and_port

    wrong = ConfigError("The address must be https://HOST or https://HOST/PATH, without /v2 and without a user.")
    try:
        parts = urlsplit(arguments.url)
        address = f"{parts.scheme}://{host_and_port(parts)}"
    except ValueError:
        raise wrong from None
    path = parts.path.rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise wrong
    if path.startswith(("/v1", "/v2")) or parts.query or parts.fragment:
        raise wrong
    if arguments.user and PASSWORD_VARIABLE not in os.environ:
        raise ConfigError(f"--user: {PASSWORD_VARIABLE} is not set")
    if arguments.ca is not None:
        try:
            ssl.create_default_context(cafile=arguments.ca)
        except OSError as error:
            raise ConfigError(f"--ca: {arguments.ca} cannot be used: {error.strerror or error}") from None
    return Target(address, arguments.ca, arguments.user, os.environ.get(PASSWORD_VARIABLE, ""), path=path)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the public address, such as https://registry.example.com")
    parser.add_argument("--user", help=f"user that may push; the password is in the variable {PASSWORD_VARIABLE}")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM file of further certificate authorities")
    parser.add_argument("--repository", default="docker-registry-doctor/probe", help="where to push (%(default)s)")
    parser.add_argument(
        "--silence", type=float, default=120, metavar="SECONDS", help="pause in an upload (%(default)s); 0 for none"
    )
    add_json(parser)


COMMAND: Final = Command("doctor", "find faults of proxies by pushing through the public address", run, _add_arguments)
