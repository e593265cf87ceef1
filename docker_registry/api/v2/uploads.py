"""API V2: routes for blob uploads and mounts."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.client_origin import ClientOrigin
from docker_registry.api.flask_app import PlainResponse, current_request
from docker_registry.errors import BlobUnknown, DigestInvalid, NameInvalid, UpstreamError
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName, parse_algorithm
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.sources import Blob
from docker_registry.registry.upload_sessions import Upload


def blueprint(registry: OciRegistry, origin: ClientOrigin) -> Blueprint:
    """
    Build the blueprint.

    Args:
        origin: finds the URL of the registry for clients that need absolute URLs.
    """
    bp = Blueprint("v2_uploads", __name__)

    @bp.post("/v2/<path:name>/blobs/uploads/")
    def start_upload(name: RepositoryName) -> Response:
        """Mount a blob (end-11), receive a complete one (end-4b), or start an upload (end-4a, end-4c)."""
        parameters = requests.parameters()
        mounted = _mount(registry, name, parameters)
        if mounted:
            return _created(name, mounted)
        if "digest" in parameters:
            digest = requests.digest_parameter()
            return _created(name, registry.uploads.put(name, digest, requests.body(), actor=requests.actor("push")))
        algorithm = parse_algorithm(parameters.get("digest-algorithm", CANONICAL))
        response = _upload_accepted(origin, name, registry.uploads.start(name, algorithm, actor=requests.actor("push")))
        min_bytes = registry.driver.capabilities.min_chunk_bytes
        if min_bytes is not None:  # a recommendation: smaller chunks are accepted too
            response.headers["OCI-Chunk-Min-Length"] = str(min_bytes)
        return response

    @bp.patch("/v2/<path:name>/blobs/uploads/<upload_id>")
    def append_chunk(name: RepositoryName, upload_id: str) -> Response:
        """Append the next bytes to an upload (end-5)."""
        chunk = requests.chunk_range()
        upload = registry.uploads.append(
            name, upload_id, requests.body(), chunk.start, chunk.length, actor=requests.actor("push")
        )
        return _upload_accepted(origin, name, upload)

    @bp.put("/v2/<path:name>/blobs/uploads/<upload_id>")
    def commit_upload(name: RepositoryName, upload_id: str) -> Response:
        """Append the last bytes, verify the digest and publish the blob (end-6)."""
        digest, chunk, body = requests.digest_parameter(), requests.chunk_range(), requests.body()
        blob = registry.uploads.commit(
            name, upload_id, digest, body, chunk.start, chunk.length, actor=requests.actor("push")
        )
        return _created(name, blob)

    @bp.get("/v2/<path:name>/blobs/uploads/<upload_id>")
    def get_upload(name: RepositoryName, upload_id: str) -> Response:
        """Return the progress of an upload (end-13)."""
        upload = registry.uploads.get(name, upload_id)
        return Response(status=204, headers={"Location": _location(name, upload), **_progress(upload)})

    @bp.delete("/v2/<path:name>/blobs/uploads/<upload_id>")
    def cancel_upload(name: RepositoryName, upload_id: str) -> Response:
        """Cancel an upload (end-14)."""
        registry.uploads.cancel(name, upload_id, actor=requests.actor("delete"))
        return Response(status=204)

    return bp


def _mount(registry: OciRegistry, name: RepositoryName, parameters: Mapping[str, str]) -> Blob | None:
    if "mount" not in parameters:
        return None
    try:
        source = parameters.get("from")
        digest = Digest.parse(parameters["mount"])
        from_name = RepositoryName.parse(source) if source else None
        return registry.blobs.mount(name, digest, from_name, actor=requests.actor("push"))
    except (BlobUnknown, DigestInvalid, NameInvalid, UpstreamError):
        return None  # fall back to an upload ("Mounting a blob from another repository")


def _upload_accepted(origin: ClientOrigin, name: RepositoryName, upload: Upload) -> Response:
    headers = {"Content-Length": "0", "Location": _location(name, upload), **_progress(upload)}
    if current_request().environ.get("HTTP_USER_AGENT", "").startswith("ollama/"):
        # ollama does not resolve a relative Location (its server/upload.go).
        headers["Docker-Upload-Location"] = f"{origin.base_url()}{_location(name, upload)}"
    return PlainResponse(202, headers)


def _location(name: RepositoryName, upload: Upload) -> str:
    # without scheme and host, which may differ behind a proxy
    return f"/v2/{name}/blobs/uploads/{upload.id}"


def _progress(upload: Upload) -> dict[str, str]:
    return {"Docker-Upload-UUID": upload.id, "Range": f"0-{max(upload.size - 1, 0)}"}


def _created(name: RepositoryName, blob: Blob) -> Response:
    headers = {
        "Content-Length": "0",
        "Location": f"/v2/{name}/blobs/{blob.digest}",
        "Docker-Content-Digest": str(blob.digest),  # containerd rejects a 201 without it
    }
    return PlainResponse(201, headers)
