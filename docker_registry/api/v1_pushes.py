"""API V1: routes that push images: JSON, layer, checksum, in this order."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.v1_answers import answer
from docker_registry.registry import Registry
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.pushes import Checksum

#: Limit for the JSON of an image; the largest realistic configuration has a few hundred kilobytes.
_MAX_JSON_BYTES: Final = 4 * 1024 * 1024


def blueprint(registry: Registry) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("v1_pushes", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.put("/v1/images/<image_id>/json")
    def put_json(image_id: ImageId) -> Response:
        """Start the push of an image."""
        registry.image_pushes.put_json(image_id, requests.read_body(_MAX_JSON_BYTES))
        return answer(True)

    @bp.put("/v1/images/<image_id>/layer")
    def put_layer(image_id: ImageId) -> Response:
        """Receive an image's layer."""
        registry.image_pushes.put_layer(image_id, requests.body())
        return answer(True)

    @bp.put("/v1/images/<image_id>/checksum")
    def put_checksum(image_id: ImageId) -> Response:
        """Verify the layer and commit the image."""
        headers = request.headers
        checksum = Checksum(headers.get("X-Docker-Checksum-Payload"), headers.get("X-Docker-Checksum"))
        registry.image_pushes.put_checksum(image_id, checksum)
        registry.image_files.ask_for_diff(image_id)
        return answer(True)

    return bp
