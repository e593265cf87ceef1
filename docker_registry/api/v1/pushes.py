"""API V1: routes that push images: JSON, layer, checksum, in this order."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.responses import json_response
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.registry.v1.pushes import Checksum

#: Limit for the JSON of an image; the largest realistic configuration has a few hundred kilobytes.
_MAX_JSON_BYTES: Final = 4 * 1024 * 1024

#: The version in a User-Agent of Docker, ``docker/0.9.1 go/go1.2.1 kernel/3.13``.
_DOCKER_VERSION: Final = re.compile(r"docker/(\d{1,4})\.(\d{1,4})(?!\d)", re.ASCII)

#: Docker before this version sends a payload checksum of the uncompressed layer, if any.
_FIRST_WITH_PAYLOAD_CHECKSUM: Final = (0, 10)


def blueprint(legacy: LegacyRegistry) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("v1_pushes", __name__)

    @bp.put("/v1/images/<image_id>/json")
    def put_json(image_id: ImageId) -> Response:
        """Start the push of an image."""
        body = requests.read_body(_MAX_JSON_BYTES)
        legacy.image_pushes.put_json(image_id, body, is_proof=requests.must_prove(), actor=requests.actor("push"))
        return json_response(True)

    @bp.put("/v1/images/<image_id>/layer")
    def put_layer(image_id: ImageId) -> Response:
        """Receive an image's layer."""
        legacy.image_pushes.put_layer(
            image_id, requests.body(), is_proof=requests.must_prove(), actor=requests.actor("push")
        )
        return json_response(True)

    @bp.put("/v1/images/<image_id>/checksum")
    def put_checksum(image_id: ImageId) -> Response:
        """Verify the layer and commit the image."""
        headers = request.headers
        checksum = Checksum(
            headers.get("X-Docker-Checksum-Payload"),
            headers.get("X-Docker-Checksum"),
            is_payload_decisive=_sends_payload_checksum(headers.get("User-Agent", "")),
        )
        legacy.image_pushes.put_checksum(
            image_id, checksum, is_proof=requests.must_prove(), actor=requests.actor("push")
        )
        if requests.must_prove():
            legacy.image_memberships.prove(image_id, requests.principal())
        legacy.image_files.request_diff(image_id)
        return json_response(True)

    return bp


def _sends_payload_checksum(user_agent: str) -> bool:
    """Return whether the client is a Docker that computes the payload checksum correctly."""
    match = _DOCKER_VERSION.match(user_agent)
    return match is not None and (int(match[1]), int(match[2])) >= _FIRST_WITH_PAYLOAD_CHECKSUM
