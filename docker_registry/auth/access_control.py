"""Access control of a registry with users: authenticates clients and decides what they may do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from docker_registry.auth import credentials
from docker_registry.auth.client import ANONYMOUS_NAME, PRIVILEGED_NAME, Client
from docker_registry.auth.external.external_tokens import ExternalTokens
from docker_registry.auth.external.remote_keys import RemoteKeys
from docker_registry.auth.external.workloads import VERSION_PREFIX
from docker_registry.auth.logins import Logins
from docker_registry.auth.privileged_key import PrivilegedKey
from docker_registry.auth.rules.policy import EVERYTHING, RulesPolicy, canonical
from docker_registry.auth.rules.rules import Rules
from docker_registry.auth.tokens import scopes
from docker_registry.auth.tokens.scopes import Grant, Scope
from docker_registry.auth.tokens.tokens import Tokens
from docker_registry.auth.users.robots import PREFIX as ROBOT_PREFIX
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.dependencies import make_uncacheable
from docker_registry.errors import Denied, Unauthorized
from docker_registry.http.clients import Address
from docker_registry.registry.access import AccessPolicy, Action, Repository
from docker_registry.registry.actor import Principal
from docker_registry.registry.names import ImageId, Tag, is_repository_name

logger = logging.getLogger(__name__)

#: The path of the token endpoint.
TOKEN_PATH: Final = "/v2/token"  # noqa: S105 - a path

#: How often changes by other services and hosts are read, so that they apply within five seconds.
REFRESH_SECONDS: Final = 2.0

#: Name of a client whose token, issued by another token server, names no user, where no rules need a name.
_HOLDER_NAME: Final = "token"

#: Longest description of a user in a token of API V1; the groups are left out if they do not fit.
_MAX_HOLDER_BYTES: Final = 512

#: Longest lifetime of a token of API V1 for a user of a directory or a client certificate: the registry does not learn
#: when another service removes a user.
VOUCHED_SECONDS: Final = 3600.0

#: What a client must be allowed, on any tag, for each action in a scope.
_GRANTED: Final = {"pull": Action.PULL, "push": Action.PUSH, "delete": Action.DELETE}


@dataclass(frozen=True, slots=True)
class ImageGrant:
    """
    The content of a verified token of API V1.

    Attributes:
        holder: the user with its version and groups, as :meth:`AccessControl.holder` wrote them; empty if the registry
            had no access control when it issued the token.
        access: ``read``, ``write`` or ``delete``.
        expires: when the token ends, seconds since the Unix epoch.
    """

    holder: str
    repository: Repository
    access: str
    expires: float


class ImageAccess(Protocol):
    """Knows from which repositories of API V1 a client could have an image."""

    def may_pull(self, principal: Principal, image_id: ImageId) -> bool:
        """Return whether a principal may pull from a repository that has an image."""
        ...

    def may_push(self, principal: Principal, image_id: ImageId) -> bool:
        """Return whether a principal may push to a repository that has or lists an image."""
        ...


class AccessControl:
    """
    Users and rules, in files that are reloaded when they change.

    Attributes:
        logins: all ways to log in.
        policy: the access policy of the registry.
        tokens: issues and verifies tokens; None where only passwords are needed.
        read_image_token: verifies a token of API V1, given the Authorization header; returns None if it is not valid.
    """

    def __init__(
        self,
        unrestricted: AccessPolicy,
        *,
        logins: Logins,
        rules_file: WatchedFile[Rules] | None = None,
        tokens: Tokens | None = None,
        external_tokens: ExternalTokens | None = None,
        privileged_key: PrivilegedKey | None = None,
    ) -> None:
        """
        Args:
            unrestricted: the policy of a registry without users.
            rules_file: what users may do; None lets them do everything and anonymous clients nothing.
            tokens: None where only passwords or the tokens of another server are accepted.
            external_tokens: verifies the tokens of another token server, which replace our own.
            privileged_key: verifies requests of API V1 that the operator has signed; None if there are none.
        """
        self.logins = logins
        self._rules = rules_file
        self.policy = RulesPolicy(self.rules, unrestricted)
        self.tokens = tokens
        self._external_tokens = external_tokens
        self._privileged_key = privileged_key
        self.read_image_token: Callable[[str], ImageGrant | None] = lambda _: None

    def rules(self) -> Rules:
        """Return the current rules."""
        return EVERYTHING if self._rules is None else self._rules.get()

    # --------------------------------------------------------------------------------------- authentication

    def authenticate(
        self,
        header: str | None,
        address: Address | None,
        *,
        for_token: bool = False,
        certificate: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> Client:
        """
        Return the client of a request.

        Args:
            header: the Authorization header; None without one.
            address: network address of the client.
            for_token: whether the client requests an access token, for which it may present the token of a workload.
            certificate: returns the verified certificate of the client, which identifies it if the header does not;
                None without one.

        Raises:
            Unauthorized: the credentials are malformed, wrong or expired.
            TooManyAttempts: too many logins failed.
        """
        given = credentials.parse(header)
        if given is None:
            found = certificate() if self.logins.identifies_certificates else None
            return Client(ANONYMOUS_NAME, address=address) if found is None else self.logins.identify(found, address)
        if isinstance(given, credentials.Basic):
            return self.logins.log_in(given.name, given.password, address, for_token=for_token)
        if isinstance(given, credentials.ImageToken):
            return self._verify_image_token(given.header, address)
        return self._verify(given.token, address)

    def find_privileged(
        self, method: str, path: str, headers: Iterable[tuple[str, str]], address: Address | None
    ) -> Client | None:
        """
        Return the client of a request of API V1 that is signed with the operator's key; None for others.

        Args:
            path: decoded, without the query and without a slash at its end, which the client may have signed too.
        """
        key = self._privileged_key
        if key is None or not path.startswith("/v1/"):
            return None
        signed = [*headers]
        if not any(key.verify(method, each, signed) for each in (path, f"{path}/")):
            return None
        make_uncacheable()
        return Client(PRIVILEGED_NAME, address=address, is_privileged=True)

    def log_in_again(self, refresh_token: str, address: Address | None) -> Client:
        """
        Return the user of a refresh token.

        Raises:
            Unauthorized: the token is unknown, was revoked or has ended.
        """
        found = self._tokens().refresh.verify(refresh_token, self.logins.user_version)
        if found is None:
            logger.warning("login failed: refresh token from %s", address)
            raise Unauthorized("The refresh token is not valid.", error="invalid_token")
        return self.logins.client(found.user, address)

    def challenge(self, base_url: str) -> tuple[str, str]:
        """
        Return realm and service for the challenge of a client without credentials.

        Args:
            base_url: scheme, host and port of the registry as the client used them.
        """
        if self._external_tokens is not None:
            return self._external_tokens.server.realm, self._external_tokens.server.service
        return f"{base_url}{TOKEN_PATH}", "" if self.tokens is None else self.tokens.service

    def watch(self, sleep: Callable[[float], object]) -> None:
        """
        Refresh users and robots until the process ends; the body of a greenlet.

        Requests check the files too. A worker that gets none would miss a version, and after a broken one its last
        usable version would be an older one than that of other workers.
        """
        while True:
            self.logins.users()
            if self.logins.robots is not None:
                self.logins.robots.refresh()
            sleep(REFRESH_SECONDS)

    def watch_rules(self, sleep: Callable[[float], object]) -> None:
        """Refresh the rules in the same way; the body of another greenlet, as parsing many of them takes seconds."""
        while True:
            self.rules()
            sleep(REFRESH_SECONDS)

    def renew_keys(self, sleep: Callable[[float], object]) -> None:
        """
        Renew the keys of other services until the process ends; the body of another greenlet, as these may be slow.
        """
        own = [] if self._external_tokens is None else [self._external_tokens.keys]
        workloads = self.logins.workloads
        sources = own + ([] if workloads is None else [issuer.keys for issuer in workloads.issuers])
        while True:
            for keys in sources:
                if isinstance(keys, RemoteKeys):
                    keys.renew_if_due()
            sleep(REFRESH_SECONDS)

    def _verify(self, text: str, address: Address | None) -> Client:
        if self._external_tokens is not None:
            token = self._external_tokens.verify(text)
            if token.user.startswith(ROBOT_PREFIX):
                raise Unauthorized("The token is not valid: it has the name of a robot.", error="invalid_token")
            name = token.user or ANONYMOUS_NAME
            if self._rules is None and name == ANONYMOUS_NAME:  # the token alone decides
                return Client(_HOLDER_NAME, address=address, grant=token.grant, is_unnamed=True)
            return Client(name, address=address, grant=token.grant)
        found = self._tokens().access.verify(text)
        if not found.user:
            return Client(ANONYMOUS_NAME, address=address, grant=found.grant)
        if found.user_version.startswith(VERSION_PREFIX):
            workloads = self.logins.workloads
            if workloads is None or not workloads.knows(found.user_version):
                raise Unauthorized("The token is not valid: its issuer has changed.", error="invalid_token")
            return Client(found.user, found.groups, address, found.grant, version=found.user_version)
        if not self.logins.is_current(found.user, found.user_version):
            raise Unauthorized("The token is not valid: its user has changed.", error="invalid_token")
        known = self.logins.client(found.user, address)
        return replace(known, groups=found.groups, grant=found.grant, version=found.user_version)

    def holder(self, client: Client) -> str:
        """Return the user of a client, its version and its groups, a line each, as a token of API V1 carries them."""
        version = "" if client.is_anonymous else client.version or self.logins.user_version(client.name)
        holder = f"{client.name}\n{version}"
        with_groups = "\n".join((holder, *sorted(client.groups)))
        return with_groups if len(with_groups.encode()) <= _MAX_HOLDER_BYTES else holder

    def holder_ends(self, client: Client) -> float:
        """Return when a token of API V1 for a client must end at the latest, seconds since the Unix epoch."""
        return min(client.ends, time.time() + VOUCHED_SECONDS) if client.version else client.ends

    def _verify_image_token(self, header: str, address: Address | None) -> Client:
        found = self.read_image_token(header)
        if found is None or not found.holder:  # without access control, tokens name no user
            raise Unauthorized("Requires authorization", error="invalid_token")
        name, version, *groups = found.holder.split("\n")
        if name != ANONYMOUS_NAME and not self.logins.is_current(name, version):
            raise Unauthorized("Requires authorization", error="invalid_token")
        actions = scopes.IMAGE_ACTIONS[found.access]
        make_uncacheable()
        grant = Grant({canonical(found.repository): actions}, expires=found.expires, image_actions=actions)
        return replace(self.logins.client(name, address), groups=frozenset(groups), grant=grant, version=version)

    def _tokens(self) -> Tokens:
        if self.tokens is None:
            raise Unauthorized("Tokens are not accepted.", error="invalid_token")
        return self.tokens

    # ---------------------------------------------------------------------------------------------- tokens

    def grant(self, client: Client, wanted: Iterable[Scope]) -> Grant:
        """Return which of the requested scopes a token of a client may have."""
        granted: dict[str, frozenset[str]] = {}
        refused: dict[str, frozenset[str]] = {}
        has_catalog = False
        for scope in wanted:
            if scope.type == "registry":
                has_catalog = has_catalog or (scope.name == "catalog" and self.may_list(client))
            elif is_repository_name(scope.name):
                allowed = frozenset(word for word in scope.actions if self._may(client, word, scope.name))
                granted[scope.name] = allowed
                refused[scope.name] = frozenset(scope.actions) - allowed
        return Grant(
            {name: actions for name, actions in granted.items() if actions},
            {name: actions for name, actions in refused.items() if actions},
            has_catalog,
        )

    def may_list(self, client: Client) -> bool:
        """Return whether a client may ask for lists of repositories."""
        return not client.is_anonymous or bool(self.policy.pull_prefixes(client))

    def _may(self, client: Client, word: str, name: str) -> bool:
        action = _GRANTED.get(word)
        return action is not None and self.policy.may_some(client, action, name)

    # ------------------------------------------------------------------------------------------- decisions

    def check(self, client: Client, action: Action, name: Repository, tag: Tag | None = None) -> None:
        """
        Check that a client may perform an action.

        Args:
            tag: None for a whole repository, or for content addressed by its digest.

        Raises:
            Unauthorized: the client is anonymous and may not do this, or its token lacks the scope.
            Denied: the client is known and may not do this.
        """
        if client.grant is not None and not client.grant.covers(action, canonical(name)):
            was_refused = client.grant.has_refused(action, canonical(name))
            if was_refused and not client.is_anonymous:
                self.refuse(client, action, name)
            sentence = None if was_refused else "The token lacks the scope."  # another token would not help
            raise Unauthorized(sentence, error="insufficient_scope")
        if self.policy.rule(client, action, name, tag) is None:
            self.refuse(client, action, name)

    def check_image(self, client: Client, action: Action, image_id: ImageId, images: ImageAccess) -> None:
        """
        Check that a client may pull or push an image of API V1: in every repository, or in one that has the image.

        Args:
            images: knows the repositories of images.

        Raises:
            Unauthorized, Denied: as for :meth:`check`.
        """
        if client.grant is not None and scopes.NEEDED.get(action) not in client.grant.image_actions:
            raise Unauthorized("The token lacks the scope.", error="insufficient_scope")
        if self.policy.allows_everywhere(client, action):
            return
        may = images.may_push if action is Action.PUSH else images.may_pull
        if not may(client, image_id):
            self.refuse(client, action, None)

    def check_credentials(self, client: Client) -> None:
        """
        Raises:
            Unauthorized: the client presented no credentials, not even the token of an anonymous client.
        """
        if client.is_anonymous and client.grant is None:
            raise Unauthorized

    def check_login(self, client: Client) -> None:
        """
        Raises:
            Unauthorized: the client is anonymous, or its token names no user.
        """
        if client.is_anonymous or client.is_unnamed:
            raise Unauthorized

    def check_listing(self, client: Client) -> Client:
        """
        Check that a client may ask for lists of repositories, and return it without the limits of its token.

        Raises:
            Unauthorized: the client may pull nothing without a login, or its token lacks the scope.
        """
        if client.grant is not None and not client.grant.has_catalog:
            raise Unauthorized("The token lacks the scope.", error="insufficient_scope")
        unlimited = client if client.grant is None else replace(client, grant=None)
        if not self.may_list(unlimited):
            raise Unauthorized
        return unlimited

    def refuse(self, client: Client, action: Action, name: Repository | None) -> None:
        """
        Refuse an action.

        Args:
            name: the repository; None for those of an image.

        Raises:
            Unauthorized: the client is anonymous.
            Denied: it is not.
        """
        if client.is_anonymous:
            raise Unauthorized
        resource = "the repositories of the image" if name is None else f"the repository {canonical(name)}"
        logger.warning("denied: user %r, %s, %s", client.name, action.value, resource)
        raise Denied(
            f"{client.name} may not {action.value} in {resource}.",
            user=client.name, action=action.value, repository=None if name is None else canonical(name),
        )  # fmt: skip
