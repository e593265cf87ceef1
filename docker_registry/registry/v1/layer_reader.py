"""
Reading the content of stored layers, within limits and outside the worker (:mod:`docker_registry.cpu_pool`).

Results do not depend on where a layer is read. Who asks for them stores them, refusals as well, with
:attr:`LayerReader.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from docker_registry.cpu_pool import CpuPool
from docker_registry.drivers.base import Bytes
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import layer_jobs
from docker_registry.registry.v1.layer_links import LayerLink


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What a layer is.

    Attributes:
        link: for the JSON with which it was inspected.
        is_archive: it begins like an archive.
        is_whole: it is an archive that could be read to its end.
        has_ended: it is a tar that has the mark at its end; False where no TarSum was asked for.
        tarsum: empty where none was asked for.
    """

    link: LayerLink
    is_archive: bool
    is_whole: bool
    has_ended: bool = False
    tarsum: str = ""


class LayerReader:
    """Reads layers; every method may raise Overloaded, ClientLeft and what reading the stored layer raises."""

    def __init__(self, limits: LayerLimits | None = None, *, max_processes: int = 2) -> None:
        """
        Args:
            max_processes: layers that a worker reads at a time.
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
        """Changes whenever another layer may be refused."""
        return self._limits.fingerprint

    def list(self, layer: Iterable[Bytes]) -> Iterator[bytes]:
        """
        Yield the record of a layer's files (:class:`~docker_registry.registry.layers.file_lists.FileList`).

        Raises:
            LayerFormatUnsupported: it is no tar in a known compression, it is damaged, or it was cut off.
            TooLarge: it exceeds a limit.
        """
        return self._pool.run("list", self._arguments(), [layer])

    def diff(self, records: Iterable[Iterable[Bytes]]) -> Iterator[bytes]:
        """
        Yield what the layer of the first record changes in those of the others, as API V1 gives it.

        Args:
            records: as :meth:`list` yields them.

        Raises:
            TooLarge: it takes too much time or memory.
        """
        return self._pool.run("diff", {}, records)

    def tarsum(self, image_json: bytes, layer: Iterable[Bytes]) -> str:
        """
        Return the TarSum of a layer.

        Raises:
            LayerFormatUnsupported, TooLarge: as for :meth:`list`.
        """
        return str(self._pool.result("tarsum", self._arguments(json=_text(image_json)), [layer]))

    def inspect(
        self, image_json: bytes, layer: Iterable[Bytes], *, with_tarsum: bool = False, as_sent: bool = False
    ) -> Facts:
        """
        Return what a layer is.

        Args:
            image_json: the stored bytes of the image's JSON.
            with_tarsum: the layer must be a tar, and its TarSum is wanted.
            as_sent: the layer is what clients of API V1 are sent: the plain tar where they could not unpack it.

        Raises:
            LayerFormatUnsupported, TooLarge: only with *as_sent*, if it cannot be unpacked.
        """
        arguments = self._arguments(json=_text(image_json), tarsum=with_tarsum, as_sent=as_sent)
        facts = self._pool.result("inspect", arguments, [layer])
        return Facts(**{**facts, "link": LayerLink.from_json(facts["link"])})

    def unpack(self, layer: Iterable[Bytes], diff_id: Digest) -> Iterator[bytes]:
        """
        Yield a layer without its compression.

        Raises:
            DigestInvalid: it is not what *diff_id* says; raised after the last block.
            LayerFormatUnsupported, TooLarge: as for :meth:`list`.
        """
        return self._pool.run("unpack", self._arguments(diff_id=str(diff_id)), [layer])

    def _arguments(self, **more: object) -> dict[str, object]:
        return {"limits": self._limits.to_json(), **more}


def _text(image_json: bytes) -> str:
    return image_json.decode("utf-8", "surrogateescape")
