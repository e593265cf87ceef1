"""
The link from a V1 image to its layer, and the computation of its fields while the layer is read.

``images/<id>/_blob`` links an image to its layer::

    {"digest": "sha256:9b1d…", "size": 1065536, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
     "diffId": "sha256:5f70…", "json": "sha256:0c2d…", "checksums": ["sha256:6b65…"], "rules": "1-68719476736-1100-300"}

``json`` is the digest of the image's JSON for which the checksums are valid; a link for another JSON, written by a push
that died, is ignored. ``rules`` identifies the limits of the inspection. If it is set, a ``diffId`` of null means that
the layer is not an archive or exceeds a limit; if it is empty, the layer has not been inspected yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.drivers.base import Bytes
from docker_registry.errors import DigestInvalid, LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.archives import DiffId, Expansion, Sink
from docker_registry.registry.layers.compression import Compression, sniff
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES
from docker_registry.registry.layers.tarsum import payload_checksum
from docker_registry.registry.names import Digest

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
    """

    digest: Digest
    size: int
    media_type: str
    image_json: Digest
    checksums: tuple[str, ...]
    diff_id: Digest | None = None
    rules: str = ""

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

    def link(self, digest: Digest, size: int) -> LayerLink:
        """
        Return the link of the layer, marked as not inspected; call this after the last block.

        Args:
            digest, size: the digest and size of all received bytes.
        """
        return LayerLink(
            digest=digest,
            size=size,
            media_type=MEDIA_TYPES[sniff(self._beginning)],
            image_json=self._image_json,
            checksums=(f"sha256:{self._payload.hexdigest()}",),
        )


class Inspection:
    """
    Inspects a layer block by block; may be called from different threads, but only one at a time.

    It never raises because of the layer's content: a layer that is not a tar is stored like any other.
    """

    def __init__(self, image_json: bytes, *, limits: LayerLimits, sinks: Sequence[Sink] = ()) -> None:
        """
        Args:
            image_json: the stored bytes of the image's JSON.
            limits: the limits for reading the layer; if it exceeds them, it gets no diff_id.
            sinks: further recipients of the uncompressed bytes.
        """
        self._rules = limits.fingerprint
        self._image_json = Digest.of(image_json)
        self._payload = payload_checksum(image_json)
        self._diff_id = DiffId()
        self._expansion = Expansion(self._diff_id, *sinks, max_bytes=limits.max_bytes, meter=limits.start())
        self._beginning = b""
        self._finding: Compression | LayerFormatUnsupported | TooLarge | None = None

    def update(self, block: Bytes) -> None:
        """Process the next block; no reference to it is kept."""
        if len(self._beginning) < BLOCK_BYTES:
            self._beginning += bytes(block[: BLOCK_BYTES - len(self._beginning)])
        self._payload.update(block)
        self._expansion.update(block)

    @property
    def payload_sum(self) -> str:
        """The payload checksum of the blocks so far."""
        return f"sha256:{self._payload.hexdigest()}"

    @property
    def is_archive(self) -> bool:
        """Whether the first bytes of the layer are those of an archive."""
        return sniff(self._beginning) is not None

    @property
    def is_complete(self) -> bool:
        """Whether the layer is an archive that could be read completely; valid only after the last block."""
        return not isinstance(self._finish(), Exception)

    def link(self, digest: Digest, size: int, checksums: Sequence[str] = ()) -> LayerLink:
        """
        Return the link of the inspected layer; call this after the last block.

        Args:
            digest, size: the digest and size of all blocks.
            checksums: further checksums known to be valid.
        """
        finding = self._finish()
        if isinstance(finding, LayerFormatUnsupported):
            compression, diff_id = None, None
        elif isinstance(finding, TooLarge):
            compression, diff_id = sniff(self._beginning), None
        else:
            compression, diff_id = finding, self._diff_id.digest
        return LayerLink(
            digest=digest,
            size=size,
            media_type=MEDIA_TYPES[compression],
            image_json=self._image_json,
            checksums=tuple(dict.fromkeys((self.payload_sum, *checksums))),
            diff_id=diff_id,
            rules=self._rules,
        )

    def _finish(self) -> Compression | LayerFormatUnsupported | TooLarge:
        if self._finding is None:
            try:
                self._finding = self._expansion.finish()
            except (LayerFormatUnsupported, TooLarge) as error:
                self._finding = error
        return self._finding
