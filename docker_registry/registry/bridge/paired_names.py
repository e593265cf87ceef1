"""
Which repository of API V2 and which of API V1 are one.

``foo`` is ``library/foo`` in API V1, and ``foo`` in API V2, where ``library/foo`` is another repository: other servers
share the tree and know it as such. So V1's ``library/foo`` is V2's ``foo``. V2's ``library/foo`` is seen by V1 where
the first has no such tag, and is shown as what ``foo`` is where there is no such repository of its own. What a
hidden name is paired with is hidden too.
"""

from __future__ import annotations

from dataclasses import replace

from docker_registry.errors import NameInvalid
from docker_registry.registry.names import LIBRARY, ImageRepositoryName, RepositoryName, is_repository_name


def image_repository(name: RepositoryName) -> ImageRepositoryName | None:
    """Return the repository of API V1 that is one with a repository of V2; None where there can be none."""
    if str(name).partition("/")[0] == LIBRARY and str(name).count("/") == 1:
        return None
    try:
        found = ImageRepositoryName.parse(str(name))
    except NameInvalid:
        return None
    return replace(found, is_hidden=True) if name.is_hidden else found


def repository(name: ImageRepositoryName) -> RepositoryName | None:
    """Return the repository of API V2 that is one with a repository of V1; None where no name of V2 is like that."""
    text = name.name if _is_short(name) else str(name)
    return RepositoryName(text, name.is_hidden) if is_repository_name(text) else None


def fallback(name: ImageRepositoryName) -> RepositoryName | None:
    """Return the other repository of API V2 that V1 sees under this name; None where there is none."""
    is_possible = _is_short(name) and is_repository_name(str(name))
    return RepositoryName(str(name), name.is_hidden) if is_possible else None


def short(name: RepositoryName) -> RepositoryName | None:
    """Return ``foo`` for ``library/foo``; None for any other name."""
    namespace, _, rest = str(name).partition("/")
    return RepositoryName(rest, name.is_hidden) if namespace == LIBRARY and rest and "/" not in rest else None


def _is_short(name: ImageRepositoryName) -> bool:
    return name.namespace == LIBRARY and "/" not in name.name
