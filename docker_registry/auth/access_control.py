"""Access control of a registry with users: authenticates clients and decides what they may do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from docker_registry.auth import credentials, htpasswd, rules
from docker_registry.auth.client import ANONYMOUS_NAME, Address, Client
from docker_registry.auth.passwords import Passwords
from docker_registry.auth.patterns import Pattern
from docker_registry.auth.policy import RulesPolicy, canonical
from docker_registry.auth.rules import Rule, Rules
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import Denied, Unauthorized
from docker_registry.registry.access import AccessPolicy, Action, Repository
from docker_registry.registry.names import Tag

logger = logging.getLogger(__name__)

#: The rules without a rules file: users may do everything, anonymous clients nothing.
_DEFAULT_RULES = Rules(
    [Rule(line=0, repositories=(Pattern.parse("**"),), is_for_authenticated=True, allow=frozenset(Action))]
)


class AccessControl:
    """
    Users and rules, in files that are reloaded when they change.

    Attributes:
        policy: the access policy of the registry.
    """

    def __init__(self, unrestricted: AccessPolicy, *, htpasswd_file: Path | None, rules_file: Path | None) -> None:
        """
        Args:
            unrestricted: the policy of a registry without users.
            htpasswd_file: users and their bcrypt hashes; None for no users.
            rules_file: what they may do; None lets users do everything and anonymous clients nothing.

        Raises:
            ConfigError: a file cannot be read or used.
        """
        self._users = None if htpasswd_file is None else WatchedFile(htpasswd_file, htpasswd.parse)
        self._rules = None if rules_file is None else WatchedFile(rules_file, rules.parse)
        self._passwords = Passwords(self.users)
        self.policy = RulesPolicy(self.rules, unrestricted)

    def users(self) -> Mapping[str, bytes]:
        """Return the current bcrypt hashes, by user name."""
        return {} if self._users is None else self._users.get()

    def rules(self) -> Rules:
        """Return the current rules."""
        return _DEFAULT_RULES if self._rules is None else self._rules.get()

    def authenticate(self, header: str | None, address: Address | None) -> Client:
        """
        Return the client of a request.

        Args:
            header: the Authorization header; None without one.
            address: network address of the client.

        Raises:
            Unauthorized: the credentials are malformed or wrong.
            TooManyAttempts: too many logins failed.
        """
        given = credentials.parse(header)
        if given is None:
            return Client(ANONYMOUS_NAME, address=address)
        if not isinstance(given, credentials.Basic):
            raise Unauthorized("Tokens are not accepted.", error="invalid_token")
        if not self._passwords.verify(given.name, given.password, address):
            logger.warning("login failed: user %.64r from %s", given.name, address)
            raise Unauthorized("The user name or the password is wrong.")
        return Client(given.name, address=address)

    def check(self, client: Client, action: Action, name: Repository, tag: Tag | None = None) -> None:
        """
        Check that a client may perform an action.

        Args:
            tag: None for a whole repository, or for content addressed by its digest.

        Raises:
            Unauthorized: the client is anonymous, and anonymous clients may not do this.
            Denied: the client is known and may not do this.
        """
        if self.policy.rule(client, action, name, tag) is None:
            self.refuse(client, action, name)

    def check_everywhere(self, client: Client, action: Action) -> None:
        """
        Check that a client may perform an action in every repository.

        Raises:
            Unauthorized, Denied: as for :meth:`check`.
        """
        if not self.policy.allows_everywhere(client, action):
            self.refuse(client, action, None)

    def check_known(self, client: Client) -> None:
        """
        Raises:
            Unauthorized: the client is anonymous.
        """
        if client.is_anonymous:
            raise Unauthorized

    def refuse(self, client: Client, action: Action, name: Repository | None) -> None:
        """
        Refuse an action.

        Args:
            name: the repository; None for the whole registry.

        Raises:
            Unauthorized: the client is anonymous.
            Denied: it is not.
        """
        self.check_known(client)
        place = "every repository" if name is None else canonical(name)
        logger.warning("denied: user %r, %s, %s", client.name, action.value, place)
        raise Denied(
            f"{client.name} may not {action.value} in {'' if name is None else 'the repository '}{place}.",
            user=client.name, action=action.value, repository=None if name is None else place,
        )  # fmt: skip
