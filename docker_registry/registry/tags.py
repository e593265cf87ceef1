"""
Tags: names that point at the manifests of a repository.

The tags of the store and those of sources form one set, in which the store has precedence;
:mod:`docker_registry.registry.bridge.v1_sources` describes how it is merged with the tags of API V1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from docker_registry.concurrency import run_concurrently
from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import (
    ConditionUnsupported,
    ManifestUnknown,
    PreconditionFailed,
    StorageUnavailable,
    TagChanged,
    TagImmutable,
)
from docker_registry.registry import events
from docker_registry.registry.actor import ANONYMOUS, ANONYMOUS_DELETE, ANONYMOUS_PUSH, Actor, Principal
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.listing_cache import ListingCache, Page, cut
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import TagSource, TagSources
from docker_registry.registry.tag_links import TagBackReferences, TagLinks
from docker_registry.registry.tag_locks import TagLocks
from docker_registry.registry.tag_reservations import TagReservations

#: Returns whether a tag may be changed, given the digest that it points at, or None if the tag does not exist.
Condition = Callable[[Digest | None], bool]

#: Stands for the target of a tag that has no manifest.
_NO_MANIFEST: Final = Digest.of(b"")

#: Raises an error if a tag may not be moved, given the tag, the digest that it points at (None if the tag does not
#: exist), and the new one.
TagGuard = Callable[[Tag, Digest | None, Digest], None]


@dataclass(frozen=True, slots=True)
class TagChange:
    """
    A tag that is about to be set.

    Attributes:
        digest: the new target.
        version: of the link to replace.
        previous: the current target; None if there is none, or only one in a source without a manifest.
        is_previous_known: False if only a source may have the tag, and the change does not depend on it.
        condition: must hold for the current target.
    """

    name: RepositoryName
    tag: Tag
    digest: Digest
    version: str
    previous: Digest | None
    is_previous_known: bool
    condition: Condition | None = None


class Tags:
    """
    All tags of the registry.

    Attributes:
        links: the tags of the store.
        sources: further tags.
        reservations: of immutable tags that do not exist yet.
        locks: make checking and moving a tag atomic where the store has no conditional writes.
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
            immutable: the patterns of immutable tags.
            sources: have further tags, such as those of API V1.
        """
        self._driver = driver
        self._listings = listings
        self._immutable = immutable
        self.links = TagLinks(driver, listings)
        self.sources = TagSources(sources)
        self.reservations = TagReservations(driver)
        self.locks = TagLocks()
        self._back_references = TagBackReferences(driver, listings)

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
        Set a tag as :meth:`point` does, and send the event.

        Returns:
            The previous target; None if there was none, or only one in a source without a manifest.

        Raises:
            TagChanged: *condition* does not hold, or another request changed the tag after it was checked.
        """
        while True:
            try:
                previous = self.point(name, tag, digest, condition, principal=actor.principal)
            except PreconditionFailed:
                if condition is not None:
                    raise TagChanged(name=str(name), tag=str(tag)) from None
                continue
            self.announce(name, tag, actor)
            return previous

    def announce(self, name: RepositoryName, tag: Tag, actor: Actor) -> None:
        """Send the event that a tag was set."""
        events.announce(events.tag_created, self._driver, actor, name=name, tag=tag)

    def point(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        principal: Principal = ANONYMOUS,
    ) -> Digest | None:
        """
        Set a tag by compare-and-swap and write its back-reference at the manifest; no event is sent.

        Args:
            condition: set the tag only if this holds for its current target; checked atomically with the change.
            principal: as for :meth:`get`, to find the current target of a tag of a source.

        Returns:
            The previous target; None if there was none, or only one in a source without a manifest.

        Raises:
            PreconditionFailed: another request changed the tag concurrently. Inside a batch
                (:meth:`StorageDriver.batch`) it may be raised at the end of the block only.
            TagChanged: the condition does not hold.
            TagImmutable: the tag is immutable and points at another manifest.
            ConditionUnsupported: the driver does not support conditional writes.
        """
        change = self.prepare(name, tag, digest, condition, principal=principal)
        previous = change.previous if change.is_previous_known else self.sources.find(name, tag)
        self.apply(change, principal=principal)
        return previous

    def files(self, name: RepositoryName, tag: Tag, digest: Digest) -> tuple[str, str]:
        """Return the paths that :meth:`prepare` and :meth:`apply` write when a tag is set to a manifest."""
        return self._back_references.path(name, tag, digest), self.links.path(name, tag)

    def prepare(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        principal: Principal = ANONYMOUS,
        is_new: bool = False,
        has_back_references: bool = False,
    ) -> TagChange:
        """
        Begin to set a tag: check that it may be set, and write its back-reference.

        Args:
            condition, principal: as for :meth:`point`.
            is_new: the manifest was just created, so its back-reference is written without looking for it.
            has_back_references: the back-references of the repository are known to be complete.

        Raises:
            TagChanged, TagImmutable, ConditionUnsupported: as for :meth:`point`.
        """
        check = partial(self._checked, name, tag, digest, condition, principal)
        refer = partial(self._back_references.put, name, tag, digest, is_new=is_new, are_complete=has_back_references)
        if self._driver.capabilities.pages and is_new:  # each is one request; a back-reference too many is ignored
            change, _ = run_concurrently(check, refer)
        else:
            change = check()
            refer()
        return cast(TagChange, change)

    def apply(self, change: TagChange, *, principal: Principal = ANONYMOUS) -> None:
        """
        Set a prepared tag by compare-and-swap; its manifest must be linked to the repository by now.

        Raises:
            PreconditionFailed, TagImmutable: as for :meth:`point`.
        """
        name, tag, version = change.name, change.tag, change.version
        if version == ABSENT and self._is_immutable(name, tag):
            version = self.reservations.reserve(name, tag)
            if self._source_target(name, tag, principal) not in (None, change.digest):
                # a source got the tag before this reservation
                self.reservations.release(name, tag, version)
                raise TagImmutable(name=str(name), tag=str(tag))
        elif version == ABSENT and change.condition is not None and self.sources:
            version = self._reserve(name, tag, change.condition, principal)
        self.links.put(name, tag, change.digest, version)

    def _reserve(self, name: RepositoryName, tag: Tag, condition: Condition, principal: Principal) -> str:
        """
        Reserve a missing tag and check the condition again: a source may have got the tag since the first check.

        Raises:
            TagChanged: the condition does not hold.
            StorageUnavailable: another request is creating the tag.
        """
        try:
            version = self.reservations.reserve(name, tag)
        except TagImmutable:
            raise StorageUnavailable("Another request is creating the tag.", name=str(name), tag=str(tag)) from None
        try:
            if not condition(self.target(name, tag, principal)):
                raise TagChanged(name=str(name), tag=str(tag))
        except BaseException:
            self.reservations.release(name, tag, version)
            raise
        return version

    def target(self, name: RepositoryName, tag: Tag, principal: Principal) -> Digest | None:
        """
        Return what a tag points at, for conditions; None if it does not exist.

        A tag of a source whose target has no manifest points at content that no manifest has.
        """
        current = self.links.find(name, tag) or self._source_target(name, tag, principal)
        return _NO_MANIFEST if current is None and self.sources.exists(name, tag) else current

    def check(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        principal: Principal = ANONYMOUS,
    ) -> None:
        """Raise the error that :meth:`point` would raise now, without changing anything."""
        if condition is not None or self._is_immutable(name, tag):
            self._checked(name, tag, digest, condition, principal)

    def check_mutable(self, name: RepositoryName, tag: Tag) -> None:
        """
        Check that a tag may be changed and deleted.

        Raises:
            TagImmutable: the tag is immutable.
        """
        if self._is_immutable(name, tag):
            raise TagImmutable(name=str(name), tag=str(tag))

    def delete(self, name: RepositoryName, tag: Tag, *, actor: Actor = ANONYMOUS_DELETE) -> Digest | None:
        """
        Delete a tag, but not its manifest.

        Returns:
            The digest that the tag pointed at; None if only a source had it.

        Raises:
            ManifestUnknown: the tag does not exist.
            TagImmutable: the tag is immutable.
        """
        self.check_mutable(name, tag)
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
            self.check_mutable(name, tag)
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
        self.check_mutable(name, tag)
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
        if self._is_immutable(name, Tag(tag)):  # the file may be a mere reservation
            return self.links.find(name, Tag(tag)) is not None or self.sources.exists(name, Tag(tag))
        return self.links.exists(name, Tag(tag)) or self.sources.exists(name, Tag(tag))

    def _is_immutable(self, name: RepositoryName, tag: Tag) -> bool:
        return self._immutable.covers(name.value, tag.value)

    def _checked(
        self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None, principal: Principal
    ) -> TagChange:
        """Check *condition* and immutability, and return the change as it may be made now."""
        immutable = self._is_immutable(name, tag)
        if condition is not None and not self._driver.capabilities.if_match:
            raise ConditionUnsupported
        current, version = self.links.find_versioned(name, tag)
        is_known = version != ABSENT
        if not is_known and (immutable or condition is not None):
            current, is_known = self._source_target(name, tag, principal), True
        if immutable and current not in (None, digest):
            raise TagImmutable(name=str(name), tag=str(tag))
        is_unknown = condition is not None and current is None
        if condition is not None and not condition(self.target(name, tag, principal) if is_unknown else current):
            raise TagChanged(name=str(name), tag=str(tag))
        return TagChange(name, tag, digest, version, current, is_known, condition)

    def _source_target(self, name: RepositoryName, tag: Tag, principal: Principal) -> Digest | None:
        """
        Return the target of a tag of a source; None if it does not exist or has no manifest.

        Raises:
            TagImmutable: the tag has no manifest and is immutable.
        """
        try:
            found = self.sources.resolve(name, tag, principal)
        except ManifestUnknown:
            self.check_mutable(name, tag)
            return None
        return None if found is None else found.value
