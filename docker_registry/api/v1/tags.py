"""API V1: routes for tags, and for what is recorded about the clients that pushed them."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import authorization, requests
from docker_registry.api.responses import json_response, origin_headers
from docker_registry.errors import BodyInvalid, Unsupported
from docker_registry.registry.access import Access
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.v1.legacy_registry import LegacyRegistry

_MAX_ID_BYTES: Final = 1024

#: Key in the tag's JSON, for each product of a User-Agent ``docker/1.5.0 go/go1.4.1 kernel/3.13 os/linux arch/amd64``.
_CLIENT_KEYS: Final = {
    "docker": "docker_version",
    "go": "docker_go_version",
    "arch": "arch",
    "kernel": "kernel",
    "os": "os",
}
_LOWER_CASE: Final = frozenset({"arch", "kernel", "os"})
_MAX_VALUE_LENGTH: Final = 256


def blueprint(legacy: LegacyRegistry, access: Access, *, delete: bool) -> Blueprint:
    """
    Build the blueprint.

    Args:
        access: decides which tags a client may see and move.
        delete: whether tags may be deleted.
    """
    bp = Blueprint("v1_tags", __name__)

    @bp.get("/v1/repositories/<path:repository>/tags")
    def list_tags(repository: ImageRepositoryName) -> Response:
        """Return all tags with their image ids, ``{"latest": "<image id>", …}``."""
        found = legacy.image_pulls.tags(repository, principal=requests.principal())
        tags, headers = found.value, origin_headers(found.origin)
        may_list = access.policy.tag_filter(requests.principal(), repository)
        return json_response(
            {tag: image_id for tag, image_id in tags.items() if may_list is None or may_list(tag)}, headers=headers
        )

    @bp.get("/v1/repositories/<path:repository>/tags/<tag>")
    def get_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Return the image id of a tag."""
        found = legacy.image_pulls.tag(repository, tag, principal=requests.principal())
        return json_response(str(found.value), headers=origin_headers(found.origin))

    @bp.put("/v1/repositories/<path:repository>/tags/<tag>")
    def put_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Point a tag at an image."""
        requested = _read_id()
        authorization.check_image(requested)
        image_id = legacy.private_images.hide_unless_visible(
            requested, principal=requests.principal(), with_ancestors=True
        )
        refuse = authorization.overwrite_refusal(access, repository, tag) if requests.is_restricted() else None
        # Before put() records anything; put() repeats the check while it holds the tag.
        if refuse is not None and legacy.image_tag_pushes.points_elsewhere(repository, tag, image_id):
            refuse()
        actor = requests.actor("push")
        legacy.image_tag_pushes.put(repository, tag, image_id, _client_metadata(), refuse=refuse, actor=actor)
        legacy.private_images.publish_tagged(repository, image_id, actor=actor)
        return json_response(True)

    @bp.delete("/v1/repositories/<path:repository>/tags/<tag>")
    def delete_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Delete a tag."""
        if not delete:
            raise Unsupported("Deletion is disabled.")
        legacy.image_tags.delete(repository, tag, actor=requests.actor("delete"))
        return json_response(True)

    @bp.get("/v1/repositories/<path:repository>/tags/<tag>/json")
    def get_tag_json(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Return what is recorded about the push of a tag."""
        return json_response(legacy.image_tags.get_json(repository, tag))

    @bp.get("/v1/repositories/<path:repository>/json")
    def get_repository_json(repository: ImageRepositoryName) -> Response:
        """Return what is recorded about the latest push of tag ``latest``."""
        return json_response(legacy.image_tags.get_repository_json(repository))

    return bp


def _read_id() -> ImageId:
    try:
        text = json.loads(requests.read_body(_MAX_ID_BYTES).decode("utf-8"))
    except (ValueError, RecursionError):
        raise BodyInvalid from None
    if not isinstance(text, str):
        raise BodyInvalid
    return ImageId.parse(text)


def _client_metadata() -> dict[str, str]:
    """Return the client's versions and platform from its User-Agent; malformed parts are ignored."""
    products = (product.partition("/") for product in request.headers.get("User-Agent", "").split())
    fields = {
        _CLIENT_KEYS[key]: value[:_MAX_VALUE_LENGTH] for key, slash, value in products if slash and key in _CLIENT_KEYS
    }
    return {key: value.lower() if key in _LOWER_CASE else value for key, value in fields.items()}
