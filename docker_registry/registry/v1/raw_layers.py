"""
Raw layers: what docker-registry 0.7 to 0.9 wrote to ``images/<id>/layer``, in place and without a care for crashes.

Such a file may be cut off. So it is read once, before anybody is served from it, and held against the checksums that
lie beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader

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
    reader: LayerReader,
    *,
    is_finished: bool,
) -> LayerLink | None:
    """
    Read a raw layer and tell what it is; None when it is not what was pushed.

    Args:
        image_json: the stored bytes of the image's JSON.
        checksums: what lies beside it.
        is_finished: whether its push had ended. If so, one of the checksums must be right. If not, they are worth
            little: 0.7.1 worked them out from what had come, cut off or not. Then the layer must also be an archive
            that can be read to its end.
    """
    known = {checksum for checksum in checksums if _PAYLOAD_SUM.fullmatch(checksum) or _TARSUM.fullmatch(checksum)}
    looks_inside = not is_finished or not any(map(_PAYLOAD_SUM.fullmatch, known))
    facts = reader.inspect(image_json, driver.stream_read(path), with_tarsum=looks_inside)
    computed = {facts.link.checksums[0], facts.tarsum}
    if known:
        is_good = bool(computed & known) and (is_finished or (facts.is_whole and facts.has_ended))
    else:
        is_good = (facts.is_whole and (is_finished or facts.has_ended)) or (is_finished and not facts.is_archive)
    if not is_good:
        return None
    payload_sum = facts.link.checksums[0]
    return replace(facts.link, checksums=tuple(dict.fromkeys((payload_sum, *sorted(computed & known)))))
