"""The client of a request, as access control sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from docker_registry.auth.rules.rules import Rules
from docker_registry.auth.tokens.scopes import Grant
from docker_registry.http.clients import Address
from docker_registry.registry.actor import Principal

#: The name of a client whose request is signed with the operator's key.
PRIVILEGED_NAME: Final = "privileged-key"

#: The name of clients that present no credentials.
ANONYMOUS_NAME: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Client(Principal):
    """
    A client whose credentials have been checked.

    Attributes:
        groups: groups that its identity provider reports, in addition to those in the rules file.
        address: its network address; None if unknown.
        grant: what its access token allows at most; None without a token.
        limits: the scopes of a robot; None for others.
        expires: when its credentials end, seconds since the Unix epoch.
        version: of the user whom its token names (:meth:`.Logins.user_version`), or of the settings by which another
            service vouches for it (:mod:`docker_registry.auth.external`). Empty after a login by a password of ours.
        is_privileged: whether the operator's key signed its request, so that it may do everything.
        is_unnamed: whether its token, of another token server, names no user, so that anyone may get such a token.
    """

    groups: frozenset[str] = frozenset()
    address: Address | None = None
    grant: Grant | None = None
    limits: Rules | None = None
    expires: float = math.inf
    version: str = ""
    is_privileged: bool = False
    is_unnamed: bool = False

    @property
    def ends(self) -> float:
        """When its credentials and its token end, seconds since the Unix epoch."""
        return self.expires if self.grant is None else min(self.expires, self.grant.expires)

    @property
    def is_anonymous(self) -> bool:
        """True for a client without credentials."""
        return self.name == ANONYMOUS_NAME
