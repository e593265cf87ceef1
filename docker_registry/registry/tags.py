"""
Tags: names that a repository gives to its manifests.

A repository's tags are one set, whichever API wrote them; :mod:`docker_registry.registry.bridge.old_tags` says how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from docker_registry.registry.bridge.old_tags import OldTags
from docker_registry.registry.immutability import ImmutableTags
from docker_registry.registry.listings import Listings, Page, cut
from docker_registry.registry.names import Digest, RepositoryName, Tag, is_tag
from docker_registry.registry.tag_notes import TagNotes

#: Tells from what a tag points at, None for nothing, whether it may be changed.
Condition = Callable[[Digest | None], bool]

#: After so long the mark of a request that reserves an immutable tag belongs to a process that died.
_RESERVED_SECONDS: Final = 60.0


class Tags:
    """All tags of the registry."""

    def __init__(self, driver: StorageDriver, listings: Listings, old: OldTags, immutable: ImmutableTags) -> None:
        """
        Args:
            old: what API V1 wrote.
            immutable: tags that never change once they exist.
        """
        self._driver = driver
        self._listings = listings
        self._old = old
        self._immutable = immutable
        self._notes = TagNotes(driver, listings)

    def get(self, name: RepositoryName, tag: Tag) -> Digest:
        """
        Return what a tag points at.

        Raises:
            ManifestUnknown: there is no such tag.
        """
        digest = self.find_link(name, tag) or self._old.get(name, tag)
        if digest is None:
            raise ManifestUnknown(name=str(name), tag=str(tag))
        return digest

    def find_link(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return what a tag points at that API V2 wrote; None when there is none, or only one of V1."""
        try:
            return _parse(self._driver.get_content(layout.tag_link(name, tag)))
        except PathNotFound:
            return None

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return what a tag points at, as far as that is known without making a manifest of an image of API V1."""
        return self.find_link(name, tag) or self._old.find(name, tag)

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names that tags have, or had a moment ago, whichever API wrote them, in ASCII order."""
        links, old = self.link_names(name), self._old.names(name)
        return sorted({*links, *old}) if links and old else links or old

    def link_names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names that tags of API V2 have, or had a moment ago, in ASCII order."""
        if self._driver.walks_by_pages:
            return self._listings.names(layout.tags(name), layout.read_tag_link, deep=True)
        return self._listings.names(layout.tags(name), _read)

    def put(self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None = None) -> None:
        """Let a tag point at a manifest, as :meth:`point` does, and tell that it does."""
        self.point(name, tag, digest, condition)
        self.announce(name, tag)

    def announce(self, name: RepositoryName, tag: Tag) -> None:
        """Tell that a tag was put."""
        events.announce(events.tag_created, self._driver, name=name, tag=tag)

    def point(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None = None,
        *,
        is_new: bool = False,
        are_noted: bool = False,
    ) -> None:
        """
        Let a tag point at a manifest, and note it there; nobody is told.

        Args:
            condition: change it only if this holds for what it points at, at the very moment of the change.
            is_new: the manifest was not there until just now, so that no note can be, and nobody has to look.
            are_noted: all tags of the repository are known to be noted.

        Raises:
            TagChanged: the condition does not hold, or another request has changed the tag meanwhile.
            TagImmutable: it points at another manifest, and may not change.
            ConditionUnsupported: the store cannot tell whether another request changes it meanwhile.
        """
        version = self._agreed_version(name, tag, digest, condition)
        if version == ABSENT and self._is_immutable(name, tag):
            version = self._reserve(name, tag)
            if self._old_target(name, tag) not in (None, digest):  # API V1 wrote it before this reservation
                self._release(name, tag, version)
                raise TagImmutable(name=str(name), tag=str(tag))
        self._notes.put(name, tag, digest, is_new=is_new, are_complete=are_noted)
        try:
            self._driver.put_content(layout.tag_link(name, tag), str(digest).encode(), if_match=version)
        except PreconditionFailed:
            raise TagChanged(name=str(name), tag=str(tag)) from None

    def check(self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None = None) -> None:
        """Raise what :meth:`point` would raise now, and change nothing."""
        self._agreed_version(name, tag, digest, condition)

    def check_mutable(self, name: RepositoryName, tag: Tag) -> None:
        """
        Raises:
            TagImmutable: the tag may be neither changed nor deleted.
        """
        if self._is_immutable(name, tag):
            raise TagImmutable(name=str(name), tag=str(tag))

    def delete(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """
        Delete a tag; its manifest stays.

        Returns:
            What it pointed at; None when only API V1 had written it.

        Raises:
            ManifestUnknown: there is no such tag.
            TagImmutable: it may not be deleted.
        """
        self.check_mutable(name, tag)
        was_old = self._old.remove(name, tag)
        link = self._take_link(name, tag)
        if link is None and not was_old:
            raise ManifestUnknown(name=str(name), tag=str(tag))
        events.announce(events.tag_deleted, self._driver, name=name, tag=tag)
        return None if link is None else _parse(link)

    def delete_if(
        self, name: RepositoryName, tag: Tag, digest: Digest, holds: Callable[[], bool] | None = None
    ) -> bool:
        """
        Delete a tag only if it points at a given manifest.

        Args:
            holds: delete it only while this is true; see :func:`.conditional_removal.take_while`.

        Returns:
            Whether it was deleted.

        Raises:
            TagImmutable: it points at the manifest, and may not be deleted.
        """

        def may_go() -> bool:
            return holds is None or holds()

        while (link := self.find_link(name, tag)) == digest:
            self.check_mutable(name, tag)
            # A tag of API V1 that this one hides would show up again; one that comes back is of a push after this.
            self._old.remove(name, tag, lambda: may_go() and self.find_link(name, tag) == digest)
            taken = self._take_link(name, tag, digest, lambda: may_go() and not self._old.exists(name, tag))
            if taken is not None:
                events.announce(events.tag_deleted, self._driver, name=name, tag=tag)
                return True
            if not may_go():
                return False
        if link is not None or tag not in self._old.naming(name, digest, (tag,)):
            return False
        self.check_mutable(name, tag)
        deleted = self._old.remove(name, tag)
        if deleted:
            events.announce(events.tag_deleted, self._driver, name=name, tag=tag)
        return deleted

    def remove_link(self, name: RepositoryName, tag: Tag) -> bool:
        """Remove a tag as far as API V2 wrote it; False when there was none."""
        return self._take_link(name, tag) is not None

    def restore(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """
        Write a tag anew after its manifest was deleted beside the push that wrote it, unless another push has changed
        the tag meanwhile.
        """
        path, content = layout.tag_link(name, tag), str(digest).encode()
        while True:
            try:
                stored = self._driver.get_versioned(path)
            except PathNotFound:
                version = ABSENT
            else:
                version = stored.version
                if _parse(stored.content) not in (None, digest):
                    return
            try:
                self._driver.put_content(path, content, if_match=version if self._driver.supports_if_match else None)
            except PreconditionFailed:
                continue
            return

    def restore_missing(self, name: RepositoryName, tags: Sequence[Tag], digest: Digest) -> bool:
        """
        Write those of the tags of one push again that were deleted beside it, unless all of them were.

        Returns:
            Whether any was written.
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
        """Remove a tag's link, if it points at *digest* and while *holds*, with what distribution keeps of the tag."""
        path = layout.tag_link(name, tag)

        def is_expected(link: bytes) -> bool:
            return digest is None or _parse(link) == digest

        if holds is None:
            link = conditional_removal.take_if(self._driver, path, is_expected)
        else:
            link = conditional_removal.take_while(self._driver, path, holds, is_expected)
        if link is not None:
            # The folder itself may belong to a push again.
            conditional_removal.remove(self._driver, layout.tag_history(name, tag))
        return link

    @contextmanager
    def held(self, name: RepositoryName | None, tag: Tag) -> Iterator[None]:
        """
        Keep other requests from writing an immutable tag that does not exist yet, for as long as the block runs.

        Args:
            name: None where API V2 has no such repository, and nothing is kept.

        Raises:
            TagImmutable: the tag exists or is just being written, or another request has written it in the end.
        """
        if name is None or not self._driver.supports_if_match:
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
        Write a mark in place of a link that is not there, and return its version.

        The mark of a request that died is replaced after a while; a slow request then finds its own mark gone.
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
        """Remove such a mark; False when another request has replaced it."""
        try:
            self._driver.remove_if_match(layout.tag_link(name, tag), version)
        except PreconditionFailed:
            return False
        return True

    def list(self, name: RepositoryName) -> tuple[Tag, ...]:
        """Return all tags of a repository in ASCII order; none when there is no such repository."""
        return tuple(Tag(tag) for tag in self.names(name) if self._exists(name, tag))

    def page(self, name: RepositoryName, count: int, last: str = "") -> Page:
        """Return *count* tags of a repository at most, those after *last*, in ASCII order."""
        return cut(self.names(name), count, last, lambda tag: self._exists(name, tag), self._listings.pace)

    def pointing_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """
        Return the tags of a repository that point at a manifest.

        Those written here are found by their notes; those written by distribution, which makes none, by its history.
        """
        if not self._notes.are_complete(name):
            self.note_all(name)
        names = self.link_names(name)
        named = {*self._notes.tags(name, digest), *self._notes.tags_of_distribution(name, digest, names)}
        found = [tag for tag in map(Tag, sorted(named)) if self.find_link(name, tag) == digest]
        hidden = [tag for tag in self._old.naming(name, digest) if self.find_link(name, tag) is None]
        return (*found, *hidden)

    def noted_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """Return the tags that point, or pointed, at a manifest and were written here."""
        return tuple(map(Tag, self._notes.tags(name, digest)))

    def note_all(self, name: RepositoryName) -> None:
        """Note every tag at its manifest; for repositories into which others, who make no such notes, have written."""
        targets = ((tag, self.find_link(name, tag)) for tag in map(Tag, self.link_names(name)))
        self._notes.put_all(name, targets)

    def _exists(self, name: RepositoryName, tag: str) -> bool:
        """Tell whether a tag that was listed is there; where its very file was listed, that is known."""
        if self._driver.walks_by_pages:
            return True
        if self._is_immutable(name, Tag(tag)):  # its place may be reserved only
            return self.find_link(name, Tag(tag)) is not None or self._old.exists(name, Tag(tag))
        return self._driver.exists(layout.tag_link(name, Tag(tag))) or self._old.exists(name, Tag(tag))

    def _is_immutable(self, name: RepositoryName, tag: Tag) -> bool:
        return self._immutable.covers(str(name), str(tag))

    def _agreed_version(
        self, name: RepositoryName, tag: Tag, digest: Digest, condition: Condition | None
    ) -> str | None:
        """Return the version of the link that may be replaced; None for whichever it is."""
        immutable = self._is_immutable(name, tag)
        if condition is None and not immutable:
            return None
        if condition is not None and not self._driver.supports_if_match:
            raise ConditionUnsupported
        try:
            stored = self._driver.get_versioned(layout.tag_link(name, tag))
        except PathNotFound:
            current, version = self._old_target(name, tag), ABSENT
        else:
            current, version = _parse(stored.content), stored.version
        if immutable and current not in (None, digest):
            raise TagImmutable(name=str(name), tag=str(tag))
        if condition is not None and not condition(current):
            raise TagChanged(name=str(name), tag=str(tag))
        return version if self._driver.supports_if_match else None

    def _old_target(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return what a tag of API V1 points at; an image that V2 cannot show is nothing, but may not be replaced."""
        try:
            return self._old.get(name, tag)
        except ManifestUnknown:
            if self._is_immutable(name, tag):
                raise TagImmutable(name=str(name), tag=str(tag)) from None
            return None


def _parse(link: bytes) -> Digest | None:
    try:
        return Digest.parse(conditional_removal.unmarked(link).decode("ascii", "replace"))
    except DigestInvalid:  # damaged
        return None


def _read(file_name: str) -> str | None:
    return file_name if is_tag(file_name) else None
