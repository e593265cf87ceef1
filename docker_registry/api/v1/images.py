"""
API V1: routes that pull images.

``/v1/private_images`` answers for images of private repositories only, to clients that may see them.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.downloads import Downloads
from docker_registry.api.responses import json_response, origin_headers
from docker_registry.api.v1.responses import LAST_MODIFIED, cache_headers, is_unmodified, stored_json, streamed_json
from docker_registry.errors import ImageUnknown
from docker_registry.registry.names import ImageId, ImageRepositoryName
from docker_registry.registry.v1.images import Image
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.registry.v1.private_images import PrivateImages
from docker_registry.registry.v1.tokens import Token


def blueprint(pulls: Pulls) -> Blueprint:
    """Build the blueprint of the routes that pull images."""
    bp = Blueprint("v1_images", __name__)

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


def private_blueprint(pulls: Pulls, private: PrivateImages) -> Blueprint:
    """Build the blueprint of the routes that pull images of private repositories only; 404 for all others."""
    bp = Blueprint("v1_private_images", __name__)

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


class Pulls:
    """Builds the responses to pulls. Existence is checked before conditions such as If-Modified-Since."""

    def __init__(self, legacy: LegacyRegistry, downloads: Downloads) -> None:
        self._legacy = legacy
        self._downloads = downloads

    def json(self, image_id: ImageId) -> Response:
        """Return an image's JSON as pushed, with the size and checksums of its layer as headers."""
        token = self._token()
        # Docker asks with its write token, to find out what it need not push: that is only what the store has.
        found = self._legacy.image_pulls.image(
            image_id,
            None if token is None else token.name,
            principal=requests.principal(),
            with_sources=token is None or token.access != "write",
        )
        headers = self._cache_headers(image_id) | origin_headers(found.origin)
        return self._not_modified(image_id) or _describe(stored_json(found.value.payload, headers), found.value)

    def layer(self, image_id: ImageId) -> Response:
        """Send an image's layer or a part of it."""
        found = self._legacy.image_pulls.layer(image_id, self._repository(), principal=requests.principal())
        headers = self._cache_headers(image_id) | origin_headers(found.origin)
        headers["Content-Type"] = "application/octet-stream"
        return self._not_modified(image_id) or self._downloads.send(
            found.value, headers, LAST_MODIFIED, redirect_status=302
        )

    def ancestry(self, image_id: ImageId) -> Response:
        """Return the ids of an image and its ancestors, newest first."""
        found = self._legacy.image_pulls.ancestry(image_id, self._repository(), principal=requests.principal())
        headers = self._cache_headers(image_id) | origin_headers(found.origin)
        return self._not_modified(image_id) or json_response(found.value, headers=headers)

    def files(self, image_id: ImageId) -> Response:
        """Return the list of files in an image's layer."""
        files = self._legacy.image_files.files(image_id, principal=requests.principal())
        return self._not_modified(image_id) or streamed_json(files, self._cache_headers(image_id))

    def diff(self, image_id: ImageId) -> Response:
        """Return the changes that an image makes to its ancestors; an empty body until they are computed."""
        diff = self._legacy.image_files.diff(image_id, principal=requests.principal())
        if diff is None:
            return stored_json(b"")
        return self._not_modified(image_id) or streamed_json(diff, self._cache_headers(image_id))

    def _token(self) -> Token | None:
        """Return the token of API V1 in the request, which names the repository of the pull; None without one."""
        return self._legacy.tokens.read(request.headers.get("Authorization", ""))

    def _repository(self) -> ImageRepositoryName | None:
        token = self._token()
        return None if token is None else token.name

    def _cache_headers(self, image_id: ImageId) -> dict[str, str]:
        return cache_headers(is_private=self._legacy.private_images.is_private_image(image_id))

    def _not_modified(self, image_id: ImageId) -> Response | None:
        return Response(status=304, headers=self._cache_headers(image_id)) if is_unmodified() else None


def _describe(response: Response, image: Image) -> Response:
    if image.size is not None:
        response.headers["X-Docker-Size"] = str(image.size)
    for checksum in image.checksums:
        response.headers.add("X-Docker-Payload-Checksum", checksum)
    if image.checksums:
        response.headers["X-Docker-Checksum-Payload"] = image.checksums[0]
    return response
