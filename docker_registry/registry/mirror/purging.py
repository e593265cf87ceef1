"""Purging: removes the content of mirrored repositories from the store, as if no client had ever requested it."""

from __future__ import annotations

from dataclasses import dataclass

from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import Actor
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry


@dataclass(frozen=True, slots=True)
class Purged:
    """
    What was removed from a repository.

    Attributes:
        digests: its manifests and blobs.
        size: bytes of these that no other repository has, and that are removed later.
    """

    digests: frozenset[Digest]
    size: int


class Purging:
    """
    Removes content of mirrored repositories; their links at once.

    Their bytes are removed by :class:`~docker_registry.registry.removal.Reclamation`, unless another repository has
    them. It is safe beside pulls: what a client requests meanwhile is fetched again.
    """

    def __init__(self, registry: OciRegistry) -> None:
        self._registry = registry

    def purge(self, name: RepositoryName, *, actor: Actor) -> Purged:
        """
        Remove the content of a repository, and what is known of it.

        It stays marked as mirrored, because a client may be pulling from it.

        Args:
            name: a repository that mirrors another one.
        """
        registry, driver = self._registry, self._registry.driver
        digests = frozenset(digest for digest, _ in registry.references.links_of(name))
        for folder in (layout.mirrored_tags(name), f"{layout.mirrored(name)}/referrers"):
            store_removal.remove(driver, folder)
        for digest in registry.slices.pace(digests):
            registry.blobs.removed.add(digest)
            registry.removal.forget(name, digest, actor=actor)
            store_removal.remove(driver, layout.mirrored_platform(name, digest))
        shared = registry.references.among(digests) if digests else set[Digest]()
        sizes = (driver.find_size(layout.blob_data(digest)) or 0 for digest in digests - shared)
        return Purged(digests, sum(sizes))
