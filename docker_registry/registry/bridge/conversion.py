"""
How an image of API V1 becomes one of API V2, and the other way round, exactly as Docker 1.10 to 17.05 did it.

Both ways are pure: the same image has the same ids on every host and for ever. Docker's rules are in moby 1.12,
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

#: Layers of an image; the deepest that Docker could run had 127.
MAX_LAYERS: Final = 4096

#: What belongs to one image of API V1 alone, and has no place in a configuration.
_OF_V1: Final = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")

#: What API V1 did not know.
_OF_V2: Final = ("rootfs", "history", "os.version", "os.features", "parent")


def to_config(payloads: Sequence[bytes], diff_ids: Sequence[Digest]) -> bytes:
    """
    Return the configuration of an image of API V1; its digest is what ``docker images`` showed as the image's id.

    Args:
        payloads: the JSON of each image of the chain, the oldest first.
        diff_ids: the digest of the uncompressed layer of each.

    Raises:
        ValueError: Docker could not read one of them either.
    """
    structures = [ImageStructure(payload) for payload in payloads]
    newest = structures[-1].to_json() if structures[-1].was_made_by_old_docker else payloads[-1]
    members = {key: raw for key, raw in go_json.read_map(newest).items() if key not in _OF_V1}
    members["history"] = f"[{','.join(structure.history() for structure in structures)}]"
    members["rootfs"] = f'{{"type":"layers","diff_ids":[{",".join(go_json.string(str(each)) for each in diff_ids)}]}}'
    return go_json.write_map(members)


def to_manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """Return the manifest around a configuration: Docker's schema 2, which every client of API V2 reads."""
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
    The images of API V1 that Docker made of one of V2, one for each layer.

    Attributes:
        ids: the oldest first; the newest has the id of the image of V2, an older one that of the layers up to it.
        diff_ids: the digest of the uncompressed layer of each; none for an image without layers, which becomes one
            image with an empty one.
        newest: the JSON of the newest.
    """

    ids: tuple[ImageId, ...]
    diff_ids: tuple[Digest, ...]
    newest: bytes

    def payload(self, position: int) -> bytes:
        """Return the JSON of an image, counted from the oldest."""
        if position == len(self.ids) - 1:
            return self.newest
        parent = f',"parent":"{self.ids[position - 1]}"' if position else ""
        return f'{{"id":"{self.ids[position]}"{parent}}}'.encode()

    def ancestry(self, position: int) -> tuple[str, ...]:
        """Return the ids of an image and of all below it, newest first."""
        return tuple(str(image_id) for image_id in reversed(self.ids[: position + 1]))


def to_chain(config: bytes) -> Chain:
    """
    Return the images of API V1 that an image of V2 is.

    Args:
        config: its configuration.

    Raises:
        ValueError: it is not the configuration of an image.
    """
    members = go_json.read_map(config)
    diff_ids = _diff_ids(json.loads(members.get("rootfs", "null")))
    # The newest image is known by its configuration, so the id of all its layers together is nobody's.
    ids = (*_chain_ids(diff_ids)[:-1], ImageId(Digest.of(config).hex))
    kept = {key: raw for key, raw in members.items() if key not in _OF_V2}
    kept["id"] = go_json.string(str(ids[-1]))
    if len(ids) > 1:
        kept["parent"] = go_json.string(str(ids[-2]))
    return Chain(ids, diff_ids, go_json.write_map(kept))


def _chain_ids(diff_ids: Sequence[Digest]) -> list[ImageId]:
    found: list[ImageId] = []
    for diff_id in diff_ids:
        text = hashlib.sha256(f"sha256:{found[-1]} {diff_id}".encode()).hexdigest() if found else diff_id.hex
        found.append(ImageId(text))
    return found


def _diff_ids(rootfs: Any) -> tuple[Digest, ...]:
    found = rootfs.get("diff_ids", []) if isinstance(rootfs, dict) else None
    found = [] if isinstance(rootfs, dict) and found is None else found  # a list of Go's that was never filled
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("the configuration has no list of its layers")
    if len(found) > MAX_LAYERS:
        raise ValueError("the image has more layers than any client reads")
    try:
        diff_ids = tuple(map(Digest.parse, found))
    except DigestInvalid:
        raise ValueError("the configuration names a layer by no digest") from None
    if any(diff_id.algorithm != "sha256" for diff_id in diff_ids):
        raise ValueError("the configuration names its layers by digests that API V1 has no ids for")
    return diff_ids


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size, "digest": str(descriptor.digest)}
