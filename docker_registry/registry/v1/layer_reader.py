"""
Reading of the content of stored layers, within limits and in other processes (:mod:`docker_registry.cpu_pool.pool`).

The result for a layer depends only on its content and the limits. Callers store results, including rejections, together
with :attr:`LayerReader.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from docker_registry.cpu_pool.pool import CpuPool
from docker_registry.drivers.base import Bytes
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import layer_jobs
from docker_registry.registry.v1.layer_links import LayerLink


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """
    The result of the inspection of a layer.

    Attributes:
        link: the link for the JSON that was passed to the inspection.
        is_archive: whether the first bytes are those of an archive.
        is_complete: whether the layer is an archive that could be read completely.
        has_end_marker: whether the layer is a tar with an end-of-archive marker; False if no TarSum was requested.
        tarsum: the TarSum; empty if it was not requested.
    """

    link: LayerLink
    is_archive: bool
    is_complete: bool
    has_end_marker: bool = False
    tarsum: str = ""


class LayerReader:
    """Reads layers; every method may raise Overloaded, ClientLeft and the errors of reading the stored layer."""

    def __init__(self, limits: LayerLimits | None = None, *, max_processes: int = 2) -> None:
        """
        Args:
            limits: the limits for each layer; None for the defaults.
            max_processes: the maximum number of layers that a worker reads concurrently.
        """
        self._limits = limits or LayerLimits()
        self._pool = CpuPool(
            layer_jobs.__name__,
            layer_jobs.JOBS,
            max_processes=max_processes,
            max_seconds=self._limits.max_seconds,
        )

    @property
    def rules(self) -> str:
        """A text that changes whenever the set of rejected layers may change."""
        return self._limits.fingerprint

    def list(self, layer: Iterable[Bytes]) -> Iterator[bytes]:
        """
        Yield the record of a layer's file list (:class:`~docker_registry.registry.layers.file_lists.FileList`).

        Raises:
            LayerFormatUnsupported: the layer is not a tar in a supported compression, is damaged, or is truncated.
            TooLarge: the layer exceeds a limit.
        """
        return self._pool.run("list", self._arguments(), [layer])

    def diff(self, records: Iterable[Iterable[Bytes]]) -> Iterator[bytes]:
        """
        Yield the difference between a layer and those below it, as the JSON response of API V1.

        Args:
            records: the records from :meth:`list`, the topmost layer first.

        Raises:
            TooLarge: the computation takes too much time or memory.
        """
        return self._pool.run("diff", {}, records)

    def tarsum(self, image_json: Iterable[Bytes], layer: Iterable[Bytes]) -> str:
        """
        Return the TarSum of a layer.

        Args:
            image_json: the stored bytes of the image's JSON, in blocks.
            layer: as *image_json*, read only once a process is free.

        Raises:
            LayerFormatUnsupported, TooLarge: as for :meth:`list`.
        """
        return str(self._pool.result("tarsum", self._arguments(), [image_json, layer]))

    def inspect(
        self, image_json: bytes, layer: Iterable[Bytes], *, with_tarsum: bool = False, as_sent: bool = False
    ) -> LayerFacts:
        """
        Inspect a layer.

        Args:
            image_json: the stored bytes of the image's JSON.
            with_tarsum: compute the TarSum too; the layer then counts as complete only if it is a tar.
            as_sent: inspect the bytes that clients of API V1 receive: the uncompressed tar if they could not unpack the
                stored layer.

        Raises:
            LayerFormatUnsupported, TooLarge: only with *as_sent*, if the layer cannot be decompressed.
        """
        arguments = self._arguments(tarsum=with_tarsum, as_sent=as_sent)
        facts = self._pool.result("inspect", arguments, [[image_json], layer])
        return LayerFacts(**{**facts, "link": LayerLink.from_json(facts["link"])})

    def unpack(self, layer: Iterable[Bytes], diff_id: Digest) -> Iterator[bytes]:
        """
        Yield the uncompressed bytes of a layer.

        Raises:
            DigestInvalid: the bytes do not have the digest *diff_id*; raised after the last block.
            LayerFormatUnsupported, TooLarge: as for :meth:`list`.
        """
        return self._pool.run("unpack", self._arguments(diff_id=str(diff_id)), [layer])

    def _arguments(self, **more: object) -> dict[str, object]:
        return {"limits": self._limits.to_json(), **more}
