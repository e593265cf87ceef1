"""
The mapping between repository names of API V1 and V2.

A client's ``foo`` is ``library/foo`` in API V1 but ``foo`` in API V2, where ``library/foo`` is a separate repository,
also for other servers that share the tree. So V1's ``library/foo`` corresponds to V2's ``foo``. In V1, V2's
``library/foo`` supplies the tags that ``foo`` does not have. In V2, ``library/foo`` shows the content of ``foo`` if
there is no repository ``library/foo``. The counterpart of a hidden name is hidden too. An *exact* name (``is_exact``)
has no such counterpart: access control makes a name exact for a client that may not see the other repository.
"""

from __future__ import annotations

from dataclasses import replace

from docker_registry.errors import NameInvalid
from docker_registry.registry.names import LIBRARY, ImageRepositoryName, RepositoryName, is_repository_name


def image_repository(name: RepositoryName) -> ImageRepositoryName | None:
    """Return the V1 name of a V2 repository; None when it can have none."""
    if str(name).partition("/")[0] == LIBRARY and str(name).count("/") == 1:
        return None
    try:
        found = ImageRepositoryName.parse(str(name))
    except NameInvalid:
        return None
    return replace(found, is_hidden=True) if name.is_hidden else found


def repository(name: ImageRepositoryName) -> RepositoryName | None:
    """Return the V2 name of a V1 repository; None when its name is not valid in V2."""
    text = name.name if _is_short(name) else str(name)
    return RepositoryName(text, name.is_hidden) if is_repository_name(text) else None


def fallback(name: ImageRepositoryName) -> RepositoryName | None:
    """
    Return the V2 repository ``library/foo`` whose tags V1 also sees under ``library/foo``; None for other names, and
    for an exact one.
    """
    is_possible = _is_short(name) and is_repository_name(str(name)) and not name.is_exact
    return RepositoryName(str(name), name.is_hidden) if is_possible else None


def short(name: RepositoryName) -> RepositoryName | None:
    """Return ``foo`` for ``library/foo``; None for any other name, and for an exact one."""
    if name.is_exact:
        return None
    namespace, _, rest = str(name).partition("/")
    return RepositoryName(rest, name.is_hidden) if namespace == LIBRARY and rest and "/" not in rest else None


def _is_short(name: ImageRepositoryName) -> bool:
    return name.namespace == LIBRARY and "/" not in name.name
