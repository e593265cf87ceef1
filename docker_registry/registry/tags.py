"""
Tags: names that point at the manifests of a repository.

The tags of the store and those of sources form one set, in which the store has precedence;
:mod:`docker_registry.registry.bridge.v1_sources` describes how it is merged with the tags of API V1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import LinkBroken, ManifestUnknown, PreconditionFailed, TagChanged
from docker_registry.registry import events
from docker_registry.registry.actor import ANONYMOUS, ANONYMOUS_DELETE, ANONYMOUS_PUSH, Actor, Principal
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.listing_cache import ListingCache, Page, cut
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import TagSource, TagSources
from docker_registry.registry.tag_changes import Condition, TagChanges
from docker_registry.registry.tag_links import TagBackReferences, TagLinks
from docker_registry.registry.tag_locks import TagLocks


class Tags:
    """
    All tags of the registry.

    Attributes:
        links: the tags of the store.
        sources: further tags.
        changes: set the tags.
        immutable: the patterns of immutable tags.
        locks: make checking and setting a tag atomic where the store has no conditional writes.
    """

    def __init__(
        self,
        driver: StorageDriver,
        listings: ListingCache,
        immutable: ImmutableTags,
        sources: Sequence[TagSource] = (),
    ) -> None:
        """
        Args:
            sources: have further tags, such as those of API V1.
        """
        self._driver = driver
        self._listings = listings
        self.immutable = immutable
        self.links = TagLinks(driver, listings)
        self.sources = TagSources(sources)
        self._back_references = TagBackReferences(driver, listings)
        self.changes = TagChanges(driver, self.links, self._back_references, self.sources, immutable)
        self.locks = TagLocks()

    def get(self, name: RepositoryName, tag: Tag, *, principal: Principal = ANONYMOUS) -> Digest:
        """
        Return the digest of the manifest that a tag points at.

        For a tag that only a source has, a manifest is generated if necessary.

        Args:
            principal: on whose behalf; content that it may not see is not used to generate a manifest.

        Raises:
            ManifestUnknown: the tag does not exist.
        """
        return self.links.find(name, tag) or self.sources.get(name, tag, principal).value

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag, or None if it is not known without generating a manifest."""
        return self.links.find(name, tag) or self.sources.find(name, tag)

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags in ASCII order, with those of sources; deleted tags may be included shortly."""
        lists = [self.links.names(name), *self.sources.names(name)]
        found = [names for names in lists if names]
        return found[0] if len(found) == 1 else sorted(set().union(*found))

    def put(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Digest | None:
        """
        Set a tag by compare-and-swap, and send the event.

        Args:
            condition: set the tag only if this holds for its current target; checked atomically with the change.

        Returns:
            The previous target; None if there was none, or only one in a source without a manifest.

        Raises:
            TagChanged: *condition* does not hold, or another request changed the tag after it was checked.
            TagImmutable: the tag is immutable and points at another manifest.
            ConditionUnsupported: the driver does not support conditional writes.
        """
        while True:
            try:
                change = self.changes.prepare(name, tag, digest, condition, principal=actor.principal)
                previous = change.previous if change.is_previous_known else self.sources.find(name, tag)
                self.changes.apply(change, principal=actor.principal)
            except PreconditionFailed:
                if condition is not None:
                    raise TagChanged(name=str(name), tag=str(tag)) from None
                continue
            events.announce(events.tag_created, self._driver, actor, name=name, tag=tag)
            return previous

    def delete(self, name: RepositoryName, tag: Tag, *, actor: Actor = ANONYMOUS_DELETE) -> Digest | None:
        """
        Delete a tag, but not its manifest.

        Returns:
            The digest that the tag pointed at; None if only a source had it.

        Raises:
            ManifestUnknown: the tag does not exist.
            TagImmutable: the tag is immutable.
        """
        self.immutable.check_mutable(name, tag)
        had_source = self.sources.remove(name, tag)
        had_link, target = self.links.take(name, tag)
        if not had_link and not had_source:
            raise ManifestUnknown(name=str(name), tag=str(tag))
        events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
        return target

    def delete_if(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        holds: Callable[[], bool] | None = None,
        *,
        actor: Actor = ANONYMOUS_DELETE,
    ) -> bool:
        """
        Delete a tag if it points at a given manifest.

        Args:
            holds: delete the tag only while this returns true; see :func:`.store_removal.take_while`.

        Returns:
            Whether the tag was deleted.

        Raises:
            TagImmutable: the tag points at the manifest and is immutable.
        """

        def may_go() -> bool:
            return holds is None or holds()

        while (link := self.links.find(name, tag)) == digest:
            self.immutable.check_mutable(name, tag)
            # Remove a source's tag of the same name first: it would become visible again. A later one is a new push.
            self.sources.remove(name, tag, lambda: may_go() and self.links.find(name, tag) == digest)
            deleted, _ = self.links.take(name, tag, digest, lambda: may_go() and not self.sources.exists(name, tag))
            if deleted:
                events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
                return True
            if not may_go():
                return False
        if link is not None or tag not in self.sources.pointing_at(name, digest, (tag,)):
            return False
        self.immutable.check_mutable(name, tag)
        deleted = self.sources.remove(name, tag)
        if deleted:
            events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
        return deleted

    def list(self, name: RepositoryName) -> tuple[Tag, ...]:
        """Return all tags of a repository in ASCII order; empty if the repository does not exist."""
        return tuple(Tag(tag) for tag in self._listings.pace(self.names(name)) if self._exists(name, tag))

    def page(
        self, name: RepositoryName, count: int, last: str = "", may_list: Callable[[str], bool] | None = None
    ) -> Page:
        """
        Return at most *count* tags of a repository after *last*, in ASCII order.

        Args:
            may_list: leave out the tags for which this is false.
        """

        def is_listed(tag: str) -> bool:
            return (may_list is None or may_list(tag)) and self._exists(name, tag)

        return cut(self.names(name), count, last, is_listed, self._listings.pace)

    def pointing_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """
        Return the tags of a repository that point at a manifest.

        Tags written by this registry are found by their back-references; those written by distribution, which writes
        none, by its tag history.
        """
        if not self._back_references.are_complete(name):
            self.write_back_references(name)
        names = self.links.names(name)
        ours, theirs = self._back_references.tags, self._back_references.tags_of_distribution
        candidates = map(Tag, sorted({*ours(name, digest), *theirs(name, digest, names)}))
        found = [tag for tag in self._listings.pace(candidates) if self.links.find(name, tag) == digest]
        further = self.sources.pointing_at(name, digest)
        return (*found, *(tag for tag in further if self.links.find(name, tag) is None))

    def with_back_reference(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """Return the tags with a back-reference at a manifest; some may point elsewhere by now."""
        return tuple(map(Tag, self._back_references.tags(name, digest)))

    def write_back_references(self, name: RepositoryName) -> None:
        """Write the back-references of all tags; needed if software that does not write them has set tags."""
        targets = ((tag, self.links.find(name, tag)) for tag in map(Tag, self.links.names(name)))
        self._back_references.put_all(name, targets)

    def _exists(self, name: RepositoryName, tag: str) -> bool:
        """Return whether a listed tag exists; drivers that walk by pages list links, which need no check."""
        if self._driver.capabilities.pages:
            return True
        try:
            return self.links.exists(name, Tag(tag)) or self.sources.exists(name, Tag(tag))
        except LinkBroken:  # it is out of reach, not deleted
            return True
