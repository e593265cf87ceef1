"""
Scopes of access tokens (distribution's "Token Scope Documentation").

::

    repository:acme/web:pull,push
    repository(plugin):acme/plugin:pull
    registry:catalog:*
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from docker_registry.registry.access import Action

#: Maximum number of scopes in one request; more are ignored.
MAX_SCOPES: Final = 100

_MAX_CHARACTERS: Final = 512
_TYPE: Final = re.compile(r"(repository|registry)(?:\([a-z0-9]+\))?")

#: The action in a scope that each action needs. ``push`` covers moving tags, as far as the rules allow it.
NEEDED: Final[Mapping[Action, str]] = {
    Action.PULL: "pull",
    Action.PUSH: "push",
    Action.OVERWRITE: "push",
    Action.DELETE: "delete",
}

#: Actions that each access of a token of API V1 covers. Docker asks for images to push with its write token.
IMAGE_ACTIONS: Final[Mapping[str, frozenset[str]]] = {
    "read": frozenset({"pull"}),
    "write": frozenset({"pull", "push"}),
    "delete": frozenset({"pull", "delete"}),
}

#: What a client asks for that wants to do it all: ``*`` means these.
ALL: Final = ("delete", "pull", "push")


@dataclass(frozen=True, slots=True)
class Scope:
    """
    One requested scope.

    Attributes:
        type: ``repository`` or ``registry``.
        name: of the repository; ``catalog`` for the registry.
        actions: without duplicates, sorted; ``*`` of a repository is replaced.
    """

    type: str
    name: str
    actions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


def parse(texts: Iterable[str], repository_name: Callable[[str], str] = str) -> list[Scope]:
    """
    Return the scopes in parameters that may each contain several, separated by spaces; others are ignored.

    Args:
        repository_name: returns the name of a repository, given the name in its scope.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for text in [word for words in texts for word in words.split()][:MAX_SCOPES]:
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")  # a name may contain the port of a host
        match = _TYPE.fullmatch(kind)
        if match is None or not name or len(text) > _MAX_CHARACTERS:
            continue
        wanted = {action for action in actions.split(",") if action}
        if match[1] == "repository" and "*" in wanted:
            wanted = wanted - {"*"} | set(ALL)
        if match[1] == "repository":
            name = repository_name(name)
        found.setdefault((match[1], name), set()).update(wanted)
    return [Scope(kind, name, tuple(sorted(actions))) for (kind, name), actions in found.items() if actions]


@dataclass(frozen=True, slots=True)
class Grant:
    """
    What a token allows.

    Attributes:
        granted: actions by repository.
        refused: actions that were requested and refused, by repository.
        has_catalog: whether lists of repositories may be read.
        expires: when the token ends, seconds since the Unix epoch; 0 before it is issued.
        image_actions: of a token of API V1: actions on images, which belong to no repository.
    """

    granted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    has_catalog: bool = False
    expires: float = 0.0
    image_actions: frozenset[str] = frozenset()

    def covers(self, action: Action, name: str) -> bool:
        """Return whether the token allows an action in a repository."""
        return NEEDED.get(action) in self.granted.get(name, ())

    def has_refused(self, action: Action, name: str) -> bool:
        """Return whether the token was requested for an action that was refused."""
        return NEEDED.get(action) in self.refused.get(name, ())

    def access(self) -> list[dict[str, Any]]:
        """Return the claim ``access`` of distribution's token specification."""
        entries = _entries(self.granted)
        if self.has_catalog:
            entries.append({"type": "registry", "name": "catalog", "actions": ["*"]})
        return entries

    def denied(self) -> list[dict[str, Any]]:
        """Return the refused actions in the same form."""
        return _entries(self.refused)

    def __str__(self) -> str:
        return " ".join(f"{entry['type']}:{entry['name']}:{','.join(entry['actions'])}" for entry in self.access())

    @classmethod
    def read(cls, access: object, denied: object, expires: float) -> Grant:
        """
        Read the claims of a token.

        Raises:
            ValueError: they have another form.
        """
        has_catalog = any(
            entry["type"] == "registry" and entry["name"] == "catalog" and "*" in entry["actions"]
            for entry in _checked(access)
        )
        return cls(_by_name(access), _by_name(denied), has_catalog, expires)


def needed(action: Action, name: str) -> str:
    """Return the scope to request for an action in a repository; pushing needs ``pull`` too."""
    word = NEEDED.get(action, "pull")
    return f"repository:{name}:{'pull,push' if word == 'push' else word}"


def _entries(actions: Mapping[str, frozenset[str]]) -> list[dict[str, Any]]:
    return [{"type": "repository", "name": name, "actions": sorted(found)} for name, found in actions.items() if found]


def _by_name(claim: object) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for entry in _checked(claim):
        if _TYPE.fullmatch(entry["type"]) and entry["type"].startswith("repository"):
            actions = set(entry["actions"])
            actions |= set(ALL) if "*" in actions else set()
            found[entry["name"]] = found.get(entry["name"], frozenset()) | actions
    return found


def _checked(claim: object) -> list[dict[str, Any]]:
    """
    Return the scopes in a claim; servers in Go write null for none, and for an empty list of actions.

    Raises:
        ValueError: the claim is not a list of scopes.
    """
    if claim is None:
        return []
    if not isinstance(claim, list):
        raise ValueError("the claim access is malformed")
    found = []
    for entry in claim:
        fields = entry if isinstance(entry, dict) else {}
        kind, name, actions = (fields.get(key) for key in ("type", "name", "actions"))
        actions = [] if actions is None else actions
        if not isinstance(actions, list) or not all(isinstance(text, str) for text in (kind, name, *actions)):
            raise ValueError("the claim access is malformed")
        found.append({"type": kind, "name": name, "actions": actions})
    return found
