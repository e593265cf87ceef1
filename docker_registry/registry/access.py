"""
Access control: what a client may do, decided in one place.

An :class:`AccessPolicy` decides about repositories. :class:`Access` applies it to everything that a request refers to:
the names in its URL, the source of a mount, the repositories that hold a digest. A repository that a client may not
see becomes a *hidden* name (``is_hidden``). The storage paths of hidden names lead nowhere, so every operation on one
finds what it would find in a repository that does not exist, and takes the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol, TypeVar

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag

#: More hidden repositories are not searched for a digest; what is mounted without a source is uploaded instead.
MAX_SEARCHED_REPOSITORIES: Final = 100


class Action(Enum):
    """
    What a client wants to do.

    ``PUSH`` creates tags and content, ``OVERWRITE`` moves an existing tag, ``ADMIN`` changes the registry itself.
    """

    PULL = "pull"
    PUSH = "push"
    OVERWRITE = "overwrite"
    DELETE = "delete"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request."""

    name: str = "anonymous"


ANONYMOUS: Final = Principal()

#: A repository's canonical name: the one of API V2, or that of API V1 where V2 has none.
Repository = RepositoryName | ImageRepositoryName

Name = TypeVar("Name", bound=Repository)


class AccessPolicy(Protocol):
    """Decides what principals may do."""

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:
        """
        Tell whether a principal may do something in a repository.

        Args:
            tag: the tag in question; None for a whole repository, and for what is named by its digest.
        """
        ...

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName] | None:
        """Return the repositories that a principal may not pull from; None when they cannot be listed."""
        ...

    def hides_content(self, principal: Principal, digest: Digest) -> bool:
        """Tell whether content is to be kept from a principal although no hidden repository of API V2 has it."""
        ...

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """Record what is needed to keep content hidden that a repository is about to lose."""
        ...


class OpenPolicy:
    """Anyone may do anything but administer the registry."""

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return action is not Action.ADMIN

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName] | None:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return ()

    def hides_content(self, principal: Principal, digest: Digest) -> bool:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return False

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """See :class:`AccessPolicy`."""


class Access:
    """
    Applies a policy.

    Attributes:
        policy: may be replaced before the first request.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self.policy: AccessPolicy = OpenPolicy()

    def resolve(self, principal: Principal, action: Action, name: Name, tag: Tag | None = None) -> Name:
        """Return a repository's name, or a hidden one when the policy refuses the action."""
        return name if self.policy.allows(principal, action, name, tag) else hide(name)

    def may_pull(self, name: Repository, principal: Principal = ANONYMOUS) -> bool:
        """Tell whether a principal may see a repository."""
        return self.policy.allows(principal, Action.PULL, name)

    def pull_filter(self, principal: Principal = ANONYMOUS) -> Callable[[RepositoryName], bool] | None:
        """Return a function that tells which repositories a principal may see; None when it may see all of them."""
        hidden = self.policy.hidden_repositories(principal)
        if hidden is not None and not hidden:
            return None
        return lambda name: self.may_pull(name, principal)

    def may_mount(self, digest: Digest, principal: Principal = ANONYMOUS) -> bool:
        """
        Tell whether a principal may see every repository that has a digest, as a blob or as a manifest.

        Nothing is searched as long as no repository is hidden. Otherwise it takes the same time for every digest.
        """
        hidden = self.policy.hidden_repositories(principal)
        if hidden is None or len(hidden) > MAX_SEARCHED_REPOSITORIES:
            return False
        links = [(layout.layer_link(name, digest), layout.revision_link(name, digest)) for name in hidden]
        found = [self._driver.exists(link) for pair in links for link in pair]
        if hidden:
            found.append(self.policy.hides_content(principal, digest))
        return not any(found)


def hide(name: Name) -> Name:
    """Return the hidden form of a name."""
    return replace(name, is_hidden=True)
