"""Pages of referrers, bounded in entries and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Maximum bytes of the descriptors on a page. Clients reject an index of more than 4 MiB (oras-go, containerd).
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024 - 1024


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of the referrers of a manifest.

    Attributes:
        entries: descriptors, serialized as JSON.
        last: the digest after which the next page begins; None on the last page.
    """

    entries: tuple[bytes, ...]
    last: str | None


class PageBuilder:
    """
    Collects the descriptors of a page until it is full.

    Attributes:
        examined: the number of digests that were added, whether or not they are listed.
    """

    def __init__(self, max_entries: int) -> None:
        """
        Args:
            max_entries: maximum number of descriptors on the page.
        """
        self.examined = 0
        self._max_entries = max_entries
        self._entries: list[bytes] = []
        self._size_bytes = 0
        self._last = ""

    def add(self, digest: str, entry: bytes | None) -> bool:
        """
        Add an examined digest.

        Args:
            entry: its descriptor; None if it is not listed.

        Returns:
            Whether the descriptor fits; if not, the page ends before it.
        """
        if entry is not None:
            size = len(entry) + 1
            if len(self._entries) == self._max_entries or (self._entries and self._size_bytes + size > MAX_PAGE_BYTES):
                return False
            self._entries.append(entry)
            self._size_bytes += size
        self.examined += 1
        self._last = digest
        return True

    def end(self, *, has_more: bool) -> Page:
        """Return the page."""
        return Page(tuple(self._entries), self._last if has_more else None)
