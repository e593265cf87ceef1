"""Loads the search backend that the configuration names."""

from __future__ import annotations

import importlib
from inspect import isabstract
from types import ModuleType
from typing import Final

from docker_registry.errors import ConfigError
from docker_registry.registry.search.index import LookUp, NullIndex, SearchIndex

#: The built-in backend.
SQLALCHEMY: Final = "sqlalchemy"


def load(search_backend: str | None) -> type[SearchIndex]:
    """
    Import the index class that the configuration names, without opening an index.

    Args:
        search_backend: ``sqlalchemy``, or the name of a module with a class ``Index``; None or empty for no index.

    Raises:
        ConfigError: the module or its class ``Index`` does not exist, does not implement :class:`SearchIndex`, or needs
            a library that is not installed.
    """
    if not search_backend:
        return NullIndex
    if search_backend == SQLALCHEMY:
        from docker_registry.registry.search.sql import SqlIndex

        return SqlIndex
    index_class = getattr(_import(search_backend), "Index", None)
    if not (isinstance(index_class, type) and issubclass(index_class, SearchIndex)):
        raise ConfigError(
            f"search_backend: the module {search_backend} has no class Index that inherits from "
            f"{SearchIndex.__module__}.{SearchIndex.__name__}"
        )
    if isabstract(index_class):
        raise ConfigError(
            f"search_backend: {search_backend}.Index has no {', '.join(sorted(index_class.__abstractmethods__))}"
        )
    return index_class


def open_index(search_backend: str | None, database_url: str, look_up: LookUp | None = None) -> SearchIndex:
    """
    Open the index that the configuration names.

    A database server that cannot be reached only logs a warning; the connection is retried when it is needed.

    Args:
        search_backend: as for :func:`load`.
        database_url: for ``sqlalchemy``: ``sqlite:////folder/file.db``, ``postgresql://user:password@host/name`` or
            ``mysql://…``.
        look_up: called for every repository in a database of docker-registry 0.7 to 0.9 that is taken over, since that
            database does not record which repositories are private or deleted. Without it all are taken over as public.

    Raises:
        ConfigError: as for :func:`load`, or *database_url* is invalid.
    """
    index_class = load(search_backend)
    return index_class(database_url, look_up) if search_backend == SQLALCHEMY else index_class()  # type: ignore[call-arg]


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"search_backend must be {SQLALCHEMY} or the name of a Python module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"search_backend: there is no module {name}; {SQLALCHEMY} is built in") from None
        raise ConfigError(f"search_backend: the module {name} needs {error.name}, which is not installed") from None
