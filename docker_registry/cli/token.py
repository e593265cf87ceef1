"""``docker-registry token``: list and revoke refresh tokens."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, add_json, changes_by
from docker_registry.cli.keys import opened_tokens, time_text

if TYPE_CHECKING:
    from docker_registry.auth.tokens.refresh_tokens import RefreshToken

#: Digits of a token's id that are printed and accepted.
_ID_DIGITS: Final = 12


def run(chosen: argparse.Namespace) -> int:
    """
    Run ``list`` or ``revoke``.

    Raises:
        Invalid: no token is chosen, or there is no such token.
    """
    from docker_registry.errors import Invalid

    with opened_tokens() as tokens:
        if chosen.action == "list":
            _list(sorted(tokens.refresh.list(), key=lambda token: (token.user, token.created)), as_json=chosen.json)
            return 0
        if (chosen.id is None) == (chosen.user is None):
            raise Invalid("Name either the id of a token or a user.")
        if chosen.id is not None and len(chosen.id) < _ID_DIGITS:
            raise Invalid(f"The id of a token has {_ID_DIGITS} digits.")
        count = tokens.refresh.revoke(
            lambda token: token.user == chosen.user if chosen.id is None else token.token_id.startswith(chosen.id)
        )
        if not count:
            raise Invalid("There is no such token.")
    print(json.dumps({"revoked": count}) if chosen.json else f"{count} revoked")
    return 0


def _list(found: list[RefreshToken], *, as_json: bool) -> None:
    rows = [
        {
            "id": token.token_id[:_ID_DIGITS],
            "user": token.user,
            "client": token.client,
            "created": time_text(token.created),
            "last_used": time_text(token.last_used),
        }
        for token in found
    ]
    if as_json:
        print(json.dumps({"tokens": rows}))
    else:
        for row in rows:
            print(row["id"], row["user"], ascii(row["client"]), row["created"], row["last_used"])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the refresh tokens: id, user, client, creation, last use (by day)")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    revoking = actions.add_parser("revoke", help="revoke a refresh token, or all of a user")
    revoking.add_argument("id", metavar="ID", nargs="?", help="the id that `list` prints")
    revoking.add_argument("--user", help="revoke all tokens of this user")
    add_json(revoking)


COMMAND: Final = Command("token", "list or revoke refresh tokens", run, _add_arguments, changes_by("revoke"))
