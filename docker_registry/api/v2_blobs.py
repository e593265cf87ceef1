"""API V2: blobs, whole and in part."""

from __future__ import annotations

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.errors import Unsupported
from docker_registry.registry import Registry
from docker_registry.registry.blobs import Blob
from docker_registry.registry.names import Digest, RepositoryName

_YEAR_SECONDS = 31536000


def blueprint(registry: Registry, *, delete: bool) -> Blueprint:
    """
    Make the routes.

    Args:
        delete: whether blobs may be deleted.
    """
    bp = Blueprint("v2_blobs", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v2/<path:name>/blobs/<digest>")
    def get_blob(name: RepositoryName, digest: Digest) -> Response:
        """Serve a blob, or a part of it (end-2)."""
        blob = registry.blobs.stat(name, digest)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": f"max-age={_YEAR_SECONDS}",
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
        }
        if requests.is_unmodified(headers["ETag"]):
            return Response(status=304, headers=headers)
        part = requests.byte_range(blob.size, headers["ETag"])
        start, length = (part.start, part.length) if part else (0, blob.size)
        headers["Content-Length"] = str(length)
        if part:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{blob.size}"
        return _send(blob, start, length, 206 if part else 200, headers)

    @bp.delete("/v2/<path:name>/blobs/<digest>")
    def delete_blob(name: RepositoryName, digest: Digest) -> Response:
        """Take a blob from a repository (end-10)."""
        if not delete:
            raise Unsupported("Deleting is switched off.")
        registry.blobs.delete(name, digest)
        return Response(status=202, headers={"Docker-Content-Digest": str(digest)})

    def _send(blob: Blob, start: int, length: int, status: int, headers: dict[str, str]) -> Response:
        if request.method == "HEAD":
            return requests.stream((), status, headers)
        wrapper = request.environ.get("wsgi.file_wrapper")
        file = registry.blobs.open(blob) if wrapper else None
        if wrapper is None or file is None:
            return requests.stream(registry.blobs.read(blob, start, length), status, headers)
        file.seek(start)
        return requests.stream(wrapper(file, _FILE_BLOCK_BYTES), status, headers)

    return bp


#: For servers that read the file themselves instead of letting the kernel send it.
_FILE_BLOCK_BYTES = 256 * 1024
