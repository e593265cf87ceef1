"""API V1: images, pulled and pushed."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.downloads import Downloads
from docker_registry.api.v1_answers import LAST_MODIFIED, answer, is_unmodified, lasting, stored
from docker_registry.registry import Registry
from docker_registry.registry.image_pushes import Checksum
from docker_registry.registry.images import Image
from docker_registry.registry.names import ImageId

#: An image's JSON with all that its configuration can hold is some hundred kilobytes.
_MAX_JSON_BYTES: Final = 4 * 1024 * 1024


def blueprint(registry: Registry, downloads: Downloads) -> Blueprint:
    """Make the routes."""
    bp = Blueprint("v1_images", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v1/images/<image_id>/json")
    def get_json(image_id: ImageId) -> Response:
        """Return an image's JSON as it was pushed, and what is known of its layer."""
        image = registry.images.get(image_id)
        headers = lasting(is_private=False)
        if is_unmodified():
            return Response(status=304, headers=headers)
        return _describe(stored(image.payload, headers), image)

    @bp.put("/v1/images/<image_id>/json")
    def put_json(image_id: ImageId) -> Response:
        """Begin the push of an image."""
        registry.image_pushes.put_json(image_id, requests.read_body(_MAX_JSON_BYTES))
        return answer(True)

    @bp.get("/v1/images/<image_id>/layer")
    def get_layer(image_id: ImageId) -> Response:
        """Send an image's layer, or a part of it."""
        file = registry.images.layer(image_id)
        headers = lasting(is_private=False)
        if is_unmodified():
            return Response(status=304, headers=headers)
        return downloads.send(file, {**headers, "Content-Type": "application/octet-stream"}, LAST_MODIFIED)

    @bp.put("/v1/images/<image_id>/layer")
    def put_layer(image_id: ImageId) -> Response:
        """Receive an image's layer."""
        registry.image_pushes.put_layer(image_id, requests.body())
        return answer(True)

    @bp.put("/v1/images/<image_id>/checksum")
    def put_checksum(image_id: ImageId) -> Response:
        """End the push of an image."""
        headers = request.headers
        checksum = Checksum(headers.get("X-Docker-Checksum-Payload"), headers.get("X-Docker-Checksum"))
        registry.image_pushes.put_checksum(image_id, checksum)
        return answer(True)

    @bp.get("/v1/images/<image_id>/ancestry")
    def get_ancestry(image_id: ImageId) -> Response:
        """List an image and all below it, newest first."""
        registry.images.check(image_id)
        ancestry = registry.images.ancestry(image_id)
        headers = lasting(is_private=False)
        if is_unmodified():
            return Response(status=304, headers=headers)
        return answer(ancestry, headers=headers)

    return bp


def _describe(response: Response, image: Image) -> Response:
    if image.size is not None:
        response.headers["X-Docker-Size"] = str(image.size)
    for checksum in image.checksums:
        response.headers.add("X-Docker-Payload-Checksum", checksum)
    if image.checksums:
        response.headers["X-Docker-Checksum-Payload"] = image.checksums[0]
    return response
