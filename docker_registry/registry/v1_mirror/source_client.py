"""
The client of a mirrored registry of API V1 and its index.

Docker gets a token with the list of a repository's images from the index, where it may log in, and shows it to the
registry; so does this client. A registry that issues no tokens gets the account itself. Answers are bounded; their
content is checked where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import requests

from docker_registry.errors import UpstreamDenied, UpstreamError
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.mirror.responses import MAX_MANIFEST_BYTES, UpstreamBlob, range_headers
from docker_registry.registry.mirror.upstream_connection import UpstreamConnection
from docker_registry.registry.names import ImageId, ImageRepositoryName

#: Longest list, or JSON of an image, that is accepted.
MAX_ANSWER_BYTES: Final = MAX_MANIFEST_BYTES

#: Memory for the tokens of repositories.
_TOKENS_BYTES: Final = 1024 * 1024

_PARTIAL: Final = 206
_CHECKSUM: Final = re.compile(r"(?:tarsum\+)?sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """
    The JSON of an image as a registry sent it.

    Attributes:
        size: bytes of the layer; None if the registry does not say.
        checksums: checksums of the layer.
    """

    payload: bytes
    size: int | None
    checksums: tuple[str, ...]


class SourceClient:
    """Asks a registry of API V1; methods return None where it answers 404, and raise UpstreamError."""

    def __init__(self, registry: UpstreamConnection, index: UpstreamConnection) -> None:
        """
        Args:
            index: has the lists of images, and the search; may be *registry* itself.
        """
        self.upstream = registry.upstream
        self._registry = registry
        self._index = index
        self._tokens: BoundedCache[str, str] = BoundedCache(_TOKENS_BYTES, len)

    def list_images(self, name: ImageRepositoryName) -> bytes | None:
        """Return the list of a repository's images, as JSON."""
        headers = {"X-Docker-Token": "true", **_authorization(self._index.login())}
        response = self._index.send("GET", f"v1/repositories/{name}/images", headers)
        if response is None:
            return None
        token = response.headers.get("X-Docker-Token", "")
        if token and token.isascii() and token.isprintable():
            self._tokens.put(str(name), token)
        return self._index.read(response, MAX_ANSWER_BYTES)

    def list_tags(self, name: ImageRepositoryName) -> bytes | None:
        """Return the tags of a repository with the ids of their images, as JSON."""
        return self._read(self._get(f"v1/repositories/{name}/tags", name))

    def get_image(self, image_id: ImageId, name: ImageRepositoryName | None) -> ImageAnswer | None:
        """
        Return the JSON of an image.

        Args:
            name: the repository whose token is shown.
        """
        response = self._get(f"v1/images/{image_id}/json", name)
        if response is None:
            return None
        headers = response.headers
        texts = f"{headers.get('X-Docker-Checksum-Payload', '')},{headers.get('X-Docker-Payload-Checksum', '')}"
        checksums = [text for text in map(str.strip, texts.split(",")) if is_checksum(text)]
        size = headers.get("X-Docker-Size", "")
        return ImageAnswer(
            self._registry.read(response, MAX_ANSWER_BYTES),
            int(size) if size.isascii() and size.isdigit() and len(size) < 19 else None,
            tuple(dict.fromkeys(checksums)),
        )

    def get_ancestry(self, image_id: ImageId, name: ImageRepositoryName | None) -> bytes | None:
        """Return the ids of an image and its ancestors, as JSON; *name* as for :meth:`get_image`."""
        return self._read(self._get(f"v1/images/{image_id}/ancestry", name))

    def open_layer(
        self,
        image_id: ImageId,
        name: ImageRepositoryName | None,
        start: int = 0,
        end: int | None = None,
        validator: str = "",
    ) -> UpstreamBlob | None:
        """
        Start to receive a layer, or a part of it.

        Args:
            name: as for :meth:`get_image`.
            start: offset of the first byte.
            end: offset after the last byte; None for the end of the layer.
            validator: of the response that brought the bytes before *start*; empty if there is none.
        """
        headers = range_headers(start, end, validator)
        response = self._get(f"v1/images/{image_id}/layer", name, headers)
        return None if response is None else self._registry.blob(response, start)

    def search(self, query: str, size: int) -> bytes | None:
        """Return the repositories whose names contain a text, as JSON."""
        headers = _authorization(self._index.login())
        response = self._index.send("GET", f"v1/search?{urlencode({'q': query, 'n': size})}", headers)
        return None if response is None else self._index.read(response, MAX_ANSWER_BYTES)

    # ------------------------------------------------------------------------------------------------- steps

    def _get(
        self, path: str, name: ImageRepositoryName | None, headers: Mapping[str, str] | None = None
    ) -> requests.Response | None:
        """Send a request to the registry; if it wants a token, or another one, once more with a new one."""
        accepted = {200, _PARTIAL} if headers else {200}
        others = headers or {}
        sent = self._token(name) or self._registry.login()
        try:
            return self._registry.send("GET", path, {**others, **_authorization(sent)}, accepted)
        except UpstreamDenied:
            has_list = name is not None and self.list_images(name) is not None
            renewed = (self._token(name) if has_list else None) or self._registry.login(renew=True)
            if renewed is None or (renewed == sent and not renewed.startswith("Token ")):
                raise
        return self._registry.send("GET", path, {**others, **_authorization(renewed)}, accepted)

    def _token(self, name: ImageRepositoryName | None) -> str | None:
        token = None if name is None else self._tokens.get(str(name))
        return None if token is None else f"Token {token}"

    def _read(self, response: requests.Response | None) -> bytes | None:
        return None if response is None else self._registry.read(response, MAX_ANSWER_BYTES)


def _authorization(header: str | None) -> dict[str, str]:
    return {} if header is None else {"Authorization": header}


def is_checksum(text: str) -> bool:
    """Return whether a text is a payload sum or a TarSum."""
    return _CHECKSUM.fullmatch(text) is not None


def invalid(what: str, source: SourceClient) -> UpstreamError:
    """Return the error for an answer that is not what it should be."""
    return UpstreamError(f"The mirrored registry sent {what}.", upstream=source.upstream.name)
