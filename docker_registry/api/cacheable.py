"""Declares which responses are cacheable: those that depend on the request and the store alone."""

from __future__ import annotations

from typing import Final

from flask import Flask, Response, request

from docker_registry import dependencies

#: Endpoints that clients request repeatedly. None depends on the time, the client's address or chance.
_ENDPOINTS: Final = frozenset(
    {
        "v1_images.get_ancestry",
        "v1_images.get_json",
        "v1_tags.get_tag",
        "v1_tags.list_tags",
        "v2_base.check_version",
        "v2_base.list_tags",
        "v2_blobs.get_blob",
        "v2_manifests.get_manifest",
    }
)


def install(app: Flask) -> None:
    """Install the hook that marks responses as cacheable; only for a driver that records dependencies."""

    @app.after_request
    def declare_cacheable(response: Response) -> Response:
        if (
            response.status_code in (200, 206, 304)
            and request.endpoint in _ENDPOINTS
            and request.method in ("GET", "HEAD")
        ):
            dependencies.declare_cacheable()
        return response
