"""
What is known of the layer of an image of API V1, and how it is found out while the layer passes.

``images/<id>/_blob`` links an image to its layer::

    {"digest": "sha256:9b1d…", "size": 1065536, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
     "diffId": "sha256:5f70…", "json": "sha256:0c2d…", "checksums": ["sha256:6b65…"], "rules": "1-68719476736-1100-300"}

``json`` is the digest of the image's JSON for which the checksums are good: a link that was made for another JSON, by a
push that died, counts for nothing. ``rules`` names the limits within which the layer was inspected: with them, a
``diffId`` of null means that the layer is no archive or exceeds a limit. Without them it was not inspected yet.
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

#: The first two are layers as manifests name them; the others no client of API V2 reads.
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
    A layer, and the image that it belongs to.

    Attributes:
        size: bytes as stored.
        media_type: by its content, never by what anybody said of it.
        image_json: digest of the image's JSON.
        checksums: that are good for the layer and this JSON, the payload sum first.
        diff_id: digest of the uncompressed bytes; None where it is not known, or there is none.
        rules: the limits within which the layer was inspected (:attr:`LayerLimits.fingerprint`); empty before that.
    """

    digest: Digest
    size: int
    media_type: str
    image_json: Digest
    checksums: tuple[str, ...]
    diff_id: Digest | None = None
    rules: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as the document that is stored."""
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
        Read what :meth:`to_json` has made.

        Raises:
            ValueError: it is something else.
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
        Read a stored link.

        Raises:
            ValueError: it is something else.
        """
        return cls.from_json(json.loads(content))

    def dump(self) -> bytes:
        """Return the bytes to store."""
        return json.dumps(self.to_json()).encode()


class Receipt:
    """Sees a layer while it is received, and computes what costs little whatever is in the layer."""

    def __init__(self, image_json: bytes) -> None:
        """
        Args:
            image_json: the stored bytes of the image's JSON.
        """
        self._image_json = Digest.of(image_json)
        self._payload = payload_checksum(image_json)
        self._beginning = b""

    def update(self, block: Bytes) -> None:
        """Take the next block, which is not kept."""
        if len(self._beginning) < BLOCK_BYTES:
            self._beginning += bytes(block[: BLOCK_BYTES - len(self._beginning)])
        self._payload.update(block)

    def link(self, digest: Digest, size: int) -> LayerLink:
        """
        Return what is known of the layer, which is not inspected yet; call it when the layer has ended.

        Args:
            digest, size: of all that was received.
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
    Looks at a layer while it passes, block after block, from any one thread at a time.

    It never raises because of what is in the layer: a layer that is no tar is kept like any other.
    """

    def __init__(self, image_json: bytes, *, limits: LayerLimits, sinks: Sequence[Sink] = ()) -> None:
        """
        Args:
            image_json: the stored bytes of the image's JSON.
            limits: beyond which the diff_id is given up.
            sinks: further readers of the uncompressed bytes.
        """
        self._rules = limits.fingerprint
        self._image_json = Digest.of(image_json)
        self._payload = payload_checksum(image_json)
        self._diff_id = DiffId()
        self._expansion = Expansion(self._diff_id, *sinks, max_bytes=limits.max_bytes, meter=limits.start())
        self._beginning = b""
        self._finding: Compression | LayerFormatUnsupported | TooLarge | None = None

    def look(self, block: Bytes) -> None:
        """Take the next block, which is not kept."""
        if len(self._beginning) < BLOCK_BYTES:
            self._beginning += bytes(block[: BLOCK_BYTES - len(self._beginning)])
        self._payload.update(block)
        self._expansion.update(block)

    @property
    def payload_sum(self) -> str:
        """The payload sum of what has passed."""
        return f"sha256:{self._payload.hexdigest()}"

    @property
    def is_archive(self) -> bool:
        """Whether the layer begins like an archive."""
        return sniff(self._beginning) is not None

    @property
    def is_whole(self) -> bool:
        """Whether the layer is an archive that could be read to its end; ask when it has ended."""
        return not isinstance(self._finish(), Exception)

    def link(self, digest: Digest, size: int, checksums: Sequence[str] = ()) -> LayerLink:
        """
        Return all that was found out; call it when the layer has ended.

        Args:
            digest, size: of all that has passed.
            checksums: further ones that are known to be good.
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
