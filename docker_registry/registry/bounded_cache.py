"""An in-memory LRU cache with a size limit in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: Approximate memory of an entry in addition to the content of its value.
ENTRY_BYTES: Final = 256


class BoundedCache(Generic[Key, Value]):
    """A mapping that evicts the least recently used entries when it exceeds its size limit."""

    def __init__(self, max_bytes: int, content_bytes: Callable[[Value], int] = lambda _: 0) -> None:
        """
        Args:
            max_bytes: the maximum size of all entries together. A single entry that exceeds it is not stored.
            content_bytes: returns the size of a value's content in bytes; needed if values differ in size.
        """
        self._max_bytes = max_bytes
        self._content_bytes = content_bytes
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, or None, and mark it as recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value) -> None:
        """Store a value, and evict old entries if necessary."""
        self.forget(key)
        size = ENTRY_BYTES + self._content_bytes(value)
        if size > self._max_bytes:
            return
        self._entries[key] = (value, size)
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self.forget(next(iter(self._entries)))

    def forget(self, key: Key) -> None:
        """Remove the value of a key, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry[1]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries
