"""The report of a backup or a restoration, and verification of copied blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from docker_registry.drivers.base import Bytes
from docker_registry.errors import DigestInvalid
from docker_registry.registry.names import Digest

#: Called after each file with the number of files examined and the number of bytes copied so far.
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is missing or damaged."""

    path: str
    reason: str


@dataclass(slots=True)
class CopyReport:
    """
    The counts and damages of a run.

    Attributes:
        files: the number of files examined.
        copied_files, copied_bytes: the number and size of the files that were copied.
        removed_files: the number of files removed from the backup because the store does not have them.
        damaged: the content that could not be copied.
    """

    progress: Progress = lambda _files, _bytes: None
    files: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    removed_files: int = 0
    damaged: list[Damage] = field(default_factory=list)
    _recorded: set[Damage] = field(default_factory=set, repr=False, compare=False)

    def count(self, copied_bytes: int | None) -> None:
        """Count a file, and report progress; *copied_bytes* is None for a file that did not need to be copied."""
        self.files += 1
        if copied_bytes is not None:
            self.copied_files += 1
            self.copied_bytes += copied_bytes
        self.progress(self.files, self.copied_bytes)

    def add_damage(self, path: str, reason: str) -> None:
        """Record damage, unless it is already recorded."""
        damage = Damage(path, reason)
        if damage not in self._recorded:
            self._recorded.add(damage)
            self.damaged.append(damage)

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return {
            "files": self.files,
            "copiedFiles": self.copied_files,
            "copiedBytes": self.copied_bytes,
            "removedFiles": self.removed_files,
            "damaged": [asdict(damage) for damage in self.damaged],
        }


def verified(blocks: Iterable[Bytes], digest: Digest) -> Iterator[Bytes]:
    """
    Yield blocks and verify their digest.

    Raises:
        DigestInvalid: the blocks do not have the digest; raised by the iteration after the last block.
    """
    content = hashlib.new(digest.algorithm)
    for block in blocks:
        content.update(block)
        yield block
    if Digest.from_hash(content) != digest:
        raise DigestInvalid(digest=str(digest), received=str(Digest.from_hash(content)))
