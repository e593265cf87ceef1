"""``docker-registry access check``: explain whether the access rules allow an action."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, load_config
from docker_registry.cli.keys import opened_services

if TYPE_CHECKING:
    from docker_registry.auth.rules.rules import Rule, Rules


#: Exit status if the action is not allowed.
DENIED: Final = 1


def run(chosen: argparse.Namespace) -> int:
    """
    Print whether the rules, and the scopes of a robot, allow an action; private repositories are not considered.

    Returns:
        0 if the action is allowed, 1 if it is not.

    Raises:
        ConfigError: access control is not configured, or a file cannot be used.
        Invalid: the robot is unknown or has expired, or the address is not one.
        NameInvalid, TagInvalid: the repository or the tag is not valid.
    """
    from docker_registry import services
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.auth.client import Client
    from docker_registry.auth.logins import Logins
    from docker_registry.auth.rules import rules
    from docker_registry.auth.watched_file import WatchedFile
    from docker_registry.errors import ConfigError, Invalid
    from docker_registry.http.clients import parse_address
    from docker_registry.registry.access import Action, OpenPolicy
    from docker_registry.registry.names import RepositoryName, Tag

    config = load_config()
    if not services.has_access_control(config):
        raise ConfigError("Access control is not configured (auth).")
    logins = Logins(config.auth.htpasswd)
    rules_file = (
        None if config.auth.rules is None else WatchedFile(config.auth.rules, rules.parse, setting="auth.rules")
    )
    control = AccessControl(OpenPolicy(), logins=logins, rules_file=rules_file)
    scopes = _robot_scopes(chosen.user)
    address = parse_address(chosen.address)
    if chosen.address and address is None:
        raise Invalid(f"{chosen.address} is not an address.")
    name, _, tag = chosen.repository.partition(":")
    client = Client(chosen.user, frozenset(chosen.group), address, limits=scopes)
    target = RepositoryName.parse(name), Tag.parse(tag) if tag else None
    rule = control.policy.rule(client, Action(chosen.do), *target)
    reason = _reason(rule, has_rules=rules_file is not None, is_robot=scopes is not None)
    may_push = control.policy.rule(client, Action.PUSH, *target) is not None
    if rule is not None and chosen.do == Action.OVERWRITE.value and not may_push:
        rule, reason = None, f"{reason} allows it, but it needs push too"
    if scopes is None and not client.is_anonymous and client.name not in logins.users():
        known = "no such user in auth.htpasswd" if config.auth.htpasswd is not None else "the user was not looked up"
        reason = f"{reason}; {known}"
    _print(chosen, rule, reason)
    return 0 if rule is not None else DENIED


def _robot_scopes(user: str) -> Rules | None:
    """
    Return the scopes of a robot as rules; None for a user.

    Raises:
        Invalid: there is no such robot, or it has expired.
    """
    from docker_registry.auth.users.robots import PREFIX, Robots
    from docker_registry.errors import Invalid

    if not user.startswith(PREFIX):
        return None
    with opened_services() as built:
        robot = Robots(built.registry.driver).find(user)
    if robot is None:
        raise Invalid(f"There is no robot {user.removeprefix(PREFIX)}, or it has expired.")
    return robot.limits


def _reason(rule: Rule | None, *, has_rules: bool, is_robot: bool) -> str:
    if rule is not None:
        return f"the rule in line {rule.line}" if has_rules else "users may do everything, as there is no rules file"
    if is_robot:
        return "no rule allows it, or no scope of the robot does"
    return "no rule allows it" if has_rules else "without a rules file, anonymous clients may do nothing"


def _print(chosen: argparse.Namespace, rule: Rule | None, reason: str) -> None:
    if chosen.json:
        document = {
            "user": chosen.user, "action": chosen.do, "repository": chosen.repository,
            "allowed": rule is not None, "line": rule.line if rule and rule.line else None, "reason": reason,
        }  # fmt: skip
        print(json.dumps(document))
    else:
        print(f"{'allowed' if rule else 'denied'}: {reason}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from docker_registry.registry.access import Action

    actions = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    check = actions.add_parser("check", help="explain whether the access rules allow an action")
    check.add_argument("user", metavar="USER", help="a user, or anonymous")
    check.add_argument("do", metavar="ACTION", choices=[action.value for action in Action], help="pull, push, …")
    check.add_argument(
        "repository",
        metavar="NAME[:TAG]",
        help="repository and tag; without a tag, the whole repository or content by its digest",
    )
    check.add_argument("--address", help="address of the client, for rules about networks")
    check.add_argument("--group", action="append", default=[], help="a group that an identity provider reports")
    check.add_argument("--json", action="store_true", help="print one JSON document")


COMMAND: Final = Command("access", "explain access rules: `access check USER ACTION NAME:TAG`", run, _add_arguments)
