"""
Verification of legacy layers, which docker-registry 0.7 to 0.9 wrote to ``images/<id>/layer`` in place.

After a crash, such a file may be truncated. Before it is served, it is therefore read once and compared with the
checksums that are stored beside it.
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
    """Parse a ``_checksum`` file: a JSON list, or in very old trees a single bare string."""
    text = content.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = text
    checksums = document if isinstance(document, list) else [document]
    texts = (checksum for checksum in checksums if isinstance(checksum, str))
    return tuple(text for text in texts if text.isascii() and text.isprintable())  # no header can carry damaged ones


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
    Verify a legacy layer.

    Args:
        image_json: the stored bytes of the image's JSON.
        checksums: the checksums stored beside the image.
        is_finished: whether the push of the image had ended. If so, a checksum must match. If not, the layer must also
            be a complete tar with an end-of-archive marker, because 0.7.1 computed the checksums from the received
            bytes, even if they were truncated.

    Returns:
        The link of the layer with its valid checksums; None if it is not the layer that was pushed. Without a usable
        checksum, a finished layer is valid unless it is a damaged archive, and an unfinished one if it is a complete
        tar.
    """
    known = {checksum for checksum in checksums if _PAYLOAD_SUM.fullmatch(checksum) or _TARSUM.fullmatch(checksum)}
    with_tarsum = not is_finished or not any(map(_PAYLOAD_SUM.fullmatch, known))
    facts = reader.inspect(image_json, driver.stream_read(path), with_tarsum=with_tarsum)
    computed = {facts.link.checksums[0], facts.tarsum}
    is_complete_tar = facts.is_complete and facts.has_end_marker
    if known:
        is_valid = bool(computed & known) and (is_finished or is_complete_tar)
    else:
        is_valid = is_complete_tar or (is_finished and (facts.is_complete or not facts.is_archive))
    if not is_valid:
        return None
    payload_sum = facts.link.checksums[0]
    return replace(facts.link, checksums=tuple(dict.fromkeys((payload_sum, *sorted(computed & known)))))
