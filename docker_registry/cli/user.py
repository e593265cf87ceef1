"""``docker-registry user``: list, add and remove the users of the htpasswd file, and change passwords."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import Final

from docker_registry.cli.command import Command, add_json, changes_by, load_store_config

#: What is printed of a change.
_DONE: Final = {"added": "was added", "changed": "has a new password", "removed": "was removed"}


def run(chosen: argparse.Namespace) -> int:
    """Run ``list``, ``add``, ``passwd`` or ``remove``."""
    path = _file()
    if chosen.action == "list":
        _list(path, as_json=chosen.json)
    else:
        done = _change(path, chosen.action, chosen.name)
        print(json.dumps({"user": chosen.name, "done": done}) if chosen.json else f"{chosen.name} {_DONE[done]}")
    return 0


def _list(path: Path, *, as_json: bool) -> None:
    names = sorted(_users(path))
    print(json.dumps({"users": names}) if as_json else "".join(f"{name}\n" for name in names), end="")
    if as_json:
        print()


def _change(path: Path, action: str, name: str) -> str:
    """
    Add or remove a user, or change a password.

    Returns:
        ``added``, ``changed`` or ``removed``.

    Raises:
        Invalid: the user exists already or does not exist, or its name or password is not valid.
        ConfigError: the file cannot be used or written.
    """
    from docker_registry.auth.users import htpasswd

    htpasswd.check_name(name)
    _check_known(path, action, name)
    # Before the file is locked: others must not wait while someone types.
    hashed = None if action == "remove" else htpasswd.hash_password(_read_password())
    with htpasswd.locked(path):
        _check_known(path, action, name)
        htpasswd.write(path, {name: hashed})
    return {"add": "added", "passwd": "changed", "remove": "removed"}[action]


def _check_known(path: Path, action: str, name: str) -> None:
    """
    Raises:
        Invalid: a user to add exists already, or another one does not exist.
        ConfigError: the file cannot be used.
    """
    from docker_registry.errors import Invalid

    is_known = name in _users(path)
    if is_known and action == "add":
        raise Invalid(f"The user {name} exists already; `passwd` changes the password.")
    if not is_known and action != "add":
        raise Invalid(f"There is no user {name}.")


def _read_password() -> str:
    """
    Read a password twice from the terminal, or one line from a pipe.

    Raises:
        Invalid: the two passwords differ, or the input has ended or is not UTF-8.
    """
    from docker_registry.errors import Invalid

    try:
        if sys.stdin is None:  # it was closed before the start
            raise EOFError
        if not sys.stdin.isatty():
            return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise Invalid("The passwords differ.")
    except EOFError:
        raise Invalid("No password was entered.") from None
    except UnicodeDecodeError:
        raise Invalid("The password is not valid UTF-8.") from None
    return password


def _users(path: Path) -> dict[str, bytes]:
    from docker_registry.auth.users import htpasswd
    from docker_registry.errors import ConfigError

    try:
        return htpasswd.parse(path.read_bytes(), path) if path.exists() else {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _file() -> Path:
    """
    Raises:
        ConfigError: no file of users is configured.
    """
    from docker_registry.errors import ConfigError

    path = load_store_config().auth.htpasswd
    if path is None:
        raise ConfigError("There is no file of users: set auth.htpasswd (REGISTRY_AUTH_HTPASSWD).")
    return path


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the users")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    for action, sentence in (
        ("add", "add a user; the password is read from the terminal, or from standard input"),
        ("passwd", "change a password"),
        ("remove", "remove a user"),
    ):
        changing = actions.add_parser(action, help=sentence, description=sentence)
        changing.add_argument("name", metavar="NAME", help="the user")
        add_json(changing)


COMMAND: Final = Command(
    "user",
    "list, add or remove users, or change a password",
    run,
    _add_arguments,
    changes_by("add", "passwd", "remove"),
)
