"""API V1: tags, and what is known of who pushed them."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.v1_answers import answer
from docker_registry.errors import BodyInvalid, Unsupported
from docker_registry.registry import Registry
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag

_MAX_ID_BYTES: Final = 1024

#: Words of a User-Agent, ``docker/1.5.0 go/go1.4.1 kernel/3.13 os/linux arch/amd64``, and what is noted of them.
_CLIENT_WORDS: Final = {
    "docker": "docker_version",
    "go": "docker_go_version",
    "arch": "arch",
    "kernel": "kernel",
    "os": "os",
}
_LOWER_CASE: Final = frozenset({"arch", "kernel", "os"})
_MAX_WORD: Final = 256


def blueprint(registry: Registry, *, delete: bool) -> Blueprint:
    """
    Make the routes.

    Args:
        delete: whether tags may be deleted.
    """
    bp = Blueprint("v1_tags", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v1/repositories/<path:repository>/tags")
    def list_tags(repository: ImageRepositoryName) -> Response:
        """List all tags and the images that they name."""
        return answer(registry.image_tags.list(repository))

    @bp.get("/v1/repositories/<path:repository>/tags/<tag>")
    def get_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Say which image a tag names."""
        return answer(str(registry.image_tags.get(repository, tag)))

    @bp.put("/v1/repositories/<path:repository>/tags/<tag>")
    def put_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Let a tag name an image."""
        image_id = registry.private_repositories.resolve_image(_read_id(), with_ancestors=True)
        registry.image_tags.put(repository, tag, image_id, _client())
        registry.private_repositories.reveal(repository, image_id)
        return answer(True)

    @bp.delete("/v1/repositories/<path:repository>/tags/<tag>")
    def delete_tag(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Forget a tag."""
        if not delete:
            raise Unsupported("Deletion is switched off.")
        registry.image_tags.delete(repository, tag)
        return answer(True)

    @bp.get("/v1/repositories/<path:repository>/tags/<tag>/json")
    def get_tag_json(repository: ImageRepositoryName, tag: Tag) -> Response:
        """Say who pushed a tag."""
        return answer(registry.image_tags.get_note(repository, tag))

    @bp.get("/v1/repositories/<path:repository>/json")
    def get_repository_json(repository: ImageRepositoryName) -> Response:
        """Say who pushed the tag latest."""
        return answer(registry.image_tags.get_repository_note(repository))

    return bp


def _read_id() -> ImageId:
    try:
        text = json.loads(requests.read_body(_MAX_ID_BYTES).decode("utf-8"))
    except (ValueError, RecursionError):
        raise BodyInvalid from None
    if not isinstance(text, str):
        raise BodyInvalid
    return ImageId.parse(text)


def _client() -> dict[str, str]:
    """Read what the client says of itself; whatever it says, the request succeeds."""
    words = (word.partition("/") for word in request.headers.get("User-Agent", "").split())
    said = {_CLIENT_WORDS[key]: value[:_MAX_WORD] for key, slash, value in words if slash and key in _CLIENT_WORDS}
    return {key: value.lower() if key in _LOWER_CASE else value for key, value in said.items()}
