"""
Images for tests, generated from a seed: the same seed gives the same bytes.

A registry stores an image as a configuration and layers (blobs) and a manifest that names them; an
:class:`Index` names the manifests of several platforms.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.clients.v2 import INDEX_TYPES, OCI_INDEX, OCI_MANIFEST, Client, Pulled, digest_of, encoded

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Describe a content (OCI image-spec, descriptor.md)."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


@dataclass(frozen=True)
class Image:
    """
    An image for one platform.

    Attributes:
        manifest: the payload.
    """

    architecture: str
    config: bytes
    layers: tuple[bytes, ...]
    manifest: bytes = field(init=False)
    media_type: str = field(init=False, default=OCI_MANIFEST)

    def __post_init__(self) -> None:
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(self.config, OCI_CONFIG),
            "layers": [descriptor(layer, OCI_LAYER) for layer in self.layers],
        }
        object.__setattr__(self, "manifest", encoded(document))

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest_of(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Layers and configuration by their digests, in the order in which clients push them."""
        return {digest_of(content): content for content in (*self.layers, self.config)}

    @property
    def contents(self) -> dict[str, bytes]:
        """Everything by its digest, the manifest included."""
        return self.blobs | {self.digest: self.manifest}


@dataclass(frozen=True)
class Index:
    """
    The same image for several platforms.

    Attributes:
        manifest: the payload.
    """

    images: tuple[Image, ...]
    manifest: bytes = field(init=False)
    media_type: str = field(init=False, default=OCI_INDEX)

    def __post_init__(self) -> None:
        entries = [
            descriptor(image.manifest, OCI_MANIFEST, platform={"architecture": image.architecture, "os": "linux"})
            for image in self.images
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        object.__setattr__(self, "manifest", encoded(document))

    @property
    def digest(self) -> str:
        """The index's digest."""
        return digest_of(self.manifest)

    @property
    def contents(self) -> dict[str, bytes]:
        """Everything by its digest: the index, the manifests and their blobs."""
        everything = {self.digest: self.manifest}
        for image in self.images:
            everything |= image.contents
        return everything


def make_tar(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed tar with these files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(file), 0o644
            archive.addfile(member, io.BytesIO(file))
    return content.getvalue()


def make_image(seed: object, layers: int = 2, layer_bytes: int = 50_000, architecture: str = "amd64") -> Image:
    """
    Make an image out of random files.

    Args:
        layer_bytes: of each layer, about.
    """
    source = random.Random(f"{seed}")
    tars = [make_tar({f"file-{number}": source.randbytes(layer_bytes)}) for number in range(layers)]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": {"seed": f"{seed}"}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"seed {seed}"} for _ in tars],
    }
    return Image(architecture, encoded(config), tuple(gzip.compress(tar, 1, mtime=0) for tar in tars))


def make_index(seed: object, architectures: tuple[str, ...] = ("amd64", "arm64"), **image: int) -> Index:
    """Make an image for several platforms."""
    return Index(tuple(make_image(f"{seed} {name}", architecture=name, **image) for name in architectures))


def push(client: Client, name: str, tag: str, image: Image | Index, way: str = "streamed") -> None:
    """Push an image or an index as clients do: content first, then the manifests that reference it."""
    if isinstance(image, Index):
        for child in image.images:
            push(client, name, child.digest, child, way)
    else:
        for digest, content in image.blobs.items():
            if not client.has_blob(name, digest):
                client.push_blob(name, content, way)
    client.put_manifest(name, tag, image.manifest, image.media_type)


def pull(client: Client, name: str, reference: str) -> dict[str, bytes]:
    """Return all content that a reference leads to, verified, by digest."""
    manifest = client.get_manifest(name, reference)
    everything = {manifest.digest: manifest.payload}
    for digest in named_manifests(manifest):
        everything |= pull(client, name, digest)
    for entry in named_blobs(manifest):
        everything[entry["digest"]] = client.get_blob(name, entry["digest"])
        assert entry["size"] == len(everything[entry["digest"]])
    return everything


def named_manifests(manifest: Pulled) -> list[str]:
    """Return the digests of the manifests that an index names; none for an image."""
    if manifest.media_type not in INDEX_TYPES:
        return []
    return [entry["digest"] for entry in manifest.document["manifests"]]


def named_blobs(manifest: Pulled) -> list[dict[str, Any]]:
    """Return the descriptors of the configuration and the layers of an image; none for an index."""
    if manifest.media_type in INDEX_TYPES:
        return []
    return [manifest.document["config"], *manifest.document["layers"]]


def write_layout(folder: Path, image: Image | Index, tag: str) -> None:
    """Write an OCI image layout (image-spec, image-layout.md), the form in which tools read images from disk."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, content in image.contents.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(content)
    entry = descriptor(image.manifest, image.media_type, annotations={"org.opencontainers.image.ref.name": tag})
    (folder / "oci-layout").write_bytes(encoded({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(encoded({"schemaVersion": 2, "manifests": [entry]}))


def read_layout(folder: Path) -> dict[str, bytes]:
    """Return every content of an OCI image layout by its digest."""
    return {f"sha256:{path.name}": path.read_bytes() for path in (folder / "blobs" / "sha256").iterdir()}
