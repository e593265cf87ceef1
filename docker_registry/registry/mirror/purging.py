"""Purging: removes the content of mirrored repositories from the store, as if no client had ever requested it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import Actor
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry

#: The name of a repository, of either API.
Name = TypeVar("Name")


@dataclass(frozen=True, slots=True)
class Purged:
    """
    What was removed from a repository.

    Attributes:
        digests: its manifests and blobs.
        size: bytes of these that no other repository has, and that are removed later. Bytes that several purged
            repositories had count for the first one.
    """

    digests: frozenset[Digest]
    size: int


class Purging:
    """
    Removes content of mirrored repositories; their links at once.

    Their bytes are removed by :class:`~docker_registry.registry.reclamation.Reclamation`, unless another repository has
    them. It is safe beside pulls: what a client requests meanwhile is fetched again.
    """

    def __init__(self, registry: OciRegistry) -> None:
        self._registry = registry

    def purge(self, names: Collection[RepositoryName], *, actor: Actor) -> dict[RepositoryName, Purged]:
        """
        Remove the content of repositories, and what is known of them.

        They stay marked as mirrored, because a client may be pulling from them.

        Args:
            names: repositories that mirror others.
        """
        return measure(self._registry, {name: self._forget(name, actor) for name in names})

    def _forget(self, name: RepositoryName, actor: Actor) -> frozenset[Digest]:
        registry, driver = self._registry, self._registry.driver
        digests = frozenset(digest for digest, _ in registry.references.links_of(name))
        for folder in (layout.mirrored_tags(name), f"{layout.mirrored(name)}/referrers"):
            store_removal.remove(driver, folder)
        for digest in registry.slices.pace(digests):
            registry.blobs.removed.add(digest)
            registry.removal.forget(name, digest, actor=actor)
            store_removal.remove(driver, layout.mirrored_platform(name, digest))
        return digests


def measure(registry: OciRegistry, removed: Mapping[Name, frozenset[Digest]]) -> dict[Name, Purged]:
    """
    Return what was removed from repositories with its size; reads the links of the whole store once.

    Args:
        removed: the digests that were removed from each repository.
    """
    everything = frozenset[Digest]().union(*removed.values())
    counted = registry.references.among(everything) if everything else set[Digest]()
    purged = {}
    for name, digests in removed.items():
        new = registry.slices.pace(digests - counted)
        size = sum(registry.driver.find_size(layout.blob_data(digest)) or 0 for digest in new)
        purged[name] = Purged(digests, size)
        counted |= digests
    return purged
