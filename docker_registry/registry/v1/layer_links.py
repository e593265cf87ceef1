"""
The link from a V1 image to its layer, and its fields that are computed while the layer is received.

``images/<id>/_blob`` links an image to its layer::

    {"digest": "sha256:9b1d…", "size": 1065536, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
     "diffId": "sha256:5f70…", "json": "sha256:0c2d…", "checksums": ["sha256:6b65…"], "rules": "1-68719476736-1100-300"}

``json`` is the digest of the image's JSON for which the checksums are valid; a link for another JSON, written by a push
that died, is ignored. ``rules`` identifies the limits of the inspection. If it is set, a ``diffId`` of null means that
the layer is not an archive or exceeds a limit; if it is empty, the layer has not been inspected yet.
``"mirrored": true`` says that the image came from a mirrored registry; it is part of the commit, so that no crash turns
such an image into a pushed one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from docker_registry.drivers.base import Bytes
from docker_registry.errors import DigestInvalid
from docker_registry.registry.layers.compression import Compression, sniff
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES
from docker_registry.registry.names import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

#: The first two are media types of layers in manifests; no client of API V2 reads the others.
MEDIA_TYPES: Final[Mapping[Compression | None, str]] = {
    "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "tar": "application/vnd.docker.image.rootfs.diff.tar",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "lzma": "application/x-lzma",
    "zstd": "application/zstd",
    None: "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class LayerLink:
    """
    The link from an image to its layer.

    Attributes:
        digest: the digest of the stored bytes.
        size: stored bytes.
        media_type: determined from the content of the layer, never from a client's claim.
        image_json: the digest of the image's JSON.
        checksums: the valid checksums of the layer with this JSON, the payload checksum first.
        diff_id: the digest of the uncompressed bytes; None if it is unknown or cannot be computed.
        rules: the limits of the inspection (:attr:`LayerLimits.fingerprint`); empty if the layer was not inspected.
        is_mirrored: whether the image came from a mirrored registry; otherwise a client pushed it.
    """

    digest: Digest
    size: int
    media_type: str
    image_json: Digest
    checksums: tuple[str, ...]
    diff_id: Digest | None = None
    rules: str = ""
    is_mirrored: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document to store."""
        return {
            "digest": str(self.digest),
            "size": self.size,
            "mediaType": self.media_type,
            "diffId": str(self.diff_id) if self.diff_id else None,
            "json": str(self.image_json),
            "checksums": list(self.checksums),
            "rules": self.rules,
            **({"mirrored": True} if self.is_mirrored else {}),
        }

    @classmethod
    def from_json(cls, document: Any) -> LayerLink:
        """
        Parse the result of :meth:`to_json`.

        Raises:
            ValueError: *document* is not a link.
        """
        try:
            return cls(
                digest=Digest.parse(document["digest"]),
                size=int(document["size"]),
                media_type=str(document["mediaType"]),
                image_json=Digest.parse(document["json"]),
                checksums=tuple(str(checksum) for checksum in document["checksums"]),
                diff_id=Digest.parse(document["diffId"]) if document["diffId"] else None,
                rules=str(document.get("rules", "")),
                is_mirrored=document.get("mirrored") is True,
            )
        except (KeyError, TypeError, AttributeError, DigestInvalid) as error:
            raise ValueError(f"not the link of a layer: {error}") from None

    @classmethod
    def parse(cls, content: bytes) -> LayerLink:
        """
        Parse a stored link.

        Raises:
            ValueError: *content* is not a link.
        """
        return cls.from_json(json.loads(content))

    def dump(self) -> bytes:
        """Serialize the link for storage."""
        return json.dumps(self.to_json()).encode()


def payload_checksum(image_json: bytes) -> _Hash:
    """
    Start the payload checksum of a layer: the SHA-256 of the image's JSON, a line feed and the layer.

    Args:
        image_json: the stored bytes of the image's JSON.

    Returns:
        A hash to be updated with the layer's stored bytes. The checksum, which Docker 0.10 and later send, is
        ``sha256:`` and its hexadecimal digest.
    """
    return hashlib.sha256(image_json + b"\n")


class Receipt:
    """Computes the inexpensive fields of a layer's link while the layer is received, without decompression."""

    def __init__(self, image_json: bytes) -> None:
        """
        Args:
            image_json: the stored bytes of the image's JSON.
        """
        self._image_json = Digest.of(image_json)
        self._payload = payload_checksum(image_json)
        self._beginning = b""

    def update(self, block: Bytes) -> None:
        """Process the next block; no reference to it is kept."""
        if len(self._beginning) < BLOCK_BYTES:
            self._beginning += bytes(block[: BLOCK_BYTES - len(self._beginning)])
        self._payload.update(block)

    @property
    def compression(self) -> Compression | None:
        """The compression that the layer begins with; None if it does not begin like an archive."""
        return sniff(self._beginning)

    def link(self, digest: Digest, size: int) -> LayerLink:
        """
        Return the link of the layer, marked as not inspected; call this after the last block.

        Args:
            digest, size: the digest and size of all received bytes.
        """
        return LayerLink(
            digest=digest,
            size=size,
            media_type=MEDIA_TYPES[self.compression],
            image_json=self._image_json,
            checksums=(f"sha256:{self._payload.hexdigest()}",),
        )
