"""Which rules allow what, and how a rules file may be wrong."""

from __future__ import annotations

import timeit
from pathlib import Path

import pytest

from docker_registry.auth.client import Client
from docker_registry.auth.rules import rules
from docker_registry.auth.rules.patterns import Pattern
from docker_registry.errors import ConfigError
from docker_registry.http.clients import parse_address
from docker_registry.registry.access import Action

FILE = Path("rules.yml")

EXAMPLE = b"""
groups: {dev: [alice, bob]}
rules:
  - {repositories: ["acme/**"], tags: ["v*"], who: [carol, "@dev"], allow: [pull, push]}
  - {repositories: ["public/**"], who: [anonymous], allow: [pull]}
  - {repositories: ["${user}/**", "shared/${user}-*"], who: [authenticated], allow: [pull, push, overwrite, delete]}
  - {repositories: [mirror], who: [10.0.0.0/8, "2001:db8::/32"], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete, admin]}
  - {repositories: ["team/*"], who: ["@ops"], allow: [delete]}
"""

ALLOWED = """
alice     push       acme/web v1
alice     pull       acme/web v1
alice     push       acme/web
alice     pull       acme/a/b/c
carol     push       acme/web v1.2
anonymous pull       public/x/y any
alice     pull       public/x
alice     delete     alice/x
alice     overwrite  alice/x/y latest
alice     push       shared/alice-web
root      admin      any/thing
10.1.2.3  pull       mirror latest
2001:db8::1 pull     mirror
@ops      delete     team/x
"""

DENIED = """
alice     push       acme/web latest
alice     overwrite  acme/web v1
alice     delete     acme/web v1
alice     delete     acme/web
alice     pull       acme
alice     pull       acmeweb/x
dave      pull       acme/web v1
anonymous push       public/x
anonymous pull       anonymous/x
alice     push       bob/x
alice     push       shared/bob-web
alice     push       shared/alice-web/x
alice     admin      alice/x
11.1.2.3  pull       mirror
2001:db9::1 pull     mirror
@ops      delete     team/x/y
@dev      push       team/x
"""


def cases(table):
    return [line.split() for line in table.strip().splitlines()]


def client(who):
    """A user, a member of a group that an identity provider reports, or an anonymous client at an address."""
    if parse_address(who):
        return Client("anonymous", address=parse_address(who))
    return Client("erin", frozenset({who[1:]})) if who.startswith("@") else Client(who)


class TestARule:
    @pytest.mark.parametrize(("who", "action", "name", "tag"), [[*case, None][:4] for case in cases(ALLOWED)])
    def test_allows(self, who, action, name, tag):
        assert rules.parse(EXAMPLE, FILE).find(client(who), Action(action), name, tag)

    @pytest.mark.parametrize(("who", "action", "name", "tag"), [[*case, None][:4] for case in cases(DENIED)])
    def test_allows_nothing_else(self, who, action, name, tag):
        assert rules.parse(EXAMPLE, FILE).find(client(who), Action(action), name, tag) is None

    def test_is_named_by_its_line(self):
        found = rules.parse(EXAMPLE, FILE).find(Client("alice"), Action.PUSH, "acme/web", "v1")
        assert found is not None
        assert 4 == found.line

    def test_applies_to_a_group_of_names_with_any_characters(self):
        content = b"groups: {dev: [alice smith]}\nrules: [{repositories: ['*'], who: ['@dev'], allow: [pull]}]"
        assert rules.parse(content, FILE).find(Client("alice smith"), Action.PULL, "a") is not None

    def test_narrows_the_catalog_to_what_its_patterns_begin_with(self):
        assert ["", "alice/x", "public/", "shared/alice-"] == rules.parse(
            b"rules: [{repositories: ['*'], who: [alice], allow: [push]},"
            b"{repositories: ['public/**', 'shared/${user}-*', '${user}/x*'], who: [authenticated], allow: [pull]}]",
            FILE,
        ).pull_prefixes(Client("alice"))
        assert ["public/"] == rules.parse(EXAMPLE, FILE).pull_prefixes(Client("anonymous"))

    @pytest.mark.parametrize("user", ["a/b", "..", ".x", "a*b", "a b"])
    def test_gives_no_repository_to_a_user_whose_name_is_no_component(self, user):
        assert Pattern.parse("${user}/**").for_user(user) is None

    def test_among_a_thousand_is_found_in_50_microseconds(self):
        lines = [
            f"  - {{repositories: ['team{n}/**', '*-{n}'], tags: ['v*'], who: ['user{n}', '@g{n}'], allow: [push]}}"
            for n in range(1000)
        ]
        groups = ", ".join(f"g{n}: [{', '.join(f'user{n}x{m}' for m in range(10))}]" for n in range(1000))
        found = rules.parse("\n".join([f"groups: {{{groups}}}", "rules:", *lines]).encode(), FILE)
        decide = [lambda: found.find(Client("user999x9"), Action.PUSH, "team999/web", "v1")] * 2
        assert decide[0]()
        seconds = min(timeit.repeat(decide[1], number=100, repeat=20)) / 100
        assert seconds < 50e-6


class TestAPattern:
    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("*-rc*", ["-rc", "a-rc", "a-rc-rc1"], ["rc", "a/-rc", "a-rc/b"]),
            ("a/*/c", ["a/b/c", "a//c"], ["a/b/b/c", "a/c", "a/b/c/c"]),
            ("**a*b", ["a/ab", "ab/ab", "axb", "x/a/ab"], ["a/b", "ab/", "ab/a"]),
            ("a**b*b**c", ["abbc", "a/b/bxb/c", "ab/bb/c"], ["ab/bc", "abc", "abbcx"]),
        ],
    )
    def test_matches_wherever_its_wildcards_can_stand(self, pattern, matching, others):
        found = Pattern.parse(pattern)
        assert matching == [name for name in [*matching, *others] if found.matches(name)]

    @pytest.mark.parametrize("pattern", ["*a*a*a*ab/", "**a**a**a**ab/", "**a*a**a*ab/"])
    def test_rejects_a_long_name_in_milliseconds(self, pattern):
        found = Pattern.parse(pattern)
        assert min(timeit.repeat(lambda: found.matches("a" * 253 + "b/b/"), number=1, repeat=3)) < 0.1


class TestARulesFile:
    @pytest.mark.parametrize(
        ("content", "line", "sentence"),
        [
            ("rules:\n  - {repositories: [a], who: [b], allow: [pull], deny: [push]}", 2, "there is no key deny"),
            ("rules:\n- {repositories: [a], who: [b]}", 2, "allow is missing"),
            ("rules:\n- {repositories: [], who: [b], allow: [pull]}", 2, "repositories must be a list of texts"),
            ("rules:\n\n- {repositories: a, who: [b], allow: [pull]}", 3, "repositories must be a list of texts"),
            ("rules:\n- {repositories: [a], who: [b], allow: [read]}", 2, "'read' is no action"),
            ("rules:\n- {repositories: ['a***'], who: [b], allow: [pull]}", 2, "'a***' contains ***"),
            ("rules:\n- {repositories: ['*/**/*-*-**'], who: [b], allow: [pull]}", 2, "more than 4 wildcards"),
            ("rules:\n- {repositories: ['a b'], who: [b], allow: [pull]}", 2, "'a b' may only contain"),
            ("rules:\n- {repositories: ['${group}'], who: [b], allow: [pull]}", 2, "may only contain"),
            ("rules:\n- {who: [b], who: [c]}", 2, "who is duplicated"),
            ("rules: {a: b}", 1, "rules must be a list"),
            ("rules:\n- x", 2, "must be a section"),
            ("groups: {a: b}", 1, "a must be a list of texts"),
            ("groups:\n  dev: [bob]\n  all: [alice, '@dev']", 3, "all: '@dev' is no user"),
            ("groups: {office: [10.0.0.0/8]}", 1, "'10.0.0.0/8' is no user"),
            ("groups: {all: [authenticated]}", 1, "'authenticated' is no user"),
            ("users: []", 1, "there is no key users"),
            ("- x", 1, "must be a section"),
            ("rules:\n - [", 2, ""),
            ("rules:\n- {repositories: [a], who: [10.0.0.0/33], allow: [pull]}", 2, "is neither"),
            ("rules:\n- {repositories: [a], who: ['@nobody here'], allow: [pull]}", 2, "is neither"),
        ],
    )
    def test_is_refused_with_its_line(self, content, line, sentence):
        with pytest.raises(ConfigError) as raised:
            rules.parse(content.encode(), FILE)
        assert str(raised.value).startswith(f"rules.yml, line {line}: ")
        assert sentence in str(raised.value)

    @pytest.mark.parametrize("content", [b"\xff", b"a: 1\n---\nb: 2", b"{" * 50_000])
    def test_is_refused_if_it_cannot_be_parsed(self, content):
        with pytest.raises(ConfigError):
            rules.parse(content, FILE)

    @pytest.mark.parametrize("content", [b"", b"{}", b"rules: []", b"# nothing\n"])
    def test_without_rules_allows_nothing(self, content):
        assert rules.parse(content, FILE).find(Client("alice"), Action.PULL, "a") is None
