"""
Large files in Swift: static large objects (SLO), whose segments are hidden from the driver's listings.

::

    ROOT/images/0a1b/layer                               the manifest, of type application/octet-stream; segments=3f9c…
    ROOT/.docker-registry/segments/3f9c…/00000000        16 MiB each
    ROOT/.docker-registry/segments/3f9c…/m00000000       intermediate manifest of the first 1000, if there are more
    ROOT/.docker-registry/segments/3f9c…/unreferenced    written when a sweep found no manifest

A file is moved by copying its manifest, so for a moment, or for longer after a crash, two manifests share the same
segments. So removing a file does not remove its segments; a sweep deletes those that no manifest references, by age.
A manifest's media type names its segments, and Swift's listings include media types: the sweep needs no manifest reads.
Listings may lag behind, and show neither name of a manifest that was moved. So segments are deleted only if an earlier
sweep, a day before or the age that it is given if that is less, did not find their manifest either.
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

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.swift.container import Entry, SwiftContainer
from docker_registry.errors import PathNotFound, StorageError

#: Maximum number of segments per manifest, if Swift does not announce it.
_MANIFEST_SEGMENTS: Final = 1000
_TYPE: Final = "application/octet-stream"
#: The object beside segments that records that a sweep found no manifest, and the lag of listings that is assumed.
_MARK: Final = "unreferenced"
_LAG_SECONDS: Final = 86400
_SEGMENTS_PARAMETER = re.compile(r";\s*segments=([0-9a-f]+)")


class Segments:
    """Writes files, in segments if they are large, and sweeps unreferenced segments below one root."""

    def __init__(self, container: SwiftContainer, folder: str, segment_bytes: int) -> None:
        """
        Args:
            folder: prefix of the segments' names, with a trailing slash.
            segment_bytes: size of the segments; a file of at most this size is a single object.
        """
        self._container = container
        self._folder = folder
        self._segment_bytes = segment_bytes

    def write(self, name: str, blocks: Iterable[Bytes]) -> int:
        """
        Write an object of any size. It becomes visible when *blocks* ends; the segments of a failed write are deleted.

        Returns:
            The object's size in bytes.
        """
        large, buffer = _LargeObject(self._container, self._folder), BytesIO()
        try:
            for block in blocks:
                rest = memoryview(block)
                while rest:
                    free_bytes = self._segment_bytes - buffer.tell()
                    if free_bytes == 0:
                        large.add(buffer)
                        buffer = BytesIO()
                        continue
                    buffer.write(rest[:free_bytes])
                    rest = rest[free_bytes:]
            size = buffer.tell()
            if not large.size:
                self._container.put(name, buffer, size, etag=run_in_thread(_md5, buffer))
                return size
            large.add(buffer)
            large.finish()
        except BaseException:
            large.discard()
            raise
        # Without a response, the manifest may or may not have been written, so from here on only the sweep may delete
        # the segments.
        large.publish(name)
        return large.size

    def sweep(self, older_than_seconds: float, list_everything: Callable[[], Iterable[Entry]]) -> int:
        """
        Delete segments that no manifest references.

        Args:
            older_than_seconds: minimum age of a file's newest segment.
            list_everything: lists all objects below the root.

        Returns:
            The number of files whose segments were deleted.
        """
        now, delay_seconds = time.time(), min(older_than_seconds, _LAG_SECONDS)
        newest, marked = self._ages()
        unreferenced = {identity for identity, modified in newest.items() if modified <= now - older_than_seconds}
        # Walk twice: the first walk misses a file that is moved from a part not yet listed to one already listed.
        for _ in range(2):
            if unreferenced:
                unreferenced -= self._referenced(list_everything())
        self._container.delete_all([self._mark(identity) for identity in marked.keys() - unreferenced])
        deleted = 0
        for identity in unreferenced:
            if delay_seconds > 0 and identity not in marked:
                self._container.put(self._mark(identity), BytesIO(), 0, content_type=_TYPE)
            elif delay_seconds <= 0 or marked[identity] <= now - delay_seconds:
                names = [entry.name for entry in self._container.entries(f"{self._folder}{identity}/")]
                self._container.delete_all(names)
                deleted += 1
        return deleted

    def _mark(self, identity: str) -> str:
        return f"{self._folder}{identity}/{_MARK}"

    def _ages(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return by identity when the newest segment was written, and when the mark was, if there is one."""
        newest: dict[str, float] = {}
        marked: dict[str, float] = {}
        for entry in self._container.entries(self._folder):
            identity, _, name = entry.name[len(self._folder) :].partition("/")
            if name == _MARK:
                marked[identity] = entry.modified
            else:
                newest[identity] = max(newest.get(identity, 0), entry.modified)
        return newest, marked

    def _referenced(self, entries: Iterable[Entry]) -> set[str]:
        return {identity for entry in entries for identity in self._references(entry)}

    def _references(self, entry: Entry) -> Iterator[str]:
        if entry.name.startswith(self._folder):
            return
        match = _SEGMENTS_PARAMETER.search(entry.content_type)
        if match:
            yield match[1]
        elif entry.is_static_large:  # its media type was changed: read the manifest
            try:
                parts = self._container.manifest(entry.name)
            except PathNotFound:
                return
            for part in parts:
                folder, _, rest = part["name"].partition(self._folder)
                if folder == f"/{self._container.name}/":
                    yield rest.partition("/")[0]


class _LargeObject:
    """A large file that is being written."""

    def __init__(self, container: SwiftContainer, folder: str) -> None:
        self.size = 0
        self._container = container
        self._identity = secrets.token_hex(16)
        self._folder = f"{folder}{self._identity}/"
        self._parts: list[dict[str, Any]] = []
        self._manifests: list[dict[str, Any]] = []
        self._count = 0
        self._in_flight: Future[dict[str, Any]] | None = None
        self._thread = ThreadPoolExecutor(1, "swift-segment")
        self._max_segments = container.capabilities.get("slo", {}).get("max_manifest_segments", _MANIFEST_SEGMENTS)

    def add(self, content: BytesIO) -> None:
        """Send the next segment in the background, after the previous one is complete."""
        self.finish()
        self.size += content.tell()
        self._in_flight = self._thread.submit(self._put_segment, content, self._count)
        self._count += 1

    def _put_segment(self, content: BytesIO, number: int) -> dict[str, Any]:
        size, name, md5 = content.tell(), self._segment(number), run_in_thread(_md5, content)
        self._container.put(name, content, size, etag=md5)
        return self._part(name, md5, size)

    def finish(self) -> None:
        """Wait for the segment that is being sent."""
        if self._in_flight is None:
            return
        in_flight, self._in_flight = self._in_flight, None
        part = in_flight.result()
        if len(self._parts) == self._max_segments:
            self._write_intermediate_manifest()
        self._parts.append(part)

    def publish(self, name: str) -> None:
        """Write the file's manifest."""
        self._thread.shutdown()
        if self._manifests:
            self._write_intermediate_manifest()
        self._put_manifest(name, self._manifests or self._parts)

    def discard(self) -> None:
        """Delete the segments of an unpublished file; if that fails, the sweep deletes them later."""
        self._thread.shutdown()  # otherwise the segment being sent would arrive after the deletion
        names = [self._segment(number) for number in range(self._count)]
        try:
            self._container.delete_all(names + [self._manifest(number) for number in range(len(self._manifests))])
        except StorageError:
            return

    def _write_intermediate_manifest(self) -> None:
        """Write an intermediate manifest of the segments so far, which the file's manifest will reference."""
        if len(self._manifests) == self._max_segments:
            raise StorageError("The file exceeds Swift's maximum size.")
        name = self._manifest(len(self._manifests))
        etag = self._put_manifest(name, self._parts)
        self._manifests.append(self._part(name, etag, sum(part["size_bytes"] for part in self._parts)))
        self._parts = []

    def _put_manifest(self, name: str, parts: list[dict[str, Any]]) -> str:
        content = json.dumps(parts).encode()
        content_type = f"{_TYPE}; segments={self._identity}"
        return self._container.put(
            name, BytesIO(content), len(content), content_type=content_type, query_string="multipart-manifest=put"
        ).strip('"')

    def _segment(self, number: int) -> str:
        return f"{self._folder}{number:08}"

    def _manifest(self, number: int) -> str:
        return f"{self._folder}m{number:08}"

    def _part(self, name: str, etag: str, size: int) -> dict[str, Any]:
        return {"path": f"/{self._container.name}/{name}", "etag": etag, "size_bytes": size}


def _md5(content: BytesIO) -> str:
    """Return the MD5 of a body, which Swift verifies: protection against corruption, not against attackers."""
    return hashlib.md5(content.getbuffer(), usedforsecurity=False).hexdigest()
