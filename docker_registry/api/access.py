"""Before every request: may the client have what it asks for? What it may not see is as if it were not there."""

from __future__ import annotations

from flask import Flask, request

from docker_registry.registry.visibility import Visibility


def install(app: Flask, visibility: Visibility) -> None:
    """Let every request be checked, once what its URL names is parsed."""

    @app.before_request
    def check_access() -> None:
        for subject in (request.view_args or {}).values():
            visibility.check(subject)
