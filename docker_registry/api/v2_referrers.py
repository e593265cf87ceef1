"""API V2: the manifests that are about another one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, json, request

from docker_registry.api import requests
from docker_registry.registry import Registry
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.payloads import OCI_INDEX, text_annotations


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
        wanted, last = _artifact_types(), request.args.get("last", "")
        entries = [
            entry
            for entry in registry.referrers.list(registry.repositories.resolve(name), digest)
            if entry["digest"] > last and (not wanted or str(entry.get("artifactType", "")).lower() in wanted)
        ]
        page = entries[:max_page_entries]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_served(entry) for entry in page]}
        response = Response(json.dumps(index), content_type=OCI_INDEX)
        query = {}
        if wanted:
            query["artifactType"] = sorted(wanted)
            response.headers["OCI-Filters-Applied"] = "artifactType"
        if len(entries) > len(page):
            requests.link_next(response, **query, last=page[-1]["digest"])
        return response

    return bp


def _artifact_types() -> frozenset[str]:
    """
    Return the artifact types that the query asks for, any of which will do; none for all.

    A media type has no blanks, so a blank is a plus sign that a client did not escape.
    """
    texts = (text.strip().replace(" ", "+").lower() for text in request.args.getlist("artifactType"))
    return frozenset(filter(None, texts))


def _served(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a descriptor with such annotations only as clients can read."""
    if "annotations" not in entry:
        return entry
    return {**entry, "annotations": text_annotations(entry["annotations"])}
