"""
Back-references of tags: which tags point, or pointed, at a manifest, without reading every tag.

Each is an empty file beside the manifest's link, written before the tag. Distribution writes none, but records every
digest that a tag has pointed at in a history of the tag. This registry never writes to that history and removes it with
the tag, so it shows all tags that distribution has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, RepositoryName, Tag, is_tag


class TagBackReferences:
    """The back-references of all repositories."""

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings

    def are_complete(self, name: RepositoryName) -> bool:
        """Return whether every tag of a repository has a back-reference, unless distribution has written it."""
        return self._driver.exists(layout.back_references_complete(name))

    def tags(self, name: RepositoryName, digest: Digest) -> Sequence[str]:
        """Return the tags with a back-reference at a manifest, in ASCII order; some may point elsewhere by now."""
        return self._listings.names(layout.revision(name, digest), layout.read_tag_back_reference)

    def tags_of_distribution(self, name: RepositoryName, digest: Digest, tags: Sequence[str]) -> Iterator[str]:
        """
        Yield the tags that distribution has set to a manifest; some may point elsewhere by now.

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
        Write the back-reference of a tag that is about to be set to a manifest.

        Args:
            is_new: the manifest was just created, so there is no back-reference to look up.
            are_complete: the back-references of the repository are known to be complete.
        """
        path = layout.tag_back_reference(name, digest, tag)
        if not is_new and self._driver.exists(path):
            return
        complete = layout.back_references_complete(name)
        if not are_complete and not self._driver.exists(complete) and not self._driver.exists(layout.tags(name)):
            self._driver.put_content(complete, b"")  # the first tag of the repository: no other needs a back-reference
        self._driver.put_content(path, b"")

    def put_all(self, name: RepositoryName, targets: Iterable[tuple[Tag, Digest | None]]) -> None:
        """Write the back-references of all tags of a repository, given each tag and its target."""
        for tag, digest in self._listings.pace(targets):
            if digest is not None:
                self.put(name, tag, digest, are_complete=True)
        self._driver.put_content(layout.back_references_complete(name), b"")
