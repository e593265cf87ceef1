"""
Sources: parts that are asked for content that the store does not have.

The core of the registry first looks into the store, then asks its sources in order; the first that has the content
answers. A source is never asked for what the store has, so it cannot override the store. The bridge to API V1 is a
source of tags and repositories, a mirror (:mod:`docker_registry.registry.mirror`) one of tags, manifests and blobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Generic, Protocol, TypeVar

from docker_registry.errors import ManifestUnknown
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.listing_cache import Page
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.stored_file import ServedFile

T = TypeVar("T")

#: Message of the error for content that the store lacks while the registry is read-only: it could not be stored.
NOTHING_FETCHED: Final = "The registry is read-only: it serves what it has, and fetches nothing."

#: Pages without a tag that the client may see, after which a list ends.
_MAX_EMPTY_PAGES: Final = 20


@dataclass(frozen=True, slots=True)
class Origin:
    """
    The freshness and provenance of content of a source.

    Attributes:
        is_generated: whether the content was generated for this request, so that it has only one representation.
        expires: when the source must be asked again, on the monotonic clock (:func:`time.monotonic`); None if the
            answer is final.
        warning: a text for the client, sent as a ``Warning`` header (RFC 7234, section 5.5); empty for none.
        fetched_from: the registry from which the content was fetched for this request; empty if it was in the store.
    """

    is_generated: bool = False
    expires: float | None = None
    warning: str = ""
    fetched_from: str = ""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """Content that a source has."""

    value: T
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class Blob:
    """
    A stored blob.

    Attributes:
        size: bytes.
        path: storage path of the bytes.
        is_new: whether :meth:`Blobs.put <docker_registry.registry.blobs.Blobs.put>` has just created it, as far as it
            knows; False from all other methods.
        origin: freshness and provenance of a blob that a source had; None if the store had it.
        file: delivers the bytes of a blob that is still being received; None if they are in the store.
        is_passed_on: whether the store will not have the bytes after *file* has been read.
    """

    digest: Digest
    size: int
    path: str
    is_new: bool = field(default=False, compare=False)
    origin: Origin | None = field(default=None, compare=False)
    file: ServedFile | None = field(default=None, compare=False)
    is_passed_on: bool = field(default=False, compare=False)


class TagSource(Protocol):
    """A source of tags."""

    def get(self, name: RepositoryName, tag: Tag, principal: Principal = ANONYMOUS) -> Found[Digest] | None:
        """
        Return the target of a tag, and store or generate its manifest if necessary; None when there is no such tag.

        Args:
            principal: on whose behalf; content that it may not see is not used.

        Raises:
            ManifestUnknown: the tag exists, but has no manifest; the message explains why.
        """
        ...

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag; None when there is none, or its manifest would have to be generated."""
        ...

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether there is a tag."""
        ...

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of all tags of a repository, in ASCII order."""
        ...

    def page(self, name: RepositoryName, count: int, last: str) -> Page | None:
        """
        Return a page of the tags of a repository whose list of tags only its upstream has.

        Args:
            count: largest number of names.
            last: the page begins after this name.

        Returns:
            None if :meth:`names` has all tags.
        """
        ...

    def pointing_at(self, name: RepositoryName, digest: Digest, tags: Iterable[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the tags that point at a manifest.

        Args:
            tags: the tags to check; None for all.
        """
        ...

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag; return False when none was removed.

        Args:
            holds: remove the tag only while this returns True; see :func:`.store_removal.take_while`.
        """
        ...


class TagSources:
    """The sources of tags, asked in their order as if they were one."""

    def __init__(self, sources: Sequence[TagSource]) -> None:
        """
        Args:
            sources: may grow until the first request.
        """
        self._sources = sources

    def __bool__(self) -> bool:
        return bool(self._sources)

    def get(self, name: RepositoryName, tag: Tag, principal: Principal) -> Found[Digest]:
        """
        Return the target of a tag; its manifest is generated if necessary.

        Args:
            principal: on whose behalf; content that it may not see is not used.

        Raises:
            ManifestUnknown: no source has the tag, or the tag has no manifest.
        """
        found = self.resolve(name, tag, principal)
        if found is None:
            raise ManifestUnknown(name=str(name), tag=str(tag))
        return found

    def resolve(self, name: RepositoryName, tag: Tag, principal: Principal) -> Found[Digest] | None:
        """
        Return the target of a tag; its manifest is generated if necessary. None if no source has the tag.

        Args:
            principal: as for :meth:`get`.

        Raises:
            ManifestUnknown: the tag has no manifest.
        """
        for source in self._sources:
            found = source.get(name, tag, principal)
            if found is not None:
                return found
        return None

    def page(
        self, name: RepositoryName, count: int, last: str = "", may_list: Callable[[str], bool] | None = None
    ) -> Page | None:
        """
        Return a page of the tags of a repository that only a source can list; None for other repositories.

        Args:
            count, last: see :meth:`TagSource.page`.
            may_list: leave out the tags for which this is false, so that the page may be shorter.
        """
        for source in self._sources:
            page = source.page(name, count, last)
            if page is None:
                continue
            names = tuple(filter(may_list or bool, page.names))
            for _ in range(_MAX_EMPTY_PAGES):
                if names or not page.more:
                    break
                page = source.page(name, count, page.names[-1]) or Page(())
                names = tuple(filter(may_list or bool, page.names))
            return Page(names, page.more and bool(names))
        return None

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag, or None if it is not known without generating a manifest."""
        for source in self._sources:
            digest = source.find(name, tag)
            if digest is not None:
                return digest
        return None

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether a source has a tag."""
        return any(source.exists(name, tag) for source in self._sources)

    def names(self, name: RepositoryName) -> list[Sequence[str]]:
        """Return, for each source, the names of its tags in ASCII order."""
        return [source.names(name) for source in self._sources]

    def pointing_at(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the tags that point at a manifest.

        Args:
            tags: the tags to check; None for all.
        """
        return chain.from_iterable(source.pointing_at(name, digest, tags) for source in self._sources)

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:
        """
        Remove a tag from all sources; return False if none had it.

        Args:
            holds: remove the tag only while this returns true; see :func:`.store_removal.take_while`.
        """
        removed = [source.remove(name, tag, holds) for source in self._sources]
        return any(removed)


class ManifestSource(Protocol):
    """A source of manifests."""

    def get(self, name: RepositoryName, digest: Digest) -> Found[bytes] | None:
        """Return the verified payload of a manifest; None when the source does not have it."""
        ...


class BlobSource(Protocol):
    """A source of blobs."""

    def get(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob that can be read: its bytes are in the store by now, or its ``file`` delivers them.

        Returns:
            None when the source does not have it.
        """
        ...

    def stat(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """Return a blob without making its bytes available; None when the source does not have it."""
        ...


class ReferrerSource(Protocol):
    """A source of referrers."""

    def list(self, name: RepositoryName, subject: Digest) -> Mapping[Digest, dict[str, Any]]:
        """Return the descriptors of the referrers of a manifest, as in the ``manifests`` of an index, by digest."""
        ...


class RepositorySource(Protocol):
    """A source of repositories."""

    def exists(self, name: RepositoryName) -> bool:
        """Return whether there is a repository."""
        ...

    def names(self) -> Iterator[RepositoryName]:
        """Yield all repositories, to be listed in the catalog."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of a registry, in the order in which they are asked; add them before the first request."""

    tags: list[TagSource] = field(default_factory=list)
    manifests: list[ManifestSource] = field(default_factory=list)
    blobs: list[BlobSource] = field(default_factory=list)
    referrers: list[ReferrerSource] = field(default_factory=list)
    repositories: list[RepositorySource] = field(default_factory=list)
