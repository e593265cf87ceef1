"""The access policy of a registry with users: rules, and what private repositories of API V1 hide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from docker_registry.auth.client import Client
from docker_registry.auth.rules.patterns import Pattern
from docker_registry.auth.rules.rules import Rule, Rules
from docker_registry.registry.access import AccessPolicy, Action, Repository
from docker_registry.registry.actor import Principal
from docker_registry.registry.names import LIBRARY, Digest, ImageRepositoryName, RepositoryName, Tag

#: The rules without a rules file, and for a request that is signed with the operator's key: users may do everything.
EVERYTHING: Final = Rules(
    [Rule(line=0, repositories=(Pattern.parse("**"),), is_for_authenticated=True, allow=frozenset(Action))]
)


class RulesPolicy:
    """Allows what a rule allows; private repositories stay hidden from anonymous clients."""

    def __init__(self, rules: Callable[[], Rules], unrestricted: AccessPolicy) -> None:
        """
        Args:
            rules: returns the current rules.
            unrestricted: the policy without users, applied to anonymous clients in addition.
        """
        self._rules = rules
        self._unrestricted = unrestricted

    def rule(self, client: Client, action: Action, name: Repository, tag: Tag | None = None) -> Rule | None:
        """Return a rule that allows an action; None if it is denied. Does not look at private repositories."""
        text = canonical(name)
        found = self._rules_for(client).find(client, action, text, None if tag is None else str(tag))
        is_within = client.limits is None or client.limits.find(client, action, text) is not None
        return found if is_within else None

    def may_some(self, client: Client, action: Action, name: str) -> bool:
        """Return whether a rule allows a client an action on any tag or content of a repository."""
        return all(rules.may_some(client, action, name) for rules in self._all(client))

    def allows_everywhere(self, client: Client, action: Action) -> bool:
        """Return whether a client may perform an action in every repository; a token never allows that."""
        return client.grant is None and all(rules.allows_everywhere(client, action) for rules in self._all(client))

    def _all(self, client: Client) -> tuple[Rules, ...]:
        """Return the rules that must all allow what a client does."""
        return (self._rules_for(client),) if client.limits is None else (self._rules(), client.limits)

    def _rules_for(self, client: Client) -> Rules:
        return EVERYTHING if client.is_privileged else self._rules()

    # ------------------------------------------------------------------------------------------------- policy

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        client = as_client(principal)
        if client.grant is not None and not client.grant.covers(action, canonical(name)):
            return False
        if name.is_hidden or self.rule(client, action, name, tag) is None:
            return False
        return not client.is_anonymous or self._unrestricted.allows(principal, action, name, tag)

    def may_pull_all(self, principal: Principal) -> bool:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        client = as_client(principal)
        is_unlimited = self.allows_everywhere(client, Action.PULL)
        return is_unlimited and (not client.is_anonymous or self._unrestricted.may_pull_all(principal))

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName] | None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        client = as_client(principal)
        if not self.allows_everywhere(client, Action.PULL):
            return None
        return self._unrestricted.hidden_repositories(principal) if client.is_anonymous else ()

    def hides_content(self, principal: Principal, digest: Digest) -> bool:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        return self._unrestricted.hides_content(principal, digest)

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        self._unrestricted.before_deletion(name, digest)

    def pull_prefixes(self, principal: Principal) -> Sequence[str] | None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        client = as_client(principal)
        if client.grant is not None:
            return sorted(client.grant.granted)
        return (self._rules_for(client) if client.limits is None else client.limits).pull_prefixes(client)

    def tag_filter(self, principal: Principal, name: Repository) -> Callable[[str], bool] | None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        client, text = as_client(principal), canonical(name)
        rules = self._rules_for(client)
        if not rules.restricts_tags(client, text):
            return None
        return lambda tag: rules.find(client, Action.PULL, text, tag) is not None


def canonical(name: Repository) -> str:
    """Return the name of a repository for rules: that of API V2, where V1's ``library/foo`` is ``foo``."""
    if isinstance(name, ImageRepositoryName) and name.namespace == LIBRARY and "/" not in name.name:
        return name.name
    return str(name)


def as_client(principal: Principal) -> Client:
    """Return a principal as a client; one that access control did not authenticate has no groups and no address."""
    return principal if isinstance(principal, Client) else Client(principal.name)
