"""
Conversion of images between API V1 and V2, in both directions, exactly as Docker 1.10 to 17.05 did it.

The conversions are pure functions: an image always has the same ids, on every host. Docker's rules are in moby 1.12,
``image/v1/imagev1.go``, ``distribution/pull_v1.go`` and ``push_v1.go``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.errors import DigestInvalid
from docker_registry.registry.bridge import go_json
from docker_registry.registry.bridge.image_structure import ImageStructure
from docker_registry.registry.names import Descriptor, Digest, ImageId

MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"

#: Maximum layers of an image; Docker itself could run at most 127.
MAX_LAYERS: Final = 4096

#: Members of a V1 image's JSON that are not copied into a configuration.
_V1_ONLY: Final = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")

#: Members of a configuration that are not copied into the JSON of a V1 image.
_V2_ONLY: Final = ("rootfs", "history", "os.version", "os.features", "parent")


def to_config(payloads: Sequence[bytes], diff_ids: Sequence[Digest]) -> bytes:
    """
    Return the V2 configuration for a chain of V1 images; its digest is the image id that ``docker images`` showed.

    Args:
        payloads: the JSON of each image of the chain, oldest first.
        diff_ids: the digest of each image's uncompressed layer.

    Raises:
        ValueError: one of the payloads is invalid; Docker could not read it either.
    """
    structures = [ImageStructure(payload) for payload in payloads]
    newest = structures[-1].to_json() if structures[-1].is_from_old_docker else payloads[-1]
    members = {key: raw for key, raw in go_json.read_map(newest).items() if key not in _V1_ONLY}
    members["history"] = f"[{','.join(structure.history() for structure in structures)}]"
    texts = ",".join(go_json.string(str(diff_id)) for diff_id in diff_ids)
    members["rootfs"] = f'{{"type":"layers","diff_ids":[{texts}]}}'
    return go_json.write_map(members)


def to_manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """Return a manifest for a configuration, in Docker's schema 2, which every client of API V2 reads."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(Descriptor(CONFIG, Digest.of(config), len(config))),
        "layers": [_descriptor(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Chain:
    """
    The V1 images that Docker derived from one V2 image, one for each layer.

    Attributes:
        ids: oldest first; the newest id is the digest of the configuration, an older one the chain id of the layers up
            to it.
        diff_ids: the digest of each image's uncompressed layer; empty for a V2 image without layers, which becomes one
            V1 image with an empty layer.
        newest: the JSON of the newest image.
    """

    ids: tuple[ImageId, ...]
    diff_ids: tuple[Digest, ...]
    newest: bytes

    def payload(self, position: int) -> bytes:
        """Return the JSON of the image at *position*, counted from the oldest."""
        if position == len(self.ids) - 1:
            return self.newest
        parent = f',"parent":"{self.ids[position - 1]}"' if position else ""
        return f'{{"id":"{self.ids[position]}"{parent}}}'.encode()

    def ancestry(self, position: int) -> tuple[str, ...]:
        """Return the ids of the image at *position* and of all its ancestors, newest first."""
        return tuple(str(image_id) for image_id in reversed(self.ids[: position + 1]))


def to_chain(config: bytes) -> Chain:
    """
    Derive the chain of V1 images from a V2 image.

    Args:
        config: the configuration of the V2 image.

    Raises:
        ValueError: *config* is not a valid image configuration, or has more than :data:`MAX_LAYERS` layers.
    """
    members = go_json.read_map(config)
    diff_ids = _diff_ids(json.loads(members.get("rootfs", "null")))
    # The id of the newest image comes from the configuration; the chain id of all layers is not used.
    ids = (*_chain_ids(diff_ids)[:-1], ImageId(Digest.of(config).hex))
    v1_members = {key: raw for key, raw in members.items() if key not in _V2_ONLY}
    v1_members["id"] = go_json.string(str(ids[-1]))
    if len(ids) > 1:
        v1_members["parent"] = go_json.string(str(ids[-2]))
    return Chain(ids, diff_ids, go_json.write_map(v1_members))


def _chain_ids(diff_ids: Sequence[Digest]) -> list[ImageId]:
    chain_ids: list[ImageId] = []
    for diff_id in diff_ids:
        text = hashlib.sha256(f"sha256:{chain_ids[-1]} {diff_id}".encode()).hexdigest() if chain_ids else diff_id.hex
        chain_ids.append(ImageId(text))
    return chain_ids


def _diff_ids(rootfs: Any) -> tuple[Digest, ...]:
    texts = rootfs.get("diff_ids", []) if isinstance(rootfs, dict) else None
    texts = [] if isinstance(rootfs, dict) and texts is None else texts  # Go writes a nil slice as null
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("the configuration lists no layers")
    if len(texts) > MAX_LAYERS:
        raise ValueError("the image has more layers than clients accept")
    try:
        diff_ids = tuple(map(Digest.parse, texts))
    except DigestInvalid:
        raise ValueError("the configuration has a layer without a digest") from None
    if any(diff_id.algorithm != "sha256" for diff_id in diff_ids):
        raise ValueError("the configuration uses a digest algorithm that API V1 does not support")
    return diff_ids


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size, "digest": str(descriptor.digest)}
