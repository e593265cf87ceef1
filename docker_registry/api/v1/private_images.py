"""API V1: routes that pull images of private repositories only, for clients that may see them; 404 for all others."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.v1.pulls import Pulls
from docker_registry.errors import ImageUnknown
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.private_images import PrivateImages


def blueprint(pulls: Pulls, private: PrivateImages) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("v1_private_images", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    def check(image_id: ImageId) -> None:
        if not private.is_private_image(image_id):
            raise ImageUnknown(id=str(image_id))

    @bp.get("/v1/private_images/<image_id>/json")
    def get_json(image_id: ImageId) -> Response:
        """Return an image's JSON as pushed, with the size and checksums of its layer as headers."""
        check(image_id)
        return pulls.json(image_id)

    @bp.get("/v1/private_images/<image_id>/layer")
    def get_layer(image_id: ImageId) -> Response:
        """Send an image's layer or a part of it."""
        check(image_id)
        return pulls.layer(image_id)

    @bp.get("/v1/private_images/<image_id>/files")
    def get_files(image_id: ImageId) -> Response:
        """List the files in an image's layer."""
        check(image_id)
        return pulls.files(image_id)

    return bp
