"""
Access control for all operations of a client.

An :class:`AccessPolicy` decides about repositories. The API applies it to the names in the URL of each request, and
:class:`Access` to the other things that a request refers to: the source of a mount, the repositories that hold a
digest. A repository that a client may not see becomes a *hidden* name (``is_hidden``). The storage paths of hidden
names never exist, so every operation on one has the same result as in a repository that does not exist, and takes the
same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final, Protocol, TypeVar

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.actor import Principal
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag

#: Maximum hidden repositories that are searched for a digest. With more, a mount without a source becomes an upload.
MAX_SEARCHED_REPOSITORIES: Final = 100


class Action(Enum):
    """
    An action of a client.

    ``PUSH`` creates tags and content, ``OVERWRITE`` moves an existing tag, ``ADMIN`` changes the registry itself.
    """

    PULL = "pull"
    PUSH = "push"
    OVERWRITE = "overwrite"
    DELETE = "delete"
    ADMIN = "admin"


#: A repository's canonical name: the one of API V2, or that of API V1 if V2 has none.
Repository = RepositoryName | ImageRepositoryName

Name = TypeVar("Name", bound=Repository)


class AccessPolicy(Protocol):
    """Decides which actions principals may perform."""

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:
        """
        Return whether a principal may perform an action in a repository.

        Args:
            tag: the tag in question; None for a whole repository, or for content addressed by its digest.
        """
        ...

    def may_pull_all(self, principal: Principal) -> bool:
        """Return whether a principal may pull from all repositories of both APIs, so that nothing is hidden from it."""
        ...

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName] | None:
        """
        Return the repositories of API V2 that a principal may not pull from; None if they cannot be listed.

        A repository of API V1 whose name is invalid in API V2 is not among them.
        """
        ...

    def hides_content(self, principal: Principal, digest: Digest) -> bool:
        """Return whether content must be hidden from a principal although no hidden repository of API V2 has it."""
        ...

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """Record what is needed to keep content hidden after it is deleted from a repository."""
        ...

    def pull_prefixes(self, principal: Principal) -> Sequence[str] | None:
        """
        Return prefixes such that every repository from which a principal may pull begins with one; None for no limit.
        """
        ...

    def tag_filter(self, principal: Principal, name: Repository) -> Callable[[str], bool] | None:
        """Return a predicate for the tags of a repository that a principal may pull; None if it may pull all."""
        ...


class OpenPolicy:
    """Allows every action except ``ADMIN`` to every principal."""

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return action is not Action.ADMIN

    def may_pull_all(self, principal: Principal) -> bool:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return True

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName] | None:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return ()

    def hides_content(self, principal: Principal, digest: Digest) -> bool:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return False

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """See :class:`AccessPolicy`."""

    def pull_prefixes(self, principal: Principal) -> Sequence[str] | None:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return None

    def tag_filter(self, principal: Principal, name: Repository) -> Callable[[str], bool] | None:  # noqa: ARG002
        """See :class:`AccessPolicy`."""
        return None


class Access:
    """
    Applies a policy.

    Attributes:
        policy: the policy to apply; may be replaced before the first request.
    """

    def __init__(self, driver: StorageDriver, policy: AccessPolicy) -> None:
        self._driver = driver
        self.policy = policy

    def may_pull(self, principal: Principal, name: Repository) -> bool:
        """Return whether a principal may pull from a repository."""
        return self.policy.allows(principal, Action.PULL, name)

    def pull_filter(self, principal: Principal) -> Callable[[RepositoryName], bool] | None:
        """Return a predicate for the repositories that a principal may pull from; None if it may pull from all."""
        if self.policy.may_pull_all(principal):
            return None
        return lambda name: self.may_pull(principal, name)

    def may_mount(self, principal: Principal, digest: Digest) -> bool:
        """
        Return whether a principal may pull from every repository that has a digest, as a blob or as a manifest.

        If no repository is hidden, no lookup is needed. Otherwise the time is the same for every digest.
        """
        if self.policy.may_pull_all(principal):
            return True
        hidden = self.policy.hidden_repositories(principal)
        if hidden is None or len(hidden) > MAX_SEARCHED_REPOSITORIES:
            return False
        links = [(layout.layer_link(name, digest), layout.revision_link(name, digest)) for name in hidden]
        found = [self._driver.has_file(link) for pair in links for link in pair]
        found.append(self.policy.hides_content(principal, digest))
        return not any(found)


def hide(name: Name) -> Name:
    """Return the hidden form of a name."""
    return replace(name, is_hidden=True)
