"""What a worker remembers of its work, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: What an entry takes besides its key's and its value's own content, about.
ENTRY_BYTES: Final = 256


class BoundedCache(Generic[Key, Value]):
    """A mapping that forgets the entries that were used longest ago when it has become too large."""

    def __init__(self, max_bytes: int, content_bytes: Callable[[Value], int] = lambda _: 0) -> None:
        """
        Args:
            max_bytes: of all entries together. An entry that alone takes more is not kept.
            content_bytes: tells what a value's content takes, where values differ in size.
        """
        self._max_bytes = max_bytes
        self._content_bytes = content_bytes
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: Key) -> Value | None:
        """Return a value; None when it is not, or no longer, here."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value) -> None:
        """Remember a value."""
        self.forget(key)
        size = ENTRY_BYTES + self._content_bytes(value)
        if size > self._max_bytes:
            return
        self._entries[key] = (value, size)
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self.forget(next(iter(self._entries)))

    def forget(self, key: Key) -> None:
        """Forget a value, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry[1]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries
