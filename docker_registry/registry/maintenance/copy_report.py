"""What a backup or a restoration did."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from docker_registry.drivers.base import Bytes
from docker_registry.errors import DigestInvalid
from docker_registry.registry.names import Digest

#: Called after each file with the files that were looked at so far, and the bytes that were copied.
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that could not be copied as it should be."""

    path: str
    reason: str


@dataclass(slots=True)
class CopyReport:
    """
    What a run did.

    Attributes:
        files: files that were looked at.
        copied_files, copied_bytes: those of them that were copied now.
        removed_files: files that were removed from the backup, since the store has them no more.
    """

    progress: Progress = lambda _files, _bytes: None
    files: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    removed_files: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def count(self, copied_bytes: int | None) -> None:
        """Count a file; None for one that was there."""
        self.files += 1
        if copied_bytes is not None:
            self.copied_files += 1
            self.copied_bytes += copied_bytes
        self.progress(self.files, self.copied_bytes)

    def add_damage(self, path: str, reason: str) -> None:
        """Note damage once."""
        damage = Damage(path, reason)
        if damage not in self.damaged:
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
    Pass blocks on, and refuse to end when they are not those of a digest.

    Raises:
        DigestInvalid: out of the iteration, after the last block.
    """
    content = hashlib.new(digest.algorithm)
    for block in blocks:
        content.update(block)
        yield block
    if Digest.from_hash(content) != digest:
        raise DigestInvalid(digest=str(digest), received=str(Digest.from_hash(content)))
