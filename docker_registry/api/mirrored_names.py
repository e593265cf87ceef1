"""Refuses changes of repositories that mirror another registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flask import Flask, request

from docker_registry.api.authorization import ACTIONS
from docker_registry.errors import Unsupported
from docker_registry.registry.access import Action
from docker_registry.registry.names import ImageRepositoryName, RepositoryName

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Routes by which clients change repositories.
_REFUSED: Final = frozenset(route for route, action in ACTIONS.items() if action is not Action.PULL)


def install(app: Flask, is_mirrored: Callable[[str], bool]) -> None:
    """
    Install the hook; after those that check whether the client may do what it asks for.

    Args:
        is_mirrored: returns whether a repository of this name mirrors another one.
    """

    @app.before_request
    def refuse_changes() -> None:
        if request.method in _SAFE or request.endpoint not in _REFUSED:
            return
        for value in (request.view_args or {}).values():
            if isinstance(value, RepositoryName | ImageRepositoryName) and is_mirrored(str(value)):
                raise Unsupported("This repository mirrors another registry: it can only be pulled.", name=str(value))
