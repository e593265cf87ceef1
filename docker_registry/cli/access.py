"""``docker-registry access check``: explain whether a user may do something."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import INCOMPLETE, Command, load_config
from docker_registry.cli.keys import opened_services

if TYPE_CHECKING:
    from docker_registry.auth.rules.rules import Rule, Rules


def run(chosen: argparse.Namespace) -> int:
    """
    Print the decision and the rule behind it.

    Returns:
        0 if the action is allowed, 1 if it is not.

    Raises:
        ConfigError: there is no access control, or a file cannot be used.
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
        raise ConfigError("There is no access control: neither auth.htpasswd nor auth.rules is set.")
    logins = Logins(config.auth.htpasswd)
    rules_file = None if config.auth.rules is None else WatchedFile(config.auth.rules, rules.parse)
    control = AccessControl(OpenPolicy(), logins=logins, rules_file=rules_file)
    limits = _limits(chosen.user)
    address = parse_address(chosen.address)
    if chosen.address and address is None:
        raise Invalid(f"{chosen.address} is not an address.")
    name, _, tag = chosen.repository.partition(":")
    client = Client(chosen.user, frozenset(chosen.group), address, limits=limits)
    rule = control.policy.rule(client, Action(chosen.do), RepositoryName.parse(name), Tag.parse(tag) if tag else None)
    is_known = client.is_anonymous or limits is not None or client.name in logins.users()
    _print(
        chosen,
        rule,
        _reason(rule, has_rules=config.auth.rules is not None, is_known=is_known, is_robot=limits is not None),
    )
    return 0 if rule is not None else INCOMPLETE


def _limits(user: str) -> Rules | None:
    """Return the scopes of a robot; None for a user."""
    from docker_registry.auth.users.robots import PREFIX, Robots
    from docker_registry.errors import Invalid

    if not user.startswith(PREFIX):
        return None
    with opened_services() as built:
        robot = Robots(built.registry.driver).find(user)
    if robot is None:
        raise Invalid(f"There is no robot {user.removeprefix(PREFIX)}, or it has expired.")
    return robot.limits


def _reason(rule: Rule | None, *, has_rules: bool, is_known: bool, is_robot: bool) -> str:
    unknown = "" if is_known else "; the htpasswd file has no such user"
    if is_robot and rule is None:
        return "no rule and scope of the robot together allow it"
    if not has_rules:
        return ("users may do everything, as there is no rules file" if rule else "there is no rules file") + unknown
    return (f"the rule in line {rule.line}" if rule else "no rule allows it") + unknown


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

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="explain whether a user may do something")
    check.add_argument("user", metavar="USER", help="a user, or anonymous")
    check.add_argument("do", metavar="ACTION", choices=[action.value for action in Action], help="pull, push, …")
    check.add_argument("repository", metavar="NAME[:TAG]", help="a repository; without a tag: content by its digest")
    check.add_argument("--address", help="address of the client, for rules about networks")
    check.add_argument("--group", action="append", default=[], help="a group that an identity provider reports")
    check.add_argument("--json", action="store_true", help="print one JSON document")


COMMAND: Final = Command("access", "explain access rules: `access check USER ACTION NAME:TAG`", run, _add_arguments)
