"""
Changes of tags: after the checks whether a tag may be set, and by compare-and-swap if they depend on its target.

A tag is prepared before its manifest is linked to the repository: it is checked, and its back-reference is written. It
is set (:meth:`TagChanges.apply`) after that link, so it never points at a missing manifest.

Two requests may set the same new tag at the same time; an immutable tag must keep the target of the first. So a request
reserves such a tag by writing a mark in place of the missing link, then checks the tag in the sources, and replaces the
mark by the link on the condition that it is still there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from docker_registry.concurrency import run_concurrently
from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import (
    ConditionUnsupported,
    ManifestUnknown,
    PathNotFound,
    StorageUnavailable,
    TagChanged,
    TagImmutable,
)
from docker_registry.registry import layout, store_removal, tag_links
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import TagSources
from docker_registry.registry.tag_links import TagBackReferences, TagLinks

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
        version: of the link to replace; None to set the tag regardless of its target.
        previous: the current target; None if there is none, or only one in a source without a manifest.
        is_previous_known: False if the change does not depend on the target, and *previous* is not known.
        condition: must hold for the current target.
    """

    name: RepositoryName
    tag: Tag
    digest: Digest
    version: str | None = None
    previous: Digest | None = None
    is_previous_known: bool = False
    condition: Condition | None = None


#: Age after which a reservation is considered abandoned by a process that died.
_ABANDONED_SECONDS: Final = 60.0


class TagChanges:
    """
    Sets the tags of the registry.

    Attributes:
        reservations: of immutable tags that do not exist yet.
    """

    def __init__(
        self,
        driver: StorageDriver,
        links: TagLinks,
        back_references: TagBackReferences,
        sources: TagSources,
        immutable: ImmutableTags,
    ) -> None:
        """
        Args:
            links: the tags of the store.
            sources: have further tags.
            immutable: the patterns of immutable tags.
        """
        self._driver = driver
        self._links = links
        self._back_references = back_references
        self._sources = sources
        self._immutable = immutable
        self.reservations = TagReservations(driver)

    def check(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        principal: Principal = ANONYMOUS,
    ) -> None:
        """Raise the error that :meth:`prepare` would raise now, without changing anything."""
        if self.depends_on_target(name, tag, condition):
            self._checked(name, tag, digest, condition, principal)

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
        needs_previous: bool = True,
    ) -> TagChange:
        """
        Begin to set a tag: check that it may be set, and write its back-reference.

        Args:
            condition: must hold for the current target of the tag; checked atomically with the change.
            principal: on whose behalf; content that it may not see is not used to find the target of a source's tag.
            is_new: the manifest was just created, so its back-reference is written without looking for it.
            has_back_references: the back-references of the repository are known to be complete.
            needs_previous: whether the caller needs the current target. Otherwise a tag that is not immutable is not
                read without a condition: the last of several concurrent requests sets it.

        Raises:
            TagChanged: the condition does not hold.
            TagImmutable: the tag is immutable and points at another manifest.
            ConditionUnsupported: the driver does not support conditional writes.
        """
        check = partial(self._checked, name, tag, digest, condition, principal)
        refer = partial(self._back_references.put, name, tag, digest, is_new=is_new, are_complete=has_back_references)
        if not needs_previous and not self.depends_on_target(name, tag, condition):
            refer()
            return TagChange(name, tag, digest)
        if self._driver.capabilities.pages and is_new:  # each is one request; a back-reference too many is ignored
            change, _ = run_concurrently(check, refer)
        else:
            change = check()
            refer()
        return cast(TagChange, change)

    def apply(self, change: TagChange, *, principal: Principal = ANONYMOUS) -> None:
        """
        Set a prepared tag; its manifest must be linked to the repository by now.

        Raises:
            PreconditionFailed: another request changed the tag concurrently. Inside a batch
                (:meth:`StorageDriver.batch`) it may be raised at the end of the block only.
            TagChanged: the condition does not hold any more.
            TagImmutable: the tag is immutable, and another request is creating it or has created it.
            StorageUnavailable: another request is creating the tag.
        """
        version = change.version
        if version == ABSENT and (
            self._immutable.covers(change.name.value, change.tag.value)
            or (change.condition is not None and self._sources)
        ):
            version = self._reserve(change, principal)
        self._links.put(change.name, change.tag, change.digest, version)

    def target(self, name: RepositoryName, tag: Tag, principal: Principal) -> Digest | None:
        """
        Return what a tag points at, for conditions; None if it does not exist.

        A tag of a source whose target has no manifest points at content that no manifest has.
        """
        current = self._links.find(name, tag) or self._source_target(name, tag, principal)
        return _NO_MANIFEST if current is None and self._sources.exists(name, tag) else current

    def files(self, name: RepositoryName, tag: Tag, digest: Digest) -> tuple[str, str]:
        """Return the paths that :meth:`prepare` and :meth:`apply` write when a tag is set to a manifest."""
        return layout.tag_back_reference(name, digest, tag), layout.tag_link(name, tag)

    def _reserve(self, change: TagChange, principal: Principal) -> str:
        """
        Reserve a missing tag and check it again: a source may have got the tag since the first check.

        Raises:
            TagChanged, TagImmutable, StorageUnavailable: as for :meth:`apply`.
        """
        name, tag = change.name, change.tag
        is_immutable = self._immutable.covers(name.value, tag.value)
        try:
            version = self.reservations.reserve(name, tag)
        except TagImmutable:
            if is_immutable:
                raise
            raise StorageUnavailable("Another request is creating the tag.", name=str(name), tag=str(tag)) from None
        try:
            if is_immutable and self._source_target(name, tag, principal) not in (None, change.digest):
                raise TagImmutable(name=str(name), tag=str(tag))
            if change.condition is not None and not change.condition(self.target(name, tag, principal)):
                raise TagChanged(name=str(name), tag=str(tag))
        except BaseException:
            self.reservations.release(name, tag, version)
            raise
        return version

    def depends_on_target(self, name: RepositoryName, tag: Tag, condition: Condition | None) -> bool:
        """Return whether the current target decides if a tag may be set."""
        return condition is not None or self._immutable.covers(name.value, tag.value)

    def _checked(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None,
        principal: Principal,
    ) -> TagChange:
        """Check *condition* and immutability, and return the change as it may be made now."""
        immutable = self._immutable.covers(name.value, tag.value)
        if condition is not None and not self._driver.capabilities.if_match:
            raise ConditionUnsupported
        current, version = self._links.find_versioned(name, tag)
        is_known = current is not None  # the link may be a mere reservation, while a source has the tag
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
            found = self._sources.resolve(name, tag, principal)
        except ManifestUnknown:
            self._immutable.check_mutable(name, tag)
            return None
        return None if found is None else found.value


class TagReservations:
    """
    Reserves tags in one store.

    Without conditional writes, several requests may reserve the same tag.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    @contextmanager
    def held(self, name: RepositoryName | None, tag: Tag) -> Iterator[None]:
        """
        Reserve a tag, so that no other request can write it during the block.

        Args:
            name: the repository in API V2; None if V2 has no such repository, in which case nothing is reserved.
                Nothing is reserved either if the driver does not support conditional writes.

        Raises:
            TagImmutable: the tag exists or another request reserves it, or the reservation was lost during the block.
        """
        if name is None or not self._driver.capabilities.if_match:
            yield
            return
        version = self.reserve(name, tag)
        try:
            yield
        except BaseException:
            self.release(name, tag, version)
            raise
        if not self.release(name, tag, version):
            raise TagImmutable(name=str(name), tag=str(tag))

    def reserve(self, name: RepositoryName, tag: Tag) -> str:
        """
        Write a mark in place of the missing link and return its version.

        An abandoned mark is replaced. A request that was only slow then fails on its next conditional operation,
        because the version has changed.

        Raises:
            TagImmutable: the tag exists, or another request reserves it.
        """
        path, mark = layout.tag_link(name, tag), store_removal.new_mark()
        try:
            stored = self._driver.get_versioned(path)
            is_mark = not store_removal.unmarked(stored.content)
            if not is_mark or self._driver.stat(path).modified > time.time() - _ABANDONED_SECONDS:
                raise TagImmutable(name=str(name), tag=str(tag))
            version = stored.version
        except PathNotFound:
            version = ABSENT
        is_written = tag_links.put_version(self._driver, path, mark, version)
        reserved = self._driver.find_versioned(path) if is_written else None
        if reserved is None or reserved.content != mark:
            raise TagImmutable(name=str(name), tag=str(tag))
        return reserved.version

    def release(self, name: RepositoryName, tag: Tag, version: str) -> bool:
        """Remove the mark of :meth:`reserve`; return False if another request has replaced it."""
        return store_removal.remove_version(self._driver, layout.tag_link(name, tag), version)
