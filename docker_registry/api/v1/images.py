"""API V1: routes that pull images."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.v1.pulls import Pulls
from docker_registry.registry.names import ImageId


def blueprint(pulls: Pulls) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("v1_images", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v1/images/<image_id>/json")
    def get_json(image_id: ImageId) -> Response:
        """Return an image's JSON as pushed, with the size and checksums of its layer as headers."""
        return pulls.json(image_id)

    @bp.get("/v1/images/<image_id>/layer")
    def get_layer(image_id: ImageId) -> Response:
        """Send an image's layer or a part of it."""
        return pulls.layer(image_id)

    @bp.get("/v1/images/<image_id>/ancestry")
    def get_ancestry(image_id: ImageId) -> Response:
        """List the ids of an image and its ancestors, newest first."""
        return pulls.ancestry(image_id)

    @bp.get("/v1/images/<image_id>/files")
    def get_files(image_id: ImageId) -> Response:
        """List the files in an image's layer."""
        return pulls.files(image_id)

    @bp.get("/v1/images/<image_id>/diff")
    def get_diff(image_id: ImageId) -> Response:
        """Return the changes that an image makes to its ancestors; an empty body until they are computed."""
        return pulls.diff(image_id)

    return bp
