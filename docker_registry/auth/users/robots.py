"""
Robots: named tokens for programs, with scopes and an expiry.

All robots are in one file of the store, which is replaced by compare-and-swap; of a token, it contains the SHA-256::

    {"robots": [{"name": "ci", "hash": "9f86…", "scopes": ["acme/**:pull,push"], "created": 1790000000,
                 "expires": 1797776000}]}

A worker that has seen the token or the name of a robot reads the file every two seconds, so all hosts reject a revoked
robot within five seconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.auth.rules.patterns import Pattern
from docker_registry.auth.rules.rules import Rule, Rules
from docker_registry.dependencies import depend_on_version
from docker_registry.drivers.base import StorageDriver, Versioned
from docker_registry.errors import Invalid, StorageError
from docker_registry.registry import layout, stored_document
from docker_registry.registry.access import Action

logger = logging.getLogger(__name__)

PATH: Final = f"{layout.AUTH}/robots"

#: Prefix of a robot's name in rules and logs; the name of a user contains no colon.
PREFIX: Final = "robot:"

#: Age at which the file is read again.
REFRESH_SECONDS: Final = 2.0

#: Maximum numbers of robots, and of scopes of one.
MAX_ROBOTS: Final = 2000
MAX_SCOPES: Final = 100

_TOKEN: Final = re.compile(r"dr_[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_ACTIONS: Final = {
    action.value: action for action in (Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Robot:
    """
    A robot.

    Attributes:
        token_hash: SHA-256 of its token.
        scopes: ``PATTERN:ACTION,…``; it may do what one of them and the rules both allow.
        created, expires: seconds since the Unix epoch.
        limits: the scopes as rules.
    """

    name: str
    token_hash: str
    scopes: tuple[str, ...]
    created: float
    expires: float
    limits: Rules

    def __repr__(self) -> str:
        return f"Robot({self.name})"

    @property
    def principal(self) -> str:
        """Its name in rules and logs."""
        return f"{PREFIX}{self.name}"

    @property
    def version(self) -> str:
        """A text that changes when another robot gets the name."""
        return self.token_hash[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the robot in the form of the file."""
        return {
            "name": self.name, "hash": self.token_hash, "scopes": self.scopes, "created": self.created,
            "expires": self.expires,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Robot:
        """
        Return a robot, given what :meth:`to_json` returned.

        Raises:
            ValueError, KeyError, TypeError, Invalid: the entry has another form.
        """
        name, token_hash, scopes = stored["name"], stored["hash"], tuple(stored["scopes"])
        if not all(isinstance(text, str) for text in (name, token_hash, *scopes)):
            raise TypeError("the name, the hash and the scopes must be strings")
        times = stored_document.time_of(stored["created"]), stored_document.time_of(stored["expires"])
        return cls(name, token_hash, scopes, *times, parse_scopes(scopes))


def parse_scopes(texts: Sequence[str]) -> Rules:
    """
    Return scopes of a robot as rules.

    Args:
        texts: ``PATTERN:ACTION,…`` each, such as ``acme/**:pull,push``.

    Raises:
        Invalid: there are none or too many, or one is malformed.
    """
    if not 0 < len(texts) <= MAX_SCOPES:
        raise Invalid(f"A robot has 1 to {MAX_SCOPES} scopes.")
    return Rules(_rule(number, text) for number, text in enumerate(texts, 1))


def _rule(number: int, text: str) -> Rule:
    pattern, _, words = text.rpartition(":")
    actions = {_ACTIONS.get(word) for word in words.split(",")}
    allow = frozenset(action for action in actions if action is not None)
    if len(allow) != len(actions):
        raise Invalid(f"The scope {text[:100]!r} is not PATTERN:ACTION,… with {', '.join(_ACTIONS)}.")
    try:
        parsed = Pattern.parse(pattern)
    except ValueError as error:
        raise Invalid(f"The scope {text[:100]!r}: the pattern {error}.") from None
    if parsed.needs_user:
        raise Invalid(f"The scope {text[:100]!r}: a robot has no ${{user}} in its patterns.")
    if Action.PUSH in allow:
        allow |= {Action.PULL}
    return Rule(line=number, repositories=(parsed,), is_for_anyone=True, allow=allow)


class Robots:
    """All robots of a registry."""

    def __init__(self, driver: StorageDriver, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock; returns seconds since the Unix epoch.
        """
        self._driver = driver
        self._now = now
        self._read_at = -REFRESH_SECONDS
        self._content = b""
        self._version = 0
        self._by_name: dict[str, Robot] = {}
        self._by_hash: dict[str, Robot] = {}
        self._is_used = False

    # ------------------------------------------------------------------------------------------------- looking

    def verify(self, token: str) -> Robot | None:
        """Return the robot of a token; None if it is unknown, was revoked or has expired."""
        self._look()
        return self._alive(self._by_hash.get(_hash(token)))

    def find(self, principal: str) -> Robot | None:
        """Return the robot that rules and logs call *principal*; None if there is none, or it has expired."""
        if not principal.startswith(PREFIX):
            return None
        self._look()
        return self._alive(self._by_name.get(principal.removeprefix(PREFIX)))

    def list(self) -> list[Robot]:
        """
        Return all robots in the order of their names, also those that have expired.

        Raises:
            StorageError: the store failed, or the file is damaged.
        """
        return sorted(_parse(self._driver.find_versioned(PATH)).values(), key=lambda robot: robot.name)

    def refresh(self) -> None:
        """Read the file again if this worker has seen a robot; keep the state while the store cannot be read."""
        if self._is_used:
            self._look()

    def _look(self) -> None:
        self._is_used = True
        if abs(self._now() - self._read_at) >= REFRESH_SECONDS:
            try:
                self._read()
            except StorageError as error:
                logger.warning("the robots could not be read: %s", error)
        depend_on_version(lambda: self._version)

    def _alive(self, robot: Robot | None) -> Robot | None:
        return robot if robot is not None and robot.expires > self._now() else None

    # ------------------------------------------------------------------------------------------------ changing

    def add(self, name: str, scopes: Sequence[str], seconds: float) -> str:
        """
        Add a robot, and return its token, which is shown only once.

        Args:
            scopes: see :func:`parse_scopes`.
            seconds: how long the token is valid.

        Raises:
            Invalid: the name or a scope is malformed, there is such a robot already, or there are too many.
            StorageError: the store failed, or the file is damaged.
        """
        if not _NAME.fullmatch(name):
            raise Invalid("The name of a robot has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit.")
        limits, now = parse_scopes(scopes), self._now()
        token = f"dr_{secrets.token_urlsafe(32)}"
        robot = Robot(name, _hash(token), tuple(scopes), now, now + seconds, limits)

        def change(robots: dict[str, Robot]) -> None:
            if self._alive(robots.get(name)) is not None:
                raise Invalid(f"There is a robot {name} already; revoke it first.")
            if name not in robots and len(robots) >= MAX_ROBOTS:
                raise Invalid(f"There are {MAX_ROBOTS} robots already.")
            robots[name] = robot

        self._change(change)
        return token

    def revoke(self, name: str) -> None:
        """
        Remove a robot, also one that has expired.

        Raises:
            Invalid: there is none.
            StorageError: the store failed, or the file is damaged.
        """

        def change(robots: dict[str, Robot]) -> None:
            if robots.pop(name, None) is None:
                raise Invalid(f"There is no robot {name}.")

        self._change(change)

    def _change(self, change: Callable[[dict[str, Robot]], None]) -> None:
        content, robots = b"", dict[str, Robot]()

        def make(stored: Versioned | None) -> bytes:
            nonlocal content, robots
            robots = _parse(stored)
            change(robots)
            content = json.dumps({"robots": [robot.to_json() for robot in robots.values()]}).encode()
            return content

        stored_document.change(self._driver, PATH, make)
        self._use(content, robots)  # not read again: if that failed, the token of a new robot would be lost

    def _read(self) -> None:
        """
        Read the file.

        Raises:
            StorageError: the store failed; or the file is damaged, and then there are no robots until it changes.
        """
        found = self._driver.find_versioned(PATH)
        self._read_at = self._now()
        content = b"" if found is None else found.content
        if content == self._content:
            return
        robots: dict[str, Robot] = {}
        try:
            robots = _parse(found, self._by_name)
        finally:  # a damaged file is parsed once, not every two seconds
            self._use(content, robots)

    def _use(self, content: bytes, robots: dict[str, Robot]) -> None:
        self._content, self._by_name = content, robots
        self._by_hash = {robot.token_hash: robot for robot in robots.values()}
        self._version += 1
        self._read_at = self._now()


def _parse(stored: Versioned | None, known: Mapping[str, Robot] | None = None) -> dict[str, Robot]:
    """
    Return the robots in the file, by name.

    Args:
        known: robots of an earlier version; those that are unchanged are not parsed again.

    Raises:
        StorageError: the file is damaged.
    """
    if stored is None:
        return {}
    try:
        robots = [_robot(entry, known or {}) for entry in stored_document.parse(stored.content)["robots"]]
    except (ValueError, KeyError, TypeError, Invalid) as error:
        raise StorageError(f"{PATH} is damaged: {type(error).__name__}") from None
    return {robot.name: robot for robot in robots}


def _robot(entry: dict[str, Any], known: Mapping[str, Robot]) -> Robot:
    found = known.get(entry["name"])
    if found is not None and found.to_json() == {**entry, "scopes": tuple(entry["scopes"])}:
        return found
    return Robot.from_json(entry)


def is_token(text: str) -> bool:
    """Return whether a password has the form of a robot's token."""
    return _TOKEN.fullmatch(text) is not None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
