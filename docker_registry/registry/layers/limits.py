"""
Limits for reading the content of a layer.

A few kilobytes of a compressed layer can expand to terabytes, and a tar can consist of nothing but headers. All code
that reads a layer therefore stops at the first limit that is exceeded. The result for a layer, including a rejection,
is stored together with :attr:`LayerLimits.fingerprint`, so a rejection remains valid until a release or a setting
changes the limits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from docker_registry.errors import TooLarge

#: Increment this when a release accepts layers that an earlier one rejected, or the reverse.
_RULES_VERSION: Final = 1

#: Uncompressed bytes below which the ratio of a layer is not checked.
MIN_RATIO_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """
    The maximum size, ratio and time for reading a layer.

    Attributes:
        max_bytes: uncompressed bytes.
        max_ratio: uncompressed bytes per stored byte; checked once the layer exceeds :data:`MIN_RATIO_BYTES`. The ratio
            of gzip cannot exceed 1032, so the default never rejects a gzip layer.
        max_seconds: processor time for one layer, seconds.
    """

    max_bytes: int = 64 * 1024**3
    max_ratio: int = 1100
    max_seconds: float = 300

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever the set of rejected layers may change."""
        return f"{_RULES_VERSION}-{self.max_bytes}-{self.max_ratio}-{self.max_seconds:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LayerLimits:
        """Parse the result of :meth:`to_json`."""
        return cls(**document)

    def start(self) -> Meter:
        """Return a meter for one layer. It measures the processor time of the calling thread, which must read it."""
        return Meter(self)


class Meter:
    """Checks the ratio and time limits of one layer; :attr:`LayerLimits.max_bytes` is checked by the decompressor."""

    def __init__(self, limits: LayerLimits) -> None:
        self._limits = limits
        self._deadline = time.thread_time() + limits.max_seconds

    def check(self, stored_bytes: int, unpacked_bytes: int) -> None:
        """
        Check the limits after reading part of the layer.

        Args:
            stored_bytes: stored bytes read so far.
            unpacked_bytes: uncompressed bytes read so far.

        Raises:
            TooLarge: a limit is exceeded.
        """
        limits = self._limits
        if unpacked_bytes > max(MIN_RATIO_BYTES, stored_bytes * limits.max_ratio):
            raise TooLarge("The unpacked layer is larger than this registry allows.", max_ratio=limits.max_ratio)
        if time.thread_time() > self._deadline:
            raise TooLarge("Reading the layer takes longer than this registry allows.", max_seconds=limits.max_seconds)
