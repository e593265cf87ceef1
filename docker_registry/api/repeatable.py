"""Which answers follow from the request and the store alone, so that they may be given again (the fast path)."""

from __future__ import annotations

from typing import Final

from flask import Flask, Response, request

from docker_registry import provenance

#: What clients ask for over and over. None of these depends on the time, on the client's address or on chance.
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
    """Let these answers be offered; only for a store whose driver notes what it looks at."""

    @app.after_request
    def offer(response: Response) -> Response:
        if response.status_code in (200, 304) and request.endpoint in _ENDPOINTS and request.method in ("GET", "HEAD"):
            provenance.offer()
        return response
