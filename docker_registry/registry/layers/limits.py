"""
Limits for reading inside a layer.

A few kilobytes of a compressed layer can expand to terabytes, and a tar can hold nothing but headers. So whatever reads
a layer stops at the first of these limits. What a layer came to, a refusal included, is stored together with
:attr:`LayerLimits.fingerprint`: a refusal holds until a release or a setting changes the limits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from docker_registry.errors import TooLarge

#: Changes whenever a release reads layers that an earlier one refused, or the other way round.
_RULES_VERSION: Final = 1

#: Uncompressed bytes that a layer of any size may expand to before its ratio counts.
MIN_RATIO_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """
    How much of a layer is read.

    Attributes:
        max_bytes: uncompressed bytes.
        max_ratio: uncompressed bytes for each stored byte, beyond the first :data:`MIN_RATIO_BYTES`. gzip cannot
            exceed 1032, so the default never refuses a layer in gzip.
        max_seconds: processor time for one layer.
    """

    max_bytes: int = 64 * 1024**3
    max_ratio: int = 1100
    max_seconds: float = 300

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever another layer may be refused."""
        return f"{_RULES_VERSION}-{self.max_bytes}-{self.max_ratio}-{self.max_seconds:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LayerLimits:
        """Read what :meth:`to_json` returned."""
        return cls(**document)

    def start(self) -> Meter:
        """Begin to measure one layer, which the calling thread reads."""
        return Meter(self)


class Meter:
    """What reading one layer has used of its ratio and its time; :attr:`LayerLimits.max_bytes` is checked elsewhere."""

    def __init__(self, limits: LayerLimits) -> None:
        self._limits = limits
        self._ends = time.thread_time() + limits.max_seconds

    def check(self, stored_bytes: int, unpacked_bytes: int) -> None:
        """
        Compare what was read so far with the limits.

        Raises:
            TooLarge: a limit is exceeded.
        """
        limits = self._limits
        if unpacked_bytes > max(MIN_RATIO_BYTES, stored_bytes * limits.max_ratio):
            raise TooLarge("The layer expands further than this registry reads.", max_ratio=limits.max_ratio)
        if time.thread_time() > self._ends:
            raise TooLarge("The layer takes longer to read than this registry allows.", max_seconds=limits.max_seconds)
