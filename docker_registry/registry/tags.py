"""
Tags: names that point at the manifests of a repository.

The tags of the store and those of sources form one set, in which the store has precedence;
:mod:`docker_registry.registry.bridge.v1_sources` describes how it is merged with the tags of API V1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import (
    ConditionUnsupported,
    DigestInvalid,
    ManifestUnknown,
    PathNotFound,
    PreconditionFailed,
    TagChanged,
    TagImmutable,
)
from docker_registry.registry import conditional_removal, events, layout
from docker_registry.registry.actor import ANONYMOUS_DELETE, ANONYMOUS_PUSH, Actor
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.listing_cache import ListingCache, Page, cut
from docker_registry.registry.names import Digest, RepositoryName, Tag, is_tag
from docker_registry.registry.sources import Found, TagSource
from docker_registry.registry.tag_back_references import TagBackReferences

#: Returns whether a tag may be changed, given the digest that it points at, or None if the tag does not exist.
Condition = Callable[[Digest | None], bool]

#: Raises an error if a tag may not be moved, given the tag, the digest that it points at (None if the tag does not
#: exist), and the new one.
TagGuard = Callable[[Tag, Digest | None, Digest], None]

#: Age after which the reservation of an immutable tag is considered abandoned by a process that died.
_RESERVED_SECONDS: Final = 60.0


class Tags:
    """All tags of the registry."""

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
        self._sources = sources
        self._notes = TagBackReferences(driver, listings)

    def get(self, name: RepositoryName, tag: Tag) -> Digest:
        """
        Return the digest of the manifest that a tag points at.

        For a tag that only a source has, a manifest is generated if necessary.

        Raises:
            ManifestUnknown: the tag does not exist.
        """
        return self.find_link(name, tag) or self.get_elsewhere(name, tag).value

    def get_elsewhere(self, name: RepositoryName, tag: Tag) -> Found[Digest]:
        """
        Return the target of a tag that the store does not have.

        Raises:
            ManifestUnknown: no source has the tag.
        """
        for source in self._sources:
            found = source.get(name, tag)
            if found is not None:
                return found
        raise ManifestUnknown(name=str(name), tag=str(tag))

    def find_link(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag in the store; None if the tag does not exist or only a source has it."""
        link = self._driver.find(layout.tag_link(name, tag))
        return None if link is None else _parse(link)

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag, or None if it is not known without generating a manifest."""
        return self.find_link(name, tag) or self._find_elsewhere(name, tag)

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags in ASCII order, with those of sources; deleted tags may be included shortly."""
        lists = [self.link_names(name), *(source.names(name) for source in self._sources)]
        found = [names for names in lists if names]
        return found[0] if len(found) == 1 else sorted(set().union(*found))

    def link_names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of the tags in the store in ASCII order; recently deleted tags may be included."""
        if self._driver.capabilities.pages:
            return self._listings.names(layout.tags(name), layout.read_tag_link, deep=True)
        return self._listings.names(layout.tags(name), _read)

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
                previous = self.point(name, tag, digest, condition)
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
        is_new: bool = False,
        are_noted: bool = False,
    ) -> Digest | None:
        """
        Set a tag by compare-and-swap and write its back-reference at the manifest; no event is sent.

        Args:
            condition: set the tag only if this holds for its current target; checked atomically with the change.
            is_new: the manifest was just created, so there are no back-references to look up.
            are_noted: the back-references of the repository are known to be complete.

        Returns:
            The previous target; None if there was none, or only one in a source without a manifest.

        Raises:
            PreconditionFailed: another request changed the tag concurrently. Inside a batch
                (:meth:`StorageDriver.batch`) it may be raised at the end of the block only.
            TagChanged: the condition does not hold.
            TagImmutable: the tag is immutable and points at another manifest.
            ConditionUnsupported: the driver does not support conditional writes.
        """
        previous, version = self._checked(name, tag, digest, condition)
        if version == ABSENT and self._is_immutable(name, tag):
            version = self._reserve(name, tag)
            if self._target_elsewhere(name, tag) not in (None, digest):  # a source got the tag before this reservation
                self._release(name, tag, version)
                raise TagImmutable(name=str(name), tag=str(tag))
        self._notes.put(name, tag, digest, is_new=is_new, are_complete=are_noted)
        link, content = layout.tag_link(name, tag), str(digest).encode()
        if self._driver.capabilities.if_match:
            self._driver.replace_content(link, content, version)
        else:
            self._driver.put_content(link, content)
        return previous

    def check(self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None = None) -> None:
        """Raise the error that :meth:`point` would raise now, without changing anything."""
        if condition is not None or self._is_immutable(name, tag):
            self._checked(name, tag, digest, condition)

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
        was_elsewhere = self._remove_elsewhere(name, tag)
        link = self._take_link(name, tag)
        if link is None and not was_elsewhere:
            raise ManifestUnknown(name=str(name), tag=str(tag))
        events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
        return None if link is None else _parse(link)

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
            holds: delete the tag only while this returns true; see :func:`.conditional_removal.take_while`.

        Returns:
            Whether the tag was deleted.

        Raises:
            TagImmutable: the tag points at the manifest and is immutable.
        """

        def may_go() -> bool:
            return holds is None or holds()

        while (link := self.find_link(name, tag)) == digest:
            self.check_mutable(name, tag)
            # Remove a source's tag of the same name first: it would become visible again. A later one is a new push.
            self._remove_elsewhere(name, tag, lambda: may_go() and self.find_link(name, tag) == digest)
            taken = self._take_link(name, tag, digest, lambda: may_go() and not self._exists_elsewhere(name, tag))
            if taken is not None:
                events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
                return True
            if not may_go():
                return False
        if link is not None or tag not in self._pointing_elsewhere(name, digest, (tag,)):
            return False
        self.check_mutable(name, tag)
        deleted = self._remove_elsewhere(name, tag)
        if deleted:
            events.announce(events.tag_deleted, self._driver, actor, name=name, tag=tag)
        return deleted

    def remove_link(self, name: RepositoryName, tag: Tag) -> bool:
        """Remove a tag from the store, but not from sources; return False if there was none."""
        return self._take_link(name, tag) is not None

    def restore(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """
        Restore a tag whose manifest was deleted during the push that set the tag.

        The tag is left alone if another push has changed it.
        """
        path, content = layout.tag_link(name, tag), str(digest).encode()
        while True:
            stored = self._driver.find_versioned(path)
            if stored is not None and _parse(stored.content) not in (None, digest):
                return
            version = ABSENT if stored is None else stored.version
            condition = version if self._driver.capabilities.if_match else None
            try:
                self._driver.put_content(path, content, if_match=condition)
            except PreconditionFailed:
                continue
            return

    def restore_missing(self, name: RepositoryName, tags: Sequence[Tag], digest: Digest) -> bool:
        """
        Restore the tags of a push that were deleted during it, unless all of them were deleted.

        Returns:
            Whether any tag was restored.
        """
        missing = [tag for tag in tags if self.find_link(name, tag) is None]
        if len(missing) == len(tags):
            return False
        for tag in missing:
            self.restore(name, tag, digest)
        return bool(missing)

    def _take_link(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest | None = None,
        holds: Callable[[], bool] | None = None,
    ) -> bytes | None:
        """
        Remove the link of a tag and the history that distribution keeps of it.

        Args:
            digest: remove the link only if it points at this digest.
            holds: remove the link only while this returns true.

        Returns:
            The content of the link; None if it was not removed.
        """
        path = layout.tag_link(name, tag)

        def is_expected(link: bytes) -> bool:
            return digest is None or _parse(link) == digest

        if holds is None:
            link = conditional_removal.take_if(self._driver, path, is_expected)
        else:
            link = conditional_removal.take_while(self._driver, path, holds, is_expected)
        if link is not None:
            # The directory itself is kept: a concurrent push may use it.
            self._driver.discard(layout.tag_history(name, tag))
        return link

    @contextmanager
    def held(self, name: RepositoryName | None, tag: Tag) -> Iterator[None]:
        """
        Reserve an immutable tag that does not exist yet, so that no other request can write it during the block.

        Args:
            name: the repository in API V2; None if V2 has no such repository, in which case nothing is reserved.

        Raises:
            TagImmutable: the tag exists or another request reserves it, or the reservation was lost during the block.
        """
        if name is None or not self._driver.capabilities.if_match:
            yield
            return
        version = self._reserve(name, tag)
        try:
            yield
        except BaseException:
            self._release(name, tag, version)
            raise
        if not self._release(name, tag, version):
            raise TagImmutable(name=str(name), tag=str(tag))

    def _reserve(self, name: RepositoryName, tag: Tag) -> str:
        """
        Write a mark in place of the missing link and return its version.

        A mark older than _RESERVED_SECONDS is considered abandoned and replaced. A request that was only slow then
        fails on its next conditional operation, because the version has changed.

        Raises:
            TagImmutable: the tag exists, or another request reserves it.
        """
        path, mark = layout.tag_link(name, tag), conditional_removal.new_mark()
        try:
            stored = self._driver.get_versioned(path)
            is_left = not conditional_removal.unmarked(stored.content)
            if not is_left or self._driver.stat(path).modified > time.time() - _RESERVED_SECONDS:
                raise TagImmutable(name=str(name), tag=str(tag))
            version = stored.version
        except PathNotFound:
            version = ABSENT
        try:
            self._driver.put_content(path, mark, if_match=version)
            stored = self._driver.get_versioned(path)
        except (PreconditionFailed, PathNotFound):
            raise TagImmutable(name=str(name), tag=str(tag)) from None
        if stored.content != mark:
            raise TagImmutable(name=str(name), tag=str(tag))
        return stored.version

    def _release(self, name: RepositoryName, tag: Tag, version: str) -> bool:
        """Remove the mark of :meth:`_reserve`; return False if another request has replaced it."""
        try:
            self._driver.remove_if_match(layout.tag_link(name, tag), version)
        except PreconditionFailed:
            return False
        return True

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
        if not self._notes.are_complete(name):
            self.note_all(name)
        names = self.link_names(name)
        named = {*self._notes.tags(name, digest), *self._notes.tags_of_distribution(name, digest, names)}
        found = [tag for tag in self._listings.pace(map(Tag, sorted(named))) if self.find_link(name, tag) == digest]
        elsewhere = self._pointing_elsewhere(name, digest)
        return (*found, *(tag for tag in elsewhere if self.find_link(name, tag) is None))

    def noted_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """Return the tags with a back-reference at a manifest; some may point elsewhere by now."""
        return tuple(map(Tag, self._notes.tags(name, digest)))

    def note_all(self, name: RepositoryName) -> None:
        """Write the back-references of all tags; needed if software that does not write them has set tags."""
        targets = ((tag, self.find_link(name, tag)) for tag in map(Tag, self.link_names(name)))
        self._notes.put_all(name, targets)

    def _exists(self, name: RepositoryName, tag: str) -> bool:
        """Return whether a listed tag exists; drivers that walk by pages list links, which need no check."""
        if self._driver.capabilities.pages:
            return True
        if self._is_immutable(name, Tag(tag)):  # the file may be a mere reservation
            return self.find_link(name, Tag(tag)) is not None or self._exists_elsewhere(name, Tag(tag))
        return self._driver.exists(layout.tag_link(name, Tag(tag))) or self._exists_elsewhere(name, Tag(tag))

    def _is_immutable(self, name: RepositoryName, tag: Tag) -> bool:
        return self._immutable.covers(name.value, tag.value)

    def _checked(
        self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None
    ) -> tuple[Digest | None, str]:
        """Check *condition* and immutability; return the target of a tag and the version of its link."""
        immutable = self._is_immutable(name, tag)
        if condition is not None and not self._driver.capabilities.if_match:
            raise ConditionUnsupported
        stored = self._driver.find_versioned(layout.tag_link(name, tag))
        if stored is None:
            is_decisive = immutable or condition is not None
            current = self._target_elsewhere(name, tag) if is_decisive else self._find_elsewhere(name, tag)
            version = ABSENT
        else:
            current, version = _parse(stored.content), stored.version
        if immutable and current not in (None, digest):
            raise TagImmutable(name=str(name), tag=str(tag))
        if condition is not None and not condition(current):
            raise TagChanged(name=str(name), tag=str(tag))
        return current, version

    # ------------------------------------------------------------------------------------------------ sources

    def _find_elsewhere(self, name: RepositoryName, tag: Tag) -> Digest | None:
        for source in self._sources:
            digest = source.find(name, tag)
            if digest is not None:
                return digest
        return None

    def _exists_elsewhere(self, name: RepositoryName, tag: Tag) -> bool:
        return any(source.exists(name, tag) for source in self._sources)

    def _pointing_elsewhere(
        self, name: RepositoryName, digest: Digest, tags: Sequence[Tag] | None = None
    ) -> Iterator[Tag]:
        return chain.from_iterable(source.pointing_at(name, digest, tags) for source in self._sources)

    def _remove_elsewhere(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        removed = [source.remove(name, tag, holds) for source in self._sources]
        return any(removed)

    def _target_elsewhere(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """
        Return the target of a tag of a source; None if it does not exist or has no manifest.

        Raises:
            TagImmutable: the tag has no manifest and is immutable.
        """
        for source in self._sources:
            try:
                found = source.get(name, tag)
            except ManifestUnknown:
                if self._is_immutable(name, tag):
                    raise TagImmutable(name=str(name), tag=str(tag)) from None
                return None
            if found is not None:
                return found.value
        return None


def _parse(link: bytes) -> Digest | None:
    try:
        return Digest.parse(conditional_removal.unmarked(link).decode("ascii", "replace"))
    except DigestInvalid:  # damaged
        return None


def _read(file_name: str) -> str | None:
    return file_name if is_tag(file_name) else None
