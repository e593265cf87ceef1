"""API V2: manifests by tag and by digest."""

from __future__ import annotations

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.errors import Unsupported
from docker_registry.registry import Registry
from docker_registry.registry.names import Reference, RepositoryName


def blueprint(registry: Registry, *, delete: bool) -> Blueprint:
    """
    Make the routes.

    Args:
        delete: whether tags and manifests may be deleted.
    """
    bp = Blueprint("v2_manifests", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v2/<path:name>/manifests/<reference>")
    def get_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Serve a manifest exactly as it was pushed (end-3)."""
        manifest = registry.manifests.get(name, reference)
        headers = {
            "Content-Type": manifest.descriptor.media_type,
            "Docker-Content-Digest": str(manifest.descriptor.digest),
            "ETag": f'"{manifest.descriptor.digest}"',
        }
        if requests.is_unmodified(headers["ETag"]):
            return Response(status=304, headers=headers)
        headers["Content-Length"] = str(manifest.descriptor.size)
        return Response(b"" if request.method == "HEAD" else manifest.payload, headers=headers)

    @bp.put("/v2/<path:name>/manifests/<reference>")
    def put_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Keep a manifest (end-7)."""
        payload = requests.read_body(registry.manifests.max_manifest_bytes)
        descriptor = registry.manifests.put(name, reference, payload, requests.content_type())
        headers = {
            "Content-Length": "0",
            "Docker-Content-Digest": str(descriptor.digest),
            "Location": f"/v2/{name}/manifests/{descriptor.digest}",
        }
        return Response(status=201, headers=headers)

    @bp.delete("/v2/<path:name>/manifests/<reference>")
    def delete_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Forget a tag, or a manifest and its tags (end-9)."""
        if not delete:
            raise Unsupported("Deleting is switched off.")
        registry.manifests.delete(name, reference)
        return Response(status=202)

    return bp
