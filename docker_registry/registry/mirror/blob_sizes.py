"""
The sizes of blobs, as stated in the manifests that a worker has fetched.

The last bytes of a blob are withheld from clients until it is verified. By announcing a larger size, an upstream could
otherwise have all bytes of a blob sent to clients before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from docker_registry.errors import DigestInvalid, UpstreamError
from docker_registry.registry import json_scanner
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_scanner import Kind, Part
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.resources.memory_budget import JsonBudget

#: Memory for sizes, and the estimate for each.
_REMEMBERED_BYTES: Final = 4 * 1024 * 1024
_SIZE_BYTES: Final = 256

#: The size of a blob for which manifests state different sizes.
_CONTRADICTORY: Final = -1


class BlobSizes:
    """The sizes of blobs in manifests of upstreams."""

    def __init__(self, json_budget: JsonBudget) -> None:
        """
        Args:
            json_budget: limits the memory and time for large manifests.
        """
        self._json_budget = json_budget
        self._sizes: BoundedCache[tuple[str, Digest], int] = BoundedCache(_REMEMBERED_BYTES, lambda _: _SIZE_BYTES)

    def record(self, name: RepositoryName, manifest: bytes) -> None:
        """
        Remember the sizes of the blobs that a manifest of a repository names; does nothing if it is invalid.

        Raises:
            Overloaded: the manifest is large, and other large documents use the worker's memory.
        """
        if json_scanner.count_values(manifest) > json_scanner.MAX_VALUES:
            return
        with self._json_budget.reserve(manifest):
            try:
                for digest, size in _sizes(self._json_budget.pace(json_scanner.scan(manifest.decode()))):
                    known = self._sizes.get((str(name), digest))
                    self._sizes.put((str(name), digest), size if known in (None, size) else _CONTRADICTORY)
            except (ValueError, RecursionError):
                return

    def check(self, name: RepositoryName, digest: Digest, size: int | None) -> int | None:
        """
        Return the size of a blob that a repository has, bytes.

        Args:
            size: as the upstream announces it; None if it announces none.

        Returns:
            The size in the manifests, if they are known and agree; otherwise *size*.

        Raises:
            UpstreamError: the upstream announces another size than the manifests.
        """
        known = self._sizes.get((str(name), digest))
        if known is None or known == _CONTRADICTORY:
            return size
        if size not in (None, known):
            raise UpstreamError("The upstream registry has a blob of another size.", digest=str(digest), size=known)
        return known


def _sizes(manifest: Iterable[Part]) -> Iterator[tuple[Digest, int]]:
    config: dict[str, Any] = {}
    for part in manifest:
        if part.kind is Kind.ITEM and part.key == "config" and part.name in ("digest", "size"):
            config[part.name] = part.value
        elif part.kind is Kind.ITEM and part.key == "layers" and isinstance(part.value, dict):
            yield from _size(part.value)
    yield from _size(config)


def _size(descriptor: dict[str, Any]) -> Iterator[tuple[Digest, int]]:
    size = descriptor.get("size")
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        try:
            yield Digest.parse(str(descriptor.get("digest"))), size
        except DigestInvalid:
            return
