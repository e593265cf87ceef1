"""API V2: routes for blobs."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.downloads import Downloads
from docker_registry.api.flask_app import current_request
from docker_registry.api.responses import origin_headers
from docker_registry.errors import Unsupported
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry

_YEAR_SECONDS = 31536000


def blueprint(registry: OciRegistry, downloads: Downloads, *, delete: bool) -> Blueprint:
    """
    Build the blueprint.

    Args:
        delete: whether blobs may be deleted.
    """
    bp = Blueprint("v2_blobs", __name__)

    @bp.get("/v2/<path:name>/blobs/<digest>")
    def get_blob(name: RepositoryName, digest: Digest) -> Response:
        """Serve a blob or a part of it (end-2)."""
        find = registry.blobs.stat if current_request().method == "HEAD" else registry.blobs.get_readable
        blob = find(registry.repositories.resolve(name), digest)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": f"max-age={_YEAR_SECONDS}",
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
        }
        if blob.origin is not None:
            headers |= origin_headers(blob.origin)
        if requests.has_etag(digest):
            return Response(status=304, headers=headers)
        response = downloads.send(registry.blobs.file(blob), headers, headers["ETag"])
        if response.status_code == 200:
            # ollama requests the parts of a blob from this URL; other clients ignore it.
            response.headers.add("Location", f"/v2/{name}/blobs/{digest}")
        return response

    @bp.delete("/v2/<path:name>/blobs/<digest>")
    def delete_blob(name: RepositoryName, digest: Digest) -> Response:
        """Delete a blob from a repository (end-10)."""
        if not delete:
            raise Unsupported("Deletion is disabled.")
        registry.removal.delete_blob(name, digest, actor=requests.actor("delete"))
        return Response(status=202, headers={"Docker-Content-Digest": str(digest)})

    return bp
