"""
Large files in Swift: static large objects (SLO), whose segments lie where no list shows them.

::

    ROOT/images/0a1b/layer                               the manifest, of type application/octet-stream; segments=3f9c…
    ROOT/.docker-registry/segments/3f9c…/00000000        16 MiB each
    ROOT/.docker-registry/segments/3f9c…/m00000000       a manifest of its own for the first 1000, where there are more

A file is moved by copying its manifest, so for a moment, and after a crash for longer, two of them name the same
segments. That is why nobody who removes a file removes its segments: those that no manifest names are swept by age.
A list of Swift shows types, so one walk over the lists tells which segments are named, without reading a manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any, Final

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.swift.container import Entry, SwiftContainer
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.threads import in_thread

#: How many segments Swift takes in one manifest where it does not say.
_MANIFEST_SEGMENTS: Final = 1000
_TYPE: Final = "application/octet-stream"
_NAMED = re.compile(r";\s*segments=([0-9a-f]+)")


class Segments:
    """The segments of all large files below one root."""

    def __init__(self, container: SwiftContainer, folder: str, segment_bytes: int) -> None:
        """
        Args:
            folder: where they lie, with a slash at its end.
            segment_bytes: a file of more is kept in segments of this size.
        """
        self._container = container
        self._folder = folder
        self._segment_bytes = segment_bytes

    def write(self, name: str, blocks: Iterable[Bytes]) -> int:
        """
        Publish an object of any size once its source has ended; of one that fails nothing stays.

        Returns:
            Its size in bytes.
        """
        large, buffer = _LargeObject(self._container, self._folder), BytesIO()
        try:
            for block in blocks:
                rest = memoryview(block)
                while rest:
                    room = self._segment_bytes - buffer.tell()
                    if room == 0:
                        large.add(buffer)
                        buffer = BytesIO()
                        continue
                    buffer.write(rest[:room])
                    rest = rest[room:]
            size = buffer.tell()
            if not large.size:
                self._container.put(name, buffer, size, etag=in_thread(_md5, buffer))
                return size
            large.add(buffer)
            large.finish()
        except BaseException:
            large.forget()
            raise
        # Whoever hears no answer to this does not know whether it was done: from here on only the sweep removes.
        large.publish(name)
        return large.size

    def sweep(self, older_than_seconds: float, list_everything: Callable[[], Iterable[Entry]]) -> int:
        """
        Remove the segments that no manifest names.

        Args:
            list_everything: lists all that lies below the root.

        Returns:
            How many files' segments there were.
        """
        unnamed = self._older_than(time.time() - older_than_seconds)
        # Twice: a file that is moved from behind the walk to before it is met by the second.
        for _ in range(2):
            if unnamed:
                unnamed -= self._named(list_everything())
        for identity in unnamed:
            self._container.delete_all([entry.name for entry in self._container.entries(f"{self._folder}{identity}/")])
        return len(unnamed)

    def _older_than(self, moment: float) -> set[str]:
        newest: dict[str, float] = {}
        for entry in self._container.entries(self._folder):
            identity = entry.name[len(self._folder) :].partition("/")[0]
            newest[identity] = max(newest.get(identity, 0), entry.modified)
        return {identity for identity, modified in newest.items() if modified <= moment}

    def _named(self, entries: Iterable[Entry]) -> set[str]:
        return {identity for entry in entries for identity in self._named_by(entry)}

    def _named_by(self, entry: Entry) -> Iterator[str]:
        if entry.name.startswith(self._folder):
            return
        named = _NAMED.search(entry.content_type)
        if named:
            yield named[1]
        elif entry.is_static_large:  # somebody has given it another type: its manifest tells
            try:
                parts = self._container.manifest(entry.name)
            except PathNotFound:
                return
            for part in parts:
                folder, _, rest = part["name"].partition(self._folder)
                if folder == f"/{self._container.name}/":
                    yield rest.partition("/")[0]


class _LargeObject:
    """A large file while it is written."""

    def __init__(self, container: SwiftContainer, folder: str) -> None:
        self.size = 0
        self._container = container
        self._identity = secrets.token_hex(16)
        self._folder = f"{folder}{self._identity}/"
        self._parts: list[dict[str, Any]] = []
        self._manifests: list[dict[str, Any]] = []
        self._count = 0
        self._under_way: Future[dict[str, Any]] | None = None
        self._thread = ThreadPoolExecutor(1, "swift-segment")
        self._most = container.capabilities.get("slo", {}).get("max_manifest_segments", _MANIFEST_SEGMENTS)

    def add(self, content: BytesIO) -> None:
        """Send the next segment; it goes on while the source is asked for more."""
        self.finish()
        self.size += content.tell()
        self._under_way = self._thread.submit(self._put_segment, content, self._count)
        self._count += 1

    def _put_segment(self, content: BytesIO, number: int) -> dict[str, Any]:
        size, name, md5 = content.tell(), self._segment(number), in_thread(_md5, content)
        self._container.put(name, content, size, etag=md5)
        return self._part(name, md5, size)

    def finish(self) -> None:
        """Wait for the segment under way."""
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        part = under_way.result()
        if len(self._parts) == self._most:
            self._fold()
        self._parts.append(part)

    def publish(self, name: str) -> None:
        """Let a file consist of these segments."""
        self._thread.shutdown()
        if self._manifests:
            self._fold()
        self._put_manifest(name, self._manifests or self._parts)

    def forget(self) -> None:
        """Remove the segments of a file that will not be published; what cannot be removed now is swept later."""
        self._thread.shutdown()  # else the one under way would come after
        names = [self._segment(number) for number in range(self._count)]
        try:
            self._container.delete_all(names + [self._manifest(number) for number in range(len(self._manifests))])
        except StorageError:
            return

    def _fold(self) -> None:
        """Make one manifest of the segments so far, which the file's own manifest will name."""
        if len(self._manifests) == self._most:
            raise StorageError("The file is larger than Swift can keep.")
        name = self._manifest(len(self._manifests))
        etag = self._put_manifest(name, self._parts)
        self._manifests.append(self._part(name, etag, sum(part["size_bytes"] for part in self._parts)))
        self._parts = []

    def _put_manifest(self, name: str, parts: list[dict[str, Any]]) -> str:
        content = json.dumps(parts).encode()
        named = f"{_TYPE}; segments={self._identity}"
        return self._container.put(
            name, BytesIO(content), len(content), content_type=named, query_string="multipart-manifest=put"
        ).strip('"')

    def _segment(self, number: int) -> str:
        return f"{self._folder}{number:08}"

    def _manifest(self, number: int) -> str:
        return f"{self._folder}m{number:08}"

    def _part(self, name: str, etag: str, size: int) -> dict[str, Any]:
        return {"path": f"/{self._container.name}/{name}", "etag": etag, "size_bytes": size}


def _md5(content: BytesIO) -> str:
    """Return what Swift compares a body with; nobody relies on it against an attacker."""
    return hashlib.md5(content.getbuffer(), usedforsecurity=False).hexdigest()
