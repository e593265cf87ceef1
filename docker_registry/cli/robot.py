"""``docker-registry robot``: add, list and revoke robots."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, add_json, changes_by
from docker_registry.cli.keys import opened_services, time_text

if TYPE_CHECKING:
    from docker_registry.auth.users.robots import Robots

_DAY_SECONDS: Final = 86400
_MAX_DAYS: Final = 3650


def run(chosen: argparse.Namespace) -> int:
    """
    Run ``add``, ``list`` or ``revoke``.

    Raises:
        Invalid: the name, a scope or the life of a robot is not valid, or there is (no) such robot.
    """
    from docker_registry.auth.users.robots import Robots
    from docker_registry.errors import Invalid

    with opened_services() as built:
        robots = Robots(built.registry.driver)
        if chosen.action == "list":
            _list(robots, as_json=chosen.json)
        elif chosen.action == "add":
            if not 1 <= chosen.days <= _MAX_DAYS:
                raise Invalid(f"A robot lives 1 to {_MAX_DAYS} days.")
            token = robots.add(chosen.name, chosen.scope, chosen.days * _DAY_SECONDS)
            print(json.dumps({"name": chosen.name, "token": token}) if chosen.json else token)
        else:
            robots.revoke(chosen.name)
            print(json.dumps({"revoked": chosen.name}) if chosen.json else f"{chosen.name} was revoked")
    return 0


def _list(robots: Robots, *, as_json: bool) -> None:
    rows = [
        {
            "name": robot.name,
            "scopes": list(robot.scopes),
            "created": time_text(robot.created),
            "expires": time_text(robot.expires),
        }
        for robot in robots.list()
    ]
    if as_json:
        print(json.dumps({"robots": rows}))
    else:
        for row in rows:
            print(row["name"], row["created"], row["expires"], *row["scopes"])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    adding = actions.add_parser("add", help="add a robot and print its token, which is shown only once")
    adding.add_argument("name", metavar="NAME", help="rules call it robot:NAME")
    adding.add_argument(
        "--scope", action="append", required=True, metavar="PATTERN:ACTION,…",
        help="repositories and actions, such as 'acme/**:pull,push'; may be repeated",
    )  # fmt: skip
    adding.add_argument("--days", type=int, default=90, help="its life in days, by default 90")
    adding.add_argument("--json", action="store_true", help="print one JSON document")
    listing = actions.add_parser("list", help="list the robots: name, creation, expiry, scopes")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    revoking = actions.add_parser("revoke", help="revoke a robot, on all hosts within five seconds")
    revoking.add_argument("name", metavar="NAME", help="the robot")
    add_json(revoking)


COMMAND: Final = Command(
    "robot", "add, list or revoke robots: tokens for programs", run, _add_arguments, changes_by("add", "revoke")
)
