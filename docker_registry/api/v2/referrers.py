"""API V2: the route for referrers, the manifests whose subject is another manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flask import Blueprint, Response, request

from docker_registry.api.responses import link_next
from docker_registry.registry.manifest_payload import OCI_INDEX
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry


def blueprint(registry: OciRegistry, *, max_page_entries: int) -> Blueprint:
    """
    Build the blueprint.

    Args:
        max_page_entries: maximum number of entries on a page.
    """
    bp = Blueprint("v2_referrers", __name__)

    @bp.get("/v2/<path:name>/referrers/<digest>")
    def list_referrers(name: RepositoryName, digest: Digest) -> Response:
        """
        Return the referrers of a manifest as an index, page by page, optionally filtered by artifact type (end-12).

        Never 404: neither the repository nor the manifest need exist.
        """
        artifact_types = _artifact_types()
        page = registry.referrers.page(
            registry.repositories.resolve(name),
            digest,
            max_entries=max_page_entries,
            last=request.args.get("last", ""),
            artifact_types=artifact_types,
        )
        response = Response(_index(page.entries), content_type=OCI_INDEX)
        query = {}
        if artifact_types:
            query["artifactType"] = sorted(artifact_types)
            response.headers["OCI-Filters-Applied"] = "artifactType"
        if page.last is not None:
            link_next(response, **query, last=page.last)
        return response

    return bp


def _artifact_types() -> frozenset[str]:
    """
    Return the artifact types that the query selects; empty for all.

    Media types contain no spaces, so a space is a plus sign that the client did not escape.
    """
    types = (text.strip().replace(" ", "+").lower() for text in request.args.getlist("artifactType"))
    return frozenset(filter(None, types))


def _index(entries: Sequence[bytes]) -> bytes:
    """Return an index of descriptors that are already serialized as JSON."""
    head = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    return b"%b%b]}" % (head.removesuffix(b"]}"), b",".join(entries))
