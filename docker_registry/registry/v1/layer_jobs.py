"""
Jobs of a :class:`~docker_registry.cpu_pool.pool.CpuPool` that process the content of layers.

Each job takes its arguments as JSON, and yields its output in blocks. The last part of its input is the stored bytes of
the layer, except for ``diff``. All but ``diff`` take ``limits``, the JSON of
:class:`~docker_registry.registry.layers.limits.LayerLimits`. The jobs raise LayerFormatUnsupported and TooLarge
depending on the layer's content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from docker_registry.cpu_pool.process import Job, Parts
from docker_registry.drivers.base import Bytes
from docker_registry.errors import DigestInvalid, LayerFormatUnsupported, StorageError, TooLarge
from docker_registry.registry.layers.archives import DiffId, Expansion, Sink, uncompressed
from docker_registry.registry.layers.compression import Compression, sniff
from docker_registry.registry.layers.file_lists import FileList, FileLister, FileListWriter, diff
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.layers.tarsum import TarSum, tarsum
from docker_registry.registry.names import Digest
from docker_registry.registry.v1.layer_links import MEDIA_TYPES, LayerLink, Receipt

#: The compressions that clients of API V1 can unpack; layers in any other are sent to them as an uncompressed tar.
_READABLE: Final[frozenset[Compression]] = frozenset({"tar", "gzip", "bzip2", "xz"})

#: Bytes at the beginning of a layer that show its compression.
BEGINNING_BYTES: Final = BLOCK_BYTES

#: Maximum bytes of the file list of a layer.
MAX_LIST_BYTES: Final = 128 * 1024 * 1024


def is_readable(beginning: bytes) -> bool:
    """Return whether clients of API V1 can unpack a layer, given its first :data:`BEGINNING_BYTES`."""
    return sniff(beginning) in _READABLE


def list_files(arguments: Mapping[str, Any], parts: Parts) -> Iterator[bytes]:
    """Yield the file list of a layer in the format of :meth:`FileList.record`."""
    limits = LayerLimits.from_json(arguments["limits"])
    lister = FileLister()
    reader = TarReader(lister)
    writer = FileListWriter()
    size = 0
    for block in uncompressed(_layer(parts), max_bytes=limits.max_bytes, meter=limits.start()):
        reader.feed(block)
        record = writer.write(lister.take())
        size += len(record)
        if size > MAX_LIST_BYTES:
            raise TooLarge("The layer has too many files.", max_list_bytes=MAX_LIST_BYTES)
        if record:
            yield record
    reader.finish()
    yield writer.finish(lister.files.opaque)


def list_changes(_: Mapping[str, Any], parts: Parts) -> Iterator[bytes]:
    """Yield the difference between a layer and those below it; the input parts are their records, the layer's first."""
    try:
        records = [FileList.parse(b"".join(part)) for part in parts]
    except ValueError:
        raise StorageError("A stored file list is damaged.") from None
    yield diff(records).answer()


def compute_tarsum(arguments: Mapping[str, Any], parts: Parts) -> Iterator[bytes]:
    """Yield the TarSum of a layer as a JSON string; the first input part is the image's JSON."""
    limits = LayerLimits.from_json(arguments["limits"])
    image_json = b"".join(next(parts))
    result = tarsum(image_json, _layer(parts), max_bytes=limits.max_bytes, meter=limits.start())
    yield json.dumps(result).encode()


def inspect(arguments: Mapping[str, Any], parts: Parts) -> Iterator[bytes]:
    """
    Yield the facts about a layer; the first input part is the image's JSON::

        {"link": {…}, "is_archive": true, "is_complete": true, "has_end_marker": true, "tarsum": "tarsum+sha256:…"}

    With ``as_sent``, the facts are about the bytes that clients of API V1 receive, not about the stored ones. The last
    two fields are present only with ``tarsum``; the layer then counts as complete only if it is a tar.
    """
    limits = LayerLimits.from_json(arguments["limits"])
    image_json = b"".join(next(parts))
    sums = TarSum()
    reader = TarReader(sums)
    sinks = [reader] if arguments["tarsum"] else []
    inspection = Inspection(image_json, limits=limits, sinks=sinks)
    content = hashlib.sha256()
    size = 0
    layer = _layer(parts)
    for block in _as_sent(layer, limits) if arguments["as_sent"] else layer:
        content.update(block)
        inspection.update(block)
        size += len(block)
    link = inspection.link(Digest.from_hash(content), size)
    facts = {"link": link.to_json(), "is_archive": inspection.is_archive, "is_complete": inspection.is_complete}
    if arguments["tarsum"]:
        facts |= {"has_end_marker": reader.has_end_marker, "tarsum": sums.sum(image_json)}
    yield json.dumps(facts).encode()


def unpack(arguments: Mapping[str, Any], parts: Parts) -> Iterator[bytes]:
    """
    Yield the uncompressed bytes of a layer, and verify that their digest is the argument ``diff_id``.

    Raises:
        DigestInvalid: the digest differs; raised after the last block.
    """
    limits = LayerLimits.from_json(arguments["limits"])
    content = hashlib.sha256()
    for block in uncompressed(_layer(parts), max_bytes=limits.max_bytes, meter=limits.start()):
        content.update(block)
        yield bytes(block)
    if str(Digest.from_hash(content)) != arguments["diff_id"]:
        raise DigestInvalid(digest=arguments["diff_id"], received=str(Digest.from_hash(content)))


class Inspection:
    """
    Inspects a layer block by block.

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
        self._receipt = Receipt(image_json)
        self._diff_id = DiffId()
        self._expansion = Expansion(self._diff_id, *sinks, max_bytes=limits.max_bytes, meter=limits.start())
        self._finding: Compression | LayerFormatUnsupported | TooLarge | None = None

    def update(self, block: Bytes) -> None:
        """Process the next block; no reference to it is kept."""
        self._receipt.update(block)
        self._expansion.update(block)

    @property
    def is_archive(self) -> bool:
        """True if the layer begins like an archive."""
        return self._receipt.compression is not None

    @property
    def is_complete(self) -> bool:
        """True if the whole layer was read as an archive. Meaningful only after the last block."""
        return not isinstance(self._finish(), Exception)

    def link(self, digest: Digest, size: int) -> LayerLink:
        """
        Return the link of the inspected layer; call this after the last block.

        Args:
            digest, size: the digest and size of all blocks.
        """
        finding = self._finish()
        link = replace(self._receipt.link(digest, size), rules=self._rules)
        if isinstance(finding, TooLarge):
            return link
        if isinstance(finding, LayerFormatUnsupported):
            return replace(link, media_type=MEDIA_TYPES[None])
        return replace(link, diff_id=self._diff_id.digest)

    def _finish(self) -> Compression | LayerFormatUnsupported | TooLarge:
        if self._finding is None:
            try:
                self._finding = self._expansion.finish()
            except (LayerFormatUnsupported, TooLarge) as error:
                self._finding = error
        return self._finding


JOBS: Final[Mapping[str, Job]] = {
    "list": list_files,
    "diff": list_changes,
    "tarsum": compute_tarsum,
    "inspect": inspect,
    "unpack": unpack,
}


def _layer(parts: Parts) -> Iterator[Bytes]:
    return chain.from_iterable(parts)


def _as_sent(layer: Iterator[Bytes], limits: LayerLimits) -> Iterator[Bytes]:
    beginning: list[Bytes] = []
    while sum(map(len, beginning)) < BLOCK_BYTES and (block := next(layer, None)) is not None:
        beginning.append(block)
    stored = chain(beginning, layer)
    compression = sniff(b"".join(beginning)[:BLOCK_BYTES])
    if compression is None or compression in _READABLE:
        return stored
    return uncompressed(stored, max_bytes=limits.max_bytes, meter=limits.start())
