"""Refuses writes while the registry is read-only."""

from __future__ import annotations

from typing import Final

from flask import Flask, request

from docker_registry.api.authorization import ACTIONS
from docker_registry.errors import Unsupported
from docker_registry.registry.access import Action
from docker_registry.registry.read_only import ReadOnly

#: Routes by which a push that has begun may finish: its blobs become complete, but nothing refers to them.
_UNFINISHED: Final = frozenset(
    {
        "v1_pushes.put_checksum",
        "v1_pushes.put_layer",
        "v2_uploads.append_chunk",
        "v2_uploads.cancel_upload",
        "v2_uploads.commit_upload",
    }
)

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Routes that are refused.
REFUSED: Final = frozenset(
    route for route, action in ACTIONS.items() if action is not Action.PULL and route not in _UNFINISHED
)


def install(app: Flask, read_only: ReadOnly) -> None:
    """Install the hook; after those that check whether the client may do what it asks for."""

    @app.before_request
    def refuse_writes() -> None:
        if read_only.why is not None and request.method not in _SAFE and request.endpoint in REFUSED:
            raise Unsupported(read_only.why)
