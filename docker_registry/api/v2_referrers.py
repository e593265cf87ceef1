"""API V2: the manifests that are about another one."""

from __future__ import annotations

from flask import Blueprint, Response, json, request

from docker_registry.api import requests
from docker_registry.registry import Registry
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.payloads import OCI_INDEX


def blueprint(registry: Registry, *, max_page_entries: int) -> Blueprint:
    """
    Make the routes.

    Args:
        max_page_entries: the longest page of a list.
    """
    bp = Blueprint("v2_referrers", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v2/<path:name>/referrers/<digest>")
    def list_referrers(name: RepositoryName, digest: Digest) -> Response:
        """
        List the manifests about another one as an index, page by page, of one artifact type on request (end-12).

        Never 404: neither the repository nor the other manifest need be there.
        """
        artifact_type, last = request.args.get("artifactType"), request.args.get("last", "")
        entries = [
            entry
            for entry in registry.referrers.list(registry.repositories.resolve(name), digest)
            if entry["digest"] > last and (not artifact_type or entry.get("artifactType") == artifact_type)
        ]
        page = entries[:max_page_entries]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        response = Response(json.dumps(index), content_type=OCI_INDEX)
        query = {}
        if artifact_type:
            query["artifactType"] = artifact_type
            response.headers["OCI-Filters-Applied"] = "artifactType"
        if len(entries) > len(page):
            requests.link_next(response, **query, last=page[-1]["digest"])
        return response

    return bp
