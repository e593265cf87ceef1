"""An in-memory driver for tests and experiments. Its content is private to the process and lost when that ends."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from docker_registry.drivers.base import ABSENT, Bytes, Capabilities, Stat, StorageDriver
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathNotFound, PreconditionFailed

_BLOCK_BYTES = 1024 * 1024


class MemoryDriver(StorageDriver):
    """Stores files in a dictionary."""

    capabilities = Capabilities(if_match=True, remove_if_match=True)

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.RLock()
        self._now: Callable[[], float] = time.time  # the clock of modification times
        self._last_time = 0.0

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return self._get(path)[0]

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        check_path(path)
        with self._lock:
            if if_match is not None and if_match != self._version(path):
                raise PreconditionFailed(path=path)
            self._put(path, bytes(content))

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        content = self.get_content(path)
        end = len(content) if length is None else min(offset + length, len(content))
        return (content[start : min(start + _BLOCK_BYTES, end)] for start in range(offset, end, _BLOCK_BYTES))

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        check_path(path)
        content = b"".join(bytes(block) for block in blocks)
        with self._lock:
            self._put(path, content)
        return len(content)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        prefix = f"{check_path(path)}/" if path else ""
        with self._lock:
            names = {file[len(prefix) :].partition("/")[0] for file in self._files if file.startswith(prefix)}
        if not names and path:
            raise PathNotFound(path=path)
        return (prefix + name for name in names)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        prefix = f"{check_path(path)}/" if path else ""
        with self._lock:
            found = [(file, *stored) for file, stored in self._files.items() if file.startswith(prefix)]
        return (Stat(file, len(content), modified) for file, content, modified in found)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        with self._lock:
            return check_path(path) in self._files or any(file.startswith(f"{path}/") for file in self._files)

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        content, modified = self._get(path)
        return Stat(path, len(content), modified)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        check_path(target)
        with self._lock:
            self._files[target] = self._get(source)
            if source != target:
                del self._files[source]

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with self._lock:
            self._put(path, self._get(path)[0])

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        check_path(path)
        with self._lock:
            gone = [file for file in self._files if file == path or file.startswith(f"{path}/")]
            if not gone:
                raise PathNotFound(path=path)
            for file in gone:
                del self._files[file]

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        with self._lock:
            if check_path(path) not in self._files or self._version(path) != version:
                raise PreconditionFailed(path=path)
            del self._files[path]

    def _version(self, path: str) -> str:
        stored = self._files.get(path)
        return ABSENT if stored is None else hashlib.sha256(stored[0]).hexdigest()

    def _get(self, path: str) -> tuple[bytes, float]:
        try:
            return self._files[check_path(path)]
        except KeyError:
            raise PathNotFound(path=path) from None

    def _put(self, path: str, content: bytes) -> None:
        # Modification times strictly increase, even when the clock is coarse.
        self._last_time = max(self._now(), self._last_time + 1e-6)
        self._files[path] = (content, self._last_time)
