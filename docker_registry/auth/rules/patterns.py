"""
Patterns of repositories and tags in access rules.

``*`` matches within a path component, ``**`` across components, ``${user}`` is the name of the requesting user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import Final

_USER: Final = "${user}"
_PARTS: Final = re.compile(r"(\*\*|\*|\$\{user\})")

#: Characters of the literal parts: those of names and tags of either API.
_LITERAL: Final = re.compile(r"[A-Za-z0-9._/-]*")

#: Maximum number of wildcards in a pattern.
MAX_WILDCARDS: Final = 4

#: What a user name must look like to stand for a path component.
_COMPONENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Pattern:
    """
    One pattern.

    Attributes:
        text: as the operator wrote it.
        prefix: the whole path components before the first wildcard, such as ``acme/`` for ``acme/*``; may be empty.
            Every name that matches a pattern without ``${user}`` there begins with it.
    """

    text: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        Parse a pattern.

        Raises:
            ValueError: the pattern is empty or contains other characters; the message is the end of a sentence that
                begins with the pattern.
        """
        literals = _PARTS.split(text)[::2]
        if not text or not all(map(_LITERAL.fullmatch, literals)):
            raise ValueError("may only contain letters, digits, . _ - / and the wildcards *, ** and ${user}")
        if "***" in text:
            raise ValueError("contains ***; use * or **")
        if count_wildcards(text) > MAX_WILDCARDS:
            raise ValueError(f"contains more than {MAX_WILDCARDS} wildcards")
        first = literals[0]
        is_literal = first == text
        return cls(text, first if is_literal else first[: first.rfind("/") + 1])

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        # Compiled when it is needed: of thousands of patterns, which a change of one of them replaces, few are.
        return compile_wildcards(self.text)

    @property
    def literal(self) -> str:
        """The text before the first wildcard, with which every matching name begins; may be empty."""
        return _PARTS.split(self.text, maxsplit=1)[0]

    @property
    def matches_all(self) -> bool:
        """True if the pattern matches every name."""
        return self.text == "**"

    @property
    def needs_user(self) -> bool:
        """True if the pattern contains ``${user}``."""
        return _USER in self.text

    def for_user(self, user: str | None) -> Pattern | None:
        """
        Return the pattern with ``${user}`` replaced; None if the user is anonymous or its name cannot be in a path.
        """
        if not self.needs_user:
            return self
        return None if user is None else _replaced(self.text, user)

    def matches(self, text: str) -> bool:
        """Return whether a name or tag matches; ``${user}`` must have been replaced."""
        return self._expression.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _replaced(text: str, user: str) -> Pattern | None:
    return Pattern.parse(text.replace(_USER, user)) if _COMPONENT.fullmatch(user) else None


def count_wildcards(text: str) -> int:
    """Return the number of wildcards in a pattern."""
    return text.count("*") - text.count("**")


def compile_wildcards(text: str) -> re.Pattern[str]:
    """
    Return the expression of a pattern with ``*`` and ``**``, to be used with ``fullmatch``.

    The text between two wildcards is matched at its first possible position only, which suffices: the second wildcard
    can match what a later position would. So a text that does not match takes at most the square of its length, instead
    of a power that grows with each wildcard.
    """
    numbers = count()

    def at_first(expression: str) -> str:
        # Nothing tries again within a lookahead that has matched. Python 3.10 has no atomic groups.
        number = next(numbers)
        return f"(?=(?P<g{number}>{expression}))(?P=g{number})"

    def without_crossing(part: str, *, is_last: bool) -> str:
        begin, *others = (re.escape(literal) for literal in part.split("*"))
        end = f"[^/]*{others.pop()}" if is_last and others else ""
        return begin + "".join(at_first(f"[^/]*?{literal}") for literal in others) + end

    *parts, last = text.split("**")
    expressions = [without_crossing(part, is_last=False) for part in parts]
    middle = [at_first(f".*?{expression}") for expression in expressions[1:]]
    end = without_crossing(last, is_last=True)
    return re.compile("".join([*expressions[:1], *middle, f".*{end}" if parts else end]), re.DOTALL)
