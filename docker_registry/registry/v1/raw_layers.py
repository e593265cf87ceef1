"""
Raw layers: what docker-registry 0.7 to 0.9 wrote to ``images/<id>/layer``, in place and without a care for crashes.

Such a file may be cut off. So it is read once, before anybody is served from it, and held against the checksums that
lie beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.layers.tarsum import TarSum
from docker_registry.registry.names import Digest
from docker_registry.registry.v1.layer_links import Inspection, LayerLink
from docker_registry.threads import in_thread

_PAYLOAD_SUM = re.compile(r"sha256:[0-9a-f]{64}")
_TARSUM = re.compile(r"tarsum\+sha256:[0-9a-f]{64}")


def parse_checksums(content: bytes) -> tuple[str, ...]:
    """Read a ``_checksum``: a JSON list, or in very old trees one bare string."""
    text = content.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = text
    checksums = document if isinstance(document, list) else [document]
    return tuple(checksum for checksum in checksums if isinstance(checksum, str) and checksum.isprintable())


def verify(
    driver: StorageDriver,
    path: str,
    image_json: bytes,
    checksums: Sequence[str],
    *,
    is_finished: bool,
    max_unpacked_bytes: int,
) -> LayerLink | None:
    """
    Read a raw layer and tell what it is; None when it is not what was pushed.

    Args:
        image_json: the stored bytes of the image's JSON.
        checksums: what lies beside it.
        is_finished: whether its push had ended. If so, one of the checksums must be right. If not, they are worth
            little: 0.7.1 worked them out from what had come, cut off or not. Then the layer must also be an archive
            that can be read to its end.
        max_unpacked_bytes: uncompressed bytes at which it gives up to look inside.
    """
    tarsum = TarSum()
    known = {checksum for checksum in checksums if _PAYLOAD_SUM.fullmatch(checksum) or _TARSUM.fullmatch(checksum)}
    looks_inside = not is_finished or not any(map(_PAYLOAD_SUM.fullmatch, known))
    reader = TarReader(tarsum)
    inspection = Inspection(image_json, max_unpacked_bytes=max_unpacked_bytes, sinks=[reader] if looks_inside else [])
    content = hashlib.sha256()
    size = 0
    for block in driver.stream_read(path):
        in_thread(_look, content, inspection, block)
        size += len(block)
    is_whole = inspection.is_whole  # first: only then has the TarSum seen all
    computed = {inspection.payload_sum, tarsum.sum(image_json)}
    if known:
        is_good = bool(computed & known) and (is_finished or (is_whole and reader.has_ended))
    else:
        is_good = (is_whole and (is_finished or reader.has_ended)) or (is_finished and not inspection.is_archive)
    return inspection.link(Digest.from_hash(content), size, sorted(computed & known)) if is_good else None


def _look(content: hashlib._Hash, inspection: Inspection, block: bytes) -> None:
    content.update(block)
    inspection.look(block)
