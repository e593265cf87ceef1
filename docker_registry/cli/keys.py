"""``docker-registry keys``: list, rotate and export the keys that sign access tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, add_json, changes_by, load_store_config

if TYPE_CHECKING:
    from docker_registry.auth.tokens.signing_keys import SigningKey
    from docker_registry.auth.tokens.tokens import Tokens
    from docker_registry.services import Services


def run(chosen: argparse.Namespace) -> int:
    """Run ``list``, ``rotate`` or ``export``."""
    from docker_registry.auth.tokens import key_export

    with opened_tokens() as tokens:
        if chosen.action == "rotate":
            kid = tokens.keys.rotate().key_id
            print(json.dumps({"kid": kid}) if chosen.json else f"{kid} was added and signs in a minute")
        elif chosen.action == "list":
            _list(tokens.keys.all(), as_json=chosen.json)
        elif chosen.jwks:
            print(json.dumps(key_export.jwks(tokens.keys.all())))
        else:
            export = key_export.certificate if chosen.certificate else key_export.public_pem
            print("".join(export(key) for key in tokens.keys.all()), end="")
    return 0


@contextmanager
def opened_tokens() -> Iterator[Tokens]:
    """
    Open the tokens of the configured store.

    Raises:
        ConfigError: access control is not configured.
    """
    from docker_registry import services

    with opened_services() as built:
        yield services.open_tokens(built.config, built.registry)


@contextmanager
def opened_services() -> Iterator[Services]:
    """
    Open the parts of a registry with access control.

    Raises:
        ConfigError: access control is not configured.
    """
    from docker_registry import services
    from docker_registry.errors import ConfigError

    config = load_store_config()
    if not services.has_access_control(config):
        raise ConfigError("Access control is not configured (auth).")
    with services.build(config) as built:
        yield built


def _list(keys: tuple[SigningKey, ...], *, as_json: bool) -> None:
    rows = [{"kid": key.key_id, "algorithm": key.algorithm, "created": time_text(key.created)} for key in keys]
    if as_json:
        print(json.dumps({"keys": rows}))
    else:
        for row in rows:
            print(row["created"], row["algorithm"], row["kid"])


def time_text(seconds: float) -> str:
    """Return a time since the epoch as text, such as ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the keys, the oldest first")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    rotating = actions.add_parser("rotate", help="add a key; the previous one stays valid for a day")
    add_json(rotating)
    export = actions.add_parser("export", help="print the public keys, for another registry that trusts these tokens")
    form = export.add_mutually_exclusive_group()
    form.add_argument("--certificate", action="store_true", help="as self-signed certificates (rootcertbundle)")
    form.add_argument("--jwks", action="store_true", help="as a JSON Web Key Set (RFC 7517)")


COMMAND: Final = Command(
    "keys", "list, rotate or export the keys that sign access tokens", run, _add_arguments, changes_by("rotate")
)
