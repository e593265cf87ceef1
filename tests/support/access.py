"""Users and rules for servers with access control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bcrypt

#: Takes 1 ms instead of 70: these tests do not concern bcrypt.
COST = 4

#: A user's password is this prefix and the user name.
PASSWORD = "pw-"

RULES = """
groups: {dev: [alice, bob]}
rules:
  - {repositories: ["acme/**"], who: ["@dev"], allow: [pull]}
  - {repositories: ["acme/**"], tags: ["v*"], who: [alice], allow: [push]}
  - {repositories: ["public/**"], who: [anonymous], allow: [pull]}
  - {repositories: ["${user}/**"], who: [authenticated], allow: [pull, push, overwrite, delete]}
  - {repositories: ["tags/web"], tags: ["v*"], who: [bob], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete, admin]}
"""

USERS = ("alice", "bob", "root")


def write_users(path: Path, *names: str, cost: int = COST) -> Path:
    """Write a file of users."""
    path.write_text("".join(f"{name}:{hashed(PASSWORD + name, cost)}\n" for name in names))
    return path


def hashed(password: str, cost: int = COST) -> str:
    """Return the bcrypt hash of a password."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def settings(folder: Path, rules: str = RULES, users: tuple[str, ...] = USERS, cost: int = COST) -> Mapping[str, str]:
    """Write users and rules into a folder, and return the variables that make a server use them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(rules)
    write_users(folder / "users", *users, cost=cost)
    return {"REGISTRY_AUTH_HTPASSWD": str(folder / "users"), "REGISTRY_AUTH_RULES": str(folder / "rules.yml")}
