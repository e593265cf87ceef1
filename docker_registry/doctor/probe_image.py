"""The image that the doctor pushes."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Final

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"

#: Bytes of the blob; less than any limit of bodies that a proxy has by default.
_BLOB_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProbeImage:
    """A manifest with one blob of random content, and an index of which a manifest is missing."""

    blob: bytes = field(default_factory=lambda: os.urandom(_BLOB_BYTES))

    @property
    def digest(self) -> str:
        """Digest of the blob."""
        return digest_of(self.blob)

    @property
    def manifest(self) -> bytes:
        """The manifest."""
        described = {"mediaType": "application/octet-stream", "digest": self.digest, "size": len(self.blob)}
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": []}
        return json.dumps(document).encode()

    @property
    def index(self) -> bytes:
        """The index; no registry has its manifest."""
        described = {"mediaType": MANIFEST_TYPE, "digest": digest_of(self.digest.encode()), "size": 2}
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [described]}).encode()

    @property
    def manifests(self) -> tuple[str, ...]:
        """Digests of the manifest and the index."""
        return digest_of(self.manifest), digest_of(self.index)


def digest_of(content: bytes) -> str:
    """Return the digest of some content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
