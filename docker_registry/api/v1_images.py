"""API V1: images, for those who pull."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.v1_pulls import Pulls
from docker_registry.registry.names import ImageId


def blueprint(pulls: Pulls) -> Blueprint:
    """Make the routes."""
    bp = Blueprint("v1_images", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v1/images/<image_id>/json")
    def get_json(image_id: ImageId) -> Response:
        """Return an image's JSON as it was pushed, and what is known of its layer."""
        return pulls.json(image_id)

    @bp.get("/v1/images/<image_id>/layer")
    def get_layer(image_id: ImageId) -> Response:
        """Send an image's layer, or a part of it."""
        return pulls.layer(image_id)

    @bp.get("/v1/images/<image_id>/ancestry")
    def get_ancestry(image_id: ImageId) -> Response:
        """List an image and all below it, newest first."""
        return pulls.ancestry(image_id)

    @bp.get("/v1/images/<image_id>/files")
    def get_files(image_id: ImageId) -> Response:
        """List the files in an image's layer."""
        return pulls.files(image_id)

    @bp.get("/v1/images/<image_id>/diff")
    def get_diff(image_id: ImageId) -> Response:
        """Say what an image changes in those below it; nothing while that is not worked out."""
        return pulls.diff(image_id)

    return bp
