"""
Notes of tags at manifests: which tags point, or pointed, at a manifest, without reading every tag.

Each is an empty file beside the manifest's link, written before the tag. Distribution writes none. But it keeps every
digest that it ever let a tag point at in a history of the tag, which the registry never writes and removes with the
tag; so the tags that distribution wrote, whenever that was, are found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, RepositoryName, Tag, is_tag


class TagBackReferences:
    """The notes of all repositories."""

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings

    def are_complete(self, name: RepositoryName) -> bool:
        """Tell whether every tag that was there at some time since the first note is noted."""
        return self._driver.exists(layout.tags_are_noted(name))

    def tags(self, name: RepositoryName, digest: Digest) -> Sequence[str]:
        """Return the tags that are noted at a manifest, in ASCII order; they may point at another by now."""
        return self._listings.names(layout.revision(name, digest), layout.read_tag_note)

    def tags_of_distribution(self, name: RepositoryName, digest: Digest, tags: Sequence[str]) -> Iterator[str]:
        """
        Yield the tags that distribution has let point at a manifest; they may point at another by now.

        Args:
            tags: all tags of the repository.
        """
        if self._driver.capabilities.pages:
            folder = layout.tags(name)
            for stat in self._listings.pace(self._driver.walk(folder)):
                tag = stat.path[len(folder) + 1 :].partition("/")[0]
                if is_tag(tag) and stat.path == layout.tag_history_entry(name, Tag(tag), digest):
                    yield tag
            return
        for tag in self._listings.pace(tags):
            if self._driver.exists(layout.tag_history_entry(name, Tag(tag), digest)):
                yield tag

    def put(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        *,
        is_new: bool = False,
        are_complete: bool = False,
    ) -> None:
        """
        Note a tag at the manifest that it is about to point at.

        Args:
            is_new: the manifest was just created, so there is no note to look for.
            are_complete: all tags of the repository are known to be noted.
        """
        path = layout.tag_note(name, digest, tag)
        if not is_new and self._driver.exists(path):
            return
        noted = layout.tags_are_noted(name)
        if not are_complete and not self._driver.exists(noted) and not self._driver.exists(layout.tags(name)):
            self._driver.put_content(noted, b"")  # the very first one: none is missing
        self._driver.put_content(path, b"")

    def put_all(self, name: RepositoryName, targets: Iterable[tuple[Tag, Digest | None]]) -> None:
        """Note all tags of a repository, each with what it points at."""
        for tag, digest in self._listings.pace(targets):
            if digest is not None:
                self.put(name, tag, digest, are_complete=True)
        self._driver.put_content(layout.tags_are_noted(name), b"")
