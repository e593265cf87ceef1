"""Blocks of any size become chunks of one size, which the large files of object stores are sent in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from docker_registry.drivers.base import Bytes


def chunks(blocks: Iterable[Bytes], size: int) -> Iterator[bytes]:
    """
    Join and cut blocks.

    Args:
        size: bytes of every chunk; the last one is shorter, and there is always one, if only an empty one.
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
