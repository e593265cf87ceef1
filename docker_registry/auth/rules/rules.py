"""
Access rules, from a YAML file.

::

    groups: {dev: [alice, bob]}
    rules:
      - {repositories: ["acme/**"], tags: ["v*"], who: [alice, "@dev"], allow: [pull, push]}
      - {repositories: ["public/**"], who: [anonymous], allow: [pull]}
      - {repositories: ["${user}/**"], who: [authenticated], allow: [pull, push, overwrite, delete]}

Rules add up: an action is allowed if any rule allows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Protocol

from docker_registry.auth.rules.patterns import Pattern
from docker_registry.auth.rules.rules_file import Section, read
from docker_registry.errors import ConfigError
from docker_registry.http.clients import Address, parse_address
from docker_registry.registry.access import Action

#: Users and clients to whom a rule applies, in addition to names, ``@groups`` and networks.
ANYONE: Final = "anonymous"
AUTHENTICATED: Final = "authenticated"

#: Number of repositories whose rules are remembered.
MAX_NAMES: Final = 4096

#: Maximum number of rules in a file.
MAX_RULES: Final = 10_000

#: Users, also those of identity providers (``repo:acme/web:ref:refs/heads/main``), and groups.
_WHO: Final = re.compile(r"@?[A-Za-z0-9_][A-Za-z0-9._@+:/-]{0,254}")

_ACTIONS: Final = {action.value: action for action in Action}


class Identity(Protocol):
    """
    The client that rules are applied to.

    Attributes:
        groups: groups that its identity provider reports.
        address: its network address; None if unknown.
        is_anonymous: whether it presented no credentials.
    """

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> frozenset[str]: ...

    @property
    def address(self) -> Address | None: ...

    @property
    def is_anonymous(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One rule.

    Attributes:
        line: its line in the file.
        tags: patterns of tags; empty for all tags, and content without a tag.
        users: names of users, with the members of groups.
        groups: groups in ``who``, for clients whose identity provider reports groups.
        allow: the allowed actions; ``push`` includes ``pull``.
    """

    line: int
    repositories: tuple[Pattern, ...]
    tags: tuple[Pattern, ...] = ()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    is_for_anyone: bool = False
    is_for_authenticated: bool = False
    allow: frozenset[Action] = frozenset()

    def is_for(self, client: Identity) -> bool:
        """Return whether the rule applies to a client."""
        if self.is_for_anyone:
            return True
        if not client.is_anonymous and (
            self.is_for_authenticated or client.name in self.users or not self.groups.isdisjoint(client.groups)
        ):
            return True
        address = client.address
        return address is not None and any(address in network for network in self.networks)

    def covers_tag(self, tag: str | None, client: Identity) -> bool:
        """Return whether the rule covers a tag; a rule with tags also covers None, content without a tag."""
        if not self.tags or tag is None:
            return True
        user = None if client.is_anonymous else client.name
        replaced = (pattern.for_user(user) for pattern in self.tags)
        return any(pattern is not None and pattern.matches(tag) for pattern in replaced)


class Rules:
    """
    All rules of a file.

    Attributes:
        has_networks: whether a decision may depend on the client's address.
        named_groups: the groups that rules name.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self.has_networks = any(rule.networks for rule in self._rules)
        self.named_groups = frozenset[str]().union(*(rule.groups for rule in self._rules))
        # By the literal prefix of each repository pattern, so that few patterns are compared with a name.
        self._by_prefix: dict[str, list[tuple[Pattern, Rule]]] = {}
        self._of_users: list[tuple[Pattern, Rule]] = []
        for rule in self._rules:
            for pattern in rule.repositories:
                if pattern.needs_user:
                    self._of_users.append((pattern, rule))
                else:
                    self._by_prefix.setdefault(pattern.prefix, []).append((pattern, rule))
        self._matching = lru_cache(maxsize=MAX_NAMES)(self._match)

    def find(self, client: Identity, action: Action, name: str, tag: str | None = None) -> Rule | None:
        """
        Return a rule that allows an action; None if no rule does.

        Args:
            name: the canonical name of a repository.
            tag: None for the whole repository, or for content addressed by its digest. Then any rule for the
                repository suffices, except for ``delete``, which must not reach tags that the rule does not cover.
        """
        for rule in self._about(client, name):
            if action not in rule.allow or (tag is None and action is Action.DELETE and rule.tags):
                continue
            if rule.covers_tag(tag, client) and rule.is_for(client):
                return rule
        return None

    def may_some(self, client: Identity, action: Action, name: str) -> bool:
        """Return whether a client may perform an action on any tag or content of a repository."""
        return any(action in rule.allow and rule.is_for(client) for rule in self._about(client, name))

    def pull_prefixes(self, client: Identity) -> list[str]:
        """Return prefixes such that every repository from which a client may pull begins with one of them."""
        prefixes = set()
        for rule in self._rules:
            if Action.PULL in rule.allow and rule.is_for(client):
                for pattern in rule.repositories:
                    replaced = pattern.for_user(None if client.is_anonymous else client.name)
                    if replaced is not None:
                        prefixes.add(replaced.literal)
        return sorted(prefixes)

    def allows_everywhere(self, client: Identity, action: Action) -> bool:
        """Return whether a rule for all repositories (``**``) and without tags allows a client an action."""
        return any(
            action in rule.allow and not rule.tags and pattern.matches_all and rule.is_for(client)
            for pattern, rule in self._by_prefix.get("", ())
        )

    def restricts_tags(self, client: Identity, name: str) -> bool:
        """Return whether no rule lets a client pull all tags of a repository, so that each tag must be checked."""
        return not any(
            Action.PULL in rule.allow and not rule.tags and rule.is_for(client) for rule in self._about(client, name)
        )

    def _about(self, client: Identity, name: str) -> Iterator[Rule]:
        """Yield the rules with a pattern that matches a repository."""
        yield from self._matching(name)
        user = None if client.is_anonymous else client.name
        for pattern, rule in self._of_users:
            replaced = pattern.for_user(user)
            if replaced is not None and replaced.matches(name):
                yield rule

    def _match(self, name: str) -> tuple[Rule, ...]:
        return tuple(
            rule
            for prefix in _prefixes(name)
            for pattern, rule in self._by_prefix.get(prefix, ())
            if pattern.matches(name)
        )


def parse(content: bytes, path: Path) -> Rules:
    """
    Parse a rules file.

    Raises:
        ConfigError: the file is invalid; the message names the file and the line.
    """
    document = read(content, path)
    document.check_keys("groups", "rules")
    groups = _groups(document.section("groups"))
    sections = document.sections("rules")
    if len(sections) > MAX_RULES:
        raise ConfigError(f"{path}: there are more than {MAX_RULES} rules")
    return Rules(_rule(section, groups) for section in sections)


def _groups(section: Section) -> dict[str, frozenset[str]]:
    """Return the members of each group: users, whose names may have any characters if another token server has them."""
    groups = {name: frozenset(section.texts(name)) for name in section.keys}
    for name, members in groups.items():
        for member in members:
            if member.startswith("@") or member in (ANYONE, AUTHENTICATED) or _has_address(member):
                raise section.error_in(name, f"{member[:100]!r} is no user")
    return groups


def _has_address(text: str) -> bool:
    """Return whether a text is an address or a network, also with a prefix that is not valid."""
    return parse_address(text.partition("/")[0]) is not None


def _rule(section: Section, groups: Mapping[str, frozenset[str]]) -> Rule:
    section.check_keys("repositories", "tags", "who", "allow")
    who = section.texts("who")
    users: set[str] = set()
    networks = []
    named_groups = set()
    for entry in who:
        network = _network(entry)
        if network is not None:
            networks.append(network)
        elif entry.startswith("@"):
            named_groups.add(entry[1:])
            users |= groups.get(entry[1:], frozenset())
        elif entry not in (ANYONE, AUTHENTICATED):
            users.add(entry)
        if network is None and (_has_address(entry) or not _WHO.fullmatch(entry)):
            raise section.error(f"who: {entry[:100]!r} is neither a user, an @group nor a network")
    return Rule(
        line=section.line,
        repositories=tuple(_patterns(section, "repositories")),
        tags=tuple(_patterns(section, "tags")) if section.has("tags") else (),
        users=frozenset(users),
        groups=frozenset(named_groups),
        networks=tuple(networks),
        is_for_anyone=ANYONE in who,
        is_for_authenticated=AUTHENTICATED in who,
        allow=_actions(section),
    )


def _patterns(section: Section, key: str) -> Iterator[Pattern]:
    for text in section.texts(key):
        try:
            yield Pattern.parse(text)
        except ValueError as error:
            raise section.error(f"{key}: {text[:100]!r} {error}") from None


def _actions(section: Section) -> frozenset[Action]:
    found = set()
    for text in section.texts("allow"):
        action = _ACTIONS.get(text)
        if action is None:
            raise section.error(f"allow: {text[:100]!r} is no action; there are {', '.join(_ACTIONS)}")
        found.add(action)
    return frozenset(found | {Action.PULL} if Action.PUSH in found else found)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _prefixes(name: str) -> Iterator[str]:
    """Yield the name and each run of whole components at its start: the empty text, ``a/``, ``a/b/`` and ``a/b/c``."""
    yield ""
    position = name.find("/")
    while position >= 0:
        yield name[: position + 1]
        position = name.find("/", position + 1)
    yield name
