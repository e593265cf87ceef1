"""
Finding repositories by a part of their name: what every search index can do, and how one is chosen.

An index never holds a truth: whatever it says is also in the store, and :meth:`SearchIndex.reindex` rebuilds it.
:mod:`~docker_registry.registry.search.updates` keeps it up to date, :mod:`~docker_registry.registry.search.sql` is the
index in a database. Another one is a module with a class ``Index``, which inherits from :class:`SearchIndex`, takes no
arguments and needs no more than ``put``, ``delete`` and ``search``::

    search_backend: my_company.registry_search
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import isabstract
from types import ModuleType
from typing import Final

from docker_registry.errors import ConfigError

#: Results on a page when the client does not say (``docker search`` sends it as ``n``), and at most.
DEFAULT_PAGE_SIZE: Final = 25
MAX_PAGE_SIZE: Final = 100

#: The built-in backend.
SQLALCHEMY: Final = "sqlalchemy"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What an index is told of a repository.

    Attributes:
        name: as clients see it: ``library/busybox``, never quoted.
        private: whether only those may find it who may pull it.
    """

    name: str
    description: str = ""
    private: bool = False


#: Asks the store about a repository: what is true now, or None when it is not there.
LookUp = Callable[[str], Entry | None]


@dataclass(frozen=True, slots=True)
class Result:
    """
    A repository that was found, with what Docker clients print of it.

    Attributes:
        star_count, is_official, is_automated: what Docker Hub tells; nobody gives stars here.
    """

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """
    A part of what was found.

    Attributes:
        query: the text that was looked for.
        page: which part, from 1.
        page_size: results on a full page.
        num_results: repositories that were found, on all pages.
    """

    query: str
    page: int = 1
    page_size: int = DEFAULT_PAGE_SIZE
    num_results: int = 0
    results: tuple[Result, ...] = ()

    @property
    def num_pages(self) -> int:
        """How many pages there are; 0 when nothing was found."""
        return -(-self.num_results // self.page_size)


class SearchIndex(ABC):
    """
    Knows the names of all repositories.

    Every method may be called by many workers at once, and raises :class:`~docker_registry.errors.StorageUnavailable`
    when the index cannot be reached for now.
    """

    @abstractmethod
    def put(self, entry: Entry) -> None:
        """Say what is true of a repository; that it is known already is no error."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Forget a repository; that it is not known is no error."""

    @abstractmethod
    def search(self, query: str, *, page: int = 1, page_size: int = DEFAULT_PAGE_SIZE, private: bool = False) -> Page:
        """
        Find the repositories whose name or description contains a text, in upper or lower case.

        The best come first: the repository of that very name (``library/`` may be left out), then the names that
        begin with it, then the rest, each in the order of their names.

        Args:
            query: taken literally; an empty one finds everything.
            page: from 1; one beyond the end has no results.
            page_size: 1 to :data:`MAX_PAGE_SIZE`.
            private: whether private repositories are found as well.
        """

    def reindex(self, entries: Iterable[Entry]) -> int:
        """
        Replace all that is known by what the store holds, while searches go on finding what they found.

        An index that does not know better only puts.

        Args:
            entries: read once, slowly if need be; when it raises, nothing is forgotten.

        Returns:
            How many there were.
        """
        count = 0
        for count, entry in enumerate(entries, 1):  # noqa: B007 - the last number is the answer
            self.put(entry)
        return count

    def is_complete(self) -> bool:
        """Tell whether the index knows all repositories: false until a new or older one was reindexed."""
        return True

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections; the index is not used any more."""


class NullIndex(SearchIndex):
    """The index of a registry that has none: nothing is ever found."""

    def put(self, entry: Entry) -> None:
        """Do nothing."""

    def delete(self, name: str) -> None:
        """Do nothing."""

    def search(self, query: str, *, page: int = 1, page_size: int = DEFAULT_PAGE_SIZE, private: bool = False) -> Page:  # noqa: ARG002 - nothing is hidden here
        """Find nothing."""
        return Page(query, page, page_size)


def load(search_backend: str | None) -> type[SearchIndex]:
    """
    Import the index that the configuration names, and open nothing.

    Args:
        search_backend: ``sqlalchemy``, or the name of a module with a class ``Index``; None or empty for no index.

    Raises:
        ConfigError: no such module, no such class, or a library that is not installed.
    """
    if not search_backend:
        return NullIndex
    if search_backend == SQLALCHEMY:
        from docker_registry.registry.search.sql import SqlIndex

        return SqlIndex
    found = getattr(_import(search_backend), "Index", None)
    if not (isinstance(found, type) and issubclass(found, SearchIndex)):
        raise ConfigError(
            f"search_backend: the module {search_backend} has no class Index that inherits from {__name__}.SearchIndex"
        )
    if isabstract(found):
        raise ConfigError(
            f"search_backend: {search_backend}.Index has no {', '.join(sorted(found.__abstractmethods__))}"
        )
    return found


def open_index(search_backend: str | None, database_url: str, look_up: LookUp | None = None) -> SearchIndex:
    """
    Open the index that the configuration names.

    A database server that cannot be reached is only a warning in the log: it is asked again when it is needed.

    Args:
        search_backend: as for :func:`load`.
        database_url: for ``sqlalchemy``: ``sqlite:////folder/file.db``, ``postgresql://user:password@host/name`` or
            ``mysql://…``.
        look_up: asked for every repository that the database of docker-registry 0.7 to 0.9 lists, when one is taken
            over: it does not know which of them are private, or gone. Without it all are taken over as public.

    Raises:
        ConfigError: as for :func:`load`, or a URL of no use.
    """
    found = load(search_backend)
    return found(database_url, look_up) if search_backend == SQLALCHEMY else found()  # type: ignore[call-arg]


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"search_backend must be {SQLALCHEMY} or the name of a Python module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"search_backend: there is no module {name}; {SQLALCHEMY} is built in") from None
        raise ConfigError(f"search_backend: the module {name} needs {error.name}, which is not installed") from None
