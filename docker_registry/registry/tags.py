"""
Tags: names that a repository gives to its manifests.

A repository's tags are one set, whichever API wrote them; :mod:`docker_registry.registry.bridge.old_tags` says how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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

#: Tells from what a tag points at, None for nothing, whether it may be changed.
Condition = Callable[[Digest | None], bool]

#: So many tags are looked at before other requests of the worker go on.
_TAGS_AT_ONCE: Final = 100


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
        self._note(name, tag, digest, is_new=is_new, are_noted=are_noted)
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
        link = self.find_link(name, tag)
        if link is None:
            if tag not in self._old.naming(name, digest, (tag,)):
                return False
            self.check_mutable(name, tag)
            deleted = self._old.remove(name, tag)
        elif link == digest:
            self.check_mutable(name, tag)
            # A tag of API V1 that this one hides would show up again.
            self._old.remove(name, tag, lambda: self.find_link(name, tag) == digest)
            deleted = self._take_link(name, tag, digest, holds) is not None
        else:
            return False
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
        if not self._driver.exists(layout.tags_are_noted(name)):
            self.note_all(name)
        named = {*self._noted_at(name, digest), *self._written_by_distribution(name, digest)}
        found = [tag for tag in map(Tag, sorted(named)) if self.find_link(name, tag) == digest]
        hidden = [tag for tag in self._old.naming(name, digest) if self.find_link(name, tag) is None]
        return (*found, *hidden)

    def noted_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """Return the tags that point, or pointed, at a manifest and were written here."""
        return tuple(map(Tag, self._noted_at(name, digest)))

    def _noted_at(self, name: RepositoryName, digest: Digest) -> Sequence[str]:
        return self._listings.names(layout.revision(name, digest), layout.read_tag_note)

    def _written_by_distribution(self, name: RepositoryName, digest: Digest) -> Iterator[str]:
        if self._driver.walks_by_pages:
            folder = layout.tags(name)
            for stat in self._driver.walk(folder):
                tag = stat.path[len(folder) + 1 :].partition("/")[0]
                if is_tag(tag) and stat.path == layout.tag_history_entry(name, Tag(tag), digest):
                    yield tag
            return
        for number, tag in enumerate(self.link_names(name)):
            if number % _TAGS_AT_ONCE == 0:
                time.sleep(0)  # other requests go on
            if self._driver.exists(layout.tag_history_entry(name, Tag(tag), digest)):
                yield tag

    def note_all(self, name: RepositoryName) -> None:
        """Note every tag at its manifest; for repositories into which others, who make no such notes, have written."""
        for tag in map(Tag, self.link_names(name)):
            digest = self.find_link(name, tag)
            if digest is not None:
                self._note(name, tag, digest, are_noted=True)
        self._driver.put_content(layout.tags_are_noted(name), b"")

    def _note(
        self, name: RepositoryName, tag: Tag, digest: Digest, *, is_new: bool = False, are_noted: bool = False
    ) -> None:
        """Note a tag at the manifest that it is about to point at; see :meth:`point`."""
        path = layout.tag_note(name, digest, tag)
        if not is_new and self._driver.exists(path):
            return
        noted = layout.tags_are_noted(name)
        if not are_noted and not self._driver.exists(noted) and not self._driver.exists(layout.tags(name)):
            self._driver.put_content(noted, b"")  # the very first one: none is missing
        self._driver.put_content(path, b"")

    def _exists(self, name: RepositoryName, tag: str) -> bool:
        """Tell whether a tag that was listed is there; where its very file was listed, that is known."""
        if self._driver.walks_by_pages:
            return True
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
