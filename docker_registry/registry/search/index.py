"""
Search for repositories by a part of their name: the :class:`SearchIndex` interface.

An index is never authoritative: everything in it can be derived from the store, and :meth:`SearchIndex.reindex`
rebuilds it. :mod:`~docker_registry.registry.search.updates` keeps it up to date,
:mod:`~docker_registry.registry.search.sql` implements it in a database, and
:mod:`~docker_registry.registry.search.backends` loads the backend that the configuration names. A custom backend is a
module with a class ``Index`` that inherits from :class:`SearchIndex`, takes no constructor arguments and implements at
least ``put``, ``delete`` and ``search``::

    search_backend: my_company.registry_search
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

#: Default and maximum number of results on a page (``docker search`` sends the page size as ``n``).
DEFAULT_PAGE_SIZE: Final = 25
MAX_PAGE_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A repository as the index stores it.

    Attributes:
        name: as clients see it: ``library/busybox``, never quoted.
        private: whether only clients that may pull the repository can find it.
    """

    name: str
    description: str = ""
    private: bool = False


#: Reads the current entry of a repository from the store; None when the repository does not exist.
LookUp = Callable[[str], Entry | None]


@dataclass(frozen=True, slots=True)
class Result:
    """
    A repository in the results of a search, with the fields that Docker clients print.

    Attributes:
        star_count, is_official, is_automated: reported by Docker Hub; this registry always has the defaults.
    """

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of search results.

    Attributes:
        query: the text that was searched for.
        page: page number, from 1.
        page_size: results on a full page.
        num_results: matching repositories on all pages.
    """

    query: str
    page: int = 1
    page_size: int = DEFAULT_PAGE_SIZE
    num_results: int = 0
    results: tuple[Result, ...] = ()

    @property
    def num_pages(self) -> int:
        """The number of pages; 0 when nothing matched."""
        return -(-self.num_results // self.page_size)


class SearchIndex(ABC):
    """
    An index of the names of all repositories.

    Many workers may call every method concurrently. Every method raises
    :class:`~docker_registry.errors.StorageUnavailable` while the index cannot be reached.
    """

    @abstractmethod
    def put(self, entry: Entry) -> None:
        """Add a repository to the index, or replace its entry."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a repository from the index; a name that is not in the index is not an error."""

    @abstractmethod
    def search(self, query: str, *, page: int = 1, page_size: int = DEFAULT_PAGE_SIZE, private: bool = False) -> Page:
        """
        Find the repositories whose name or description contains a text, ignoring case.

        Results are ordered by relevance: the repository with exactly that name (``library/`` may be left out), then
        names that begin with the text, then the rest; each group is sorted by name.

        Args:
            query: taken literally; an empty one matches everything.
            page: from 1; a page beyond the end has no results.
            page_size: 1 to :data:`MAX_PAGE_SIZE`.
            private: whether to include private repositories.
        """

    def reindex(self, entries: Iterable[Entry]) -> int:
        """
        Replace the whole index by *entries*; searches keep working meanwhile.

        This default implementation only puts the entries and removes nothing.

        Args:
            entries: iterated once, possibly slowly; when the iteration raises, no entry is removed.

        Returns:
            The number of entries.
        """
        count = 0
        for count, entry in enumerate(entries, 1):  # noqa: B007 - the last number is the answer
            self.put(entry)
        return count

    def is_complete(self) -> bool:
        """Return whether the index covers all repositories: False until a new or taken-over index was reindexed."""
        return True

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Release connections; the index is not used afterwards."""


class NullIndex(SearchIndex):
    """The index of a registry without search: it stores nothing and finds nothing."""

    def put(self, entry: Entry) -> None:
        """Do nothing."""

    def delete(self, name: str) -> None:
        """Do nothing."""

    def search(self, query: str, *, page: int = 1, page_size: int = DEFAULT_PAGE_SIZE, private: bool = False) -> Page:  # noqa: ARG002 - nothing is hidden here
        """Return an empty page."""
        return Page(query, page, page_size)
