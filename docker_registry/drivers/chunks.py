"""Regroup blocks of any size into chunks of equal size, for chunked uploads to object stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from docker_registry.drivers.base import Bytes


def chunks(blocks: Iterable[Bytes], size: int) -> Iterator[bytes]:
    """
    Regroup blocks into chunks of equal size.

    Args:
        size: bytes per chunk. The last chunk is always shorter than this, possibly empty, and always yielded.
    """
    buffer = bytearray()
    for block in blocks:
        with memoryview(block) as view:
            start = 0
            while len(buffer) + len(view) - start >= size:
                end = start + size - len(buffer)
                buffer += view[start:end]
                start = end
                yield _taken(buffer)
            buffer += view[start:]
    yield _taken(buffer)


def _taken(buffer: bytearray) -> bytes:
    content = bytes(buffer)
    buffer.clear()
    return content
