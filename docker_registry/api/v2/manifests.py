"""API V2: routes for manifests, by tag and by digest."""

from __future__ import annotations

from flask import Blueprint, Response, request

from docker_registry.api import authorization, requests
from docker_registry.api.downloads import Downloads
from docker_registry.api.flask_app import PlainResponse
from docker_registry.api.responses import origin_headers
from docker_registry.errors import ManifestUnknown, Unsupported
from docker_registry.registry.manifest_payload import safe_content_type
from docker_registry.registry.manifest_pushes import Pushed
from docker_registry.registry.names import Digest, Reference, RepositoryName, Tag
from docker_registry.registry.oci_registry import OciRegistry


def blueprint(registry: OciRegistry, downloads: Downloads, *, delete_tags: bool, delete_manifests: bool) -> Blueprint:
    """
    Build the blueprint.

    Args:
        delete_tags: whether tags may be deleted.
        delete_manifests: whether manifests may be deleted.
    """
    bp = Blueprint("v2_manifests", __name__)

    @bp.get("/v2/<path:name>/manifests/<reference>")
    def get_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Serve a manifest exactly as it was pushed (end-3)."""
        name = registry.repositories.resolve(name)
        manifest = registry.manifests.get(name, reference, principal=requests.principal())
        descriptor = manifest.descriptor
        origin = manifest.origin
        must_be_accepted = isinstance(reference, Tag) and not (origin is not None and origin.is_generated)
        if must_be_accepted and not requests.accepts(descriptor.media_type):
            raise ManifestUnknown(
                "The client does not accept the media type of the manifest.", type=descriptor.media_type
            )
        headers = {
            "Content-Type": safe_content_type(descriptor.media_type),
            "Docker-Content-Digest": str(descriptor.digest),
            "ETag": f'"{descriptor.digest}"',
            "Vary": "Accept, User-Agent",
        }
        if origin is not None:
            headers |= origin_headers(origin)
        if requests.has_etag(descriptor.digest):
            return Response(status=304, headers=headers)
        if manifest.is_large:
            return downloads.send_whole(registry.manifests.file(manifest), headers)
        headers["Content-Length"] = str(len(manifest.payload))
        return PlainResponse(200, headers, [manifest.payload])

    @bp.put("/v2/<path:name>/manifests/<reference>")
    def put_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Store a manifest and update its tags (end-7)."""
        tags = [Tag.parse(text) for text in request.args.getlist("tag")] if isinstance(reference, Digest) else []
        payload = requests.read_body(registry.manifest_pushes.max_manifest_bytes)
        moved = [reference] if isinstance(reference, Tag) else tags
        guard = authorization.overwrite_guard(registry.access, name, moved) if requests.is_restricted() else None
        pushed = registry.manifest_pushes.put(
            name,
            reference,
            payload,
            requests.content_type(),
            tags,
            requests.tag_condition(),
            guard,
            actor=requests.actor("push"),
        )
        return _created(name, pushed, bool(tags))

    @bp.delete("/v2/<path:name>/manifests/<reference>")
    def delete_manifest(name: RepositoryName, reference: Reference) -> Response:
        """Delete a tag, or a manifest with all its tags (end-9)."""
        if not (delete_tags if isinstance(reference, Tag) else delete_manifests):
            raise Unsupported("Deletion is disabled.")
        repository, actor = registry.repositories.resolve(name), requests.actor("delete")
        if isinstance(reference, Tag):
            registry.tags.delete(repository, reference, actor=actor)
        else:
            registry.removal.delete_manifest(repository, reference, actor=actor)
        return Response(status=202)

    return bp


def _created(name: RepositoryName, pushed: Pushed, many_tags: bool) -> Response:
    digest = str(pushed.descriptor.digest)
    headers = {
        "Content-Length": "0",
        "Location": f"/v2/{name}/manifests/{digest}",  # scheme and host may differ behind a proxy
        "Docker-Content-Digest": digest,
    }
    if pushed.subject:
        headers["OCI-Subject"] = str(pushed.subject)
    if many_tags:
        headers["OCI-Tag"] = ", ".join(str(tag) for tag in pushed.tags)
    if pushed.missing:
        headers["Warning"] = f'299 - "The index names {len(pushed.missing)} manifests that are not here."'
    return PlainResponse(201, headers)
