"""The sources of tags, asked in their order as if they were one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from docker_registry.errors import ManifestUnknown
from docker_registry.registry.actor import Principal
from docker_registry.registry.listing_cache import Page
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import Found, TagSource

#: Pages without a tag that the client may see, after which a list ends.
_MAX_EMPTY_PAGES: Final = 20


class TagSources:
    """Further tags of the registry, such as those of API V1."""

    def __init__(self, sources: Sequence[TagSource]) -> None:
        """
        Args:
            sources: may grow until the first request.
        """
        self._sources = sources

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
            holds: remove the tag only while this returns true; see :func:`.conditional_removal.take_while`.
        """
        removed = [source.remove(name, tag, holds) for source in self._sources]
        return any(removed)
