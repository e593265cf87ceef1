"""Layers of a mirrored registry, as bodies of pushes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from docker_registry.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from docker_registry.registry.ingest import BlockBody
from docker_registry.registry.mirror.responses import UpstreamBlob

logger = logging.getLogger(__name__)

#: Attempts to receive the rest of a layer after a broken connection.
MAX_RESUMES: Final = 3


class LayerBody(BlockBody):
    """
    A layer that is being received.

    Attributes:
        length: bytes of the layer; None if the registry announces none.
    """

    def __init__(self, stream: UpstreamBlob, reopen: Callable[[int], UpstreamBlob | None], size: int | None) -> None:
        """
        Args:
            stream: the layer from its first byte on.
            reopen: opens the layer again at an offset; None if the registry does not have it any more.
            size: bytes of the layer that the registry stated with its image; None if it stated none.

        Raises:
            UpstreamError: the registry now announces another size.
        """
        super().__init__(size if stream.size is None else stream.size)
        self._stream = stream
        self._reopen = reopen
        self._resumes = 0
        self._blocks: Iterator[bytes] = stream.blocks()
        if size not in (None, self.length):
            self.close()
            raise UpstreamError("The mirrored registry sent a layer of another size than it stated.")

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def next_block(self) -> bytes:
        """
        See :class:`~docker_registry.registry.ingest.BlockBody`.

        Raises:
            UpstreamError: the connection broke too often, or the layer is longer than announced.
        """
        while True:
            try:
                block = next(self._blocks, b"")
            except (UpstreamUnavailable, UpstreamTimeout) as error:
                if self._resumes == MAX_RESUMES:
                    raise
                logger.info("a layer is continued at byte %d after: %s", self.received, error)
            else:
                if self.length is not None and self.received + len(block) > self.length:
                    raise UpstreamError("The mirrored registry sent a longer layer than it announced.")
                return block
            self._resumes += 1
            self._stream.close()
            stream = self._reopen(self.received)
            if stream is None:
                raise UpstreamError("The mirrored registry does not have the layer any more.")
            self._stream, self._blocks = stream, stream.blocks()
