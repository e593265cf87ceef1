"""
Results that are computed once from the layer of an image and stored beside it.

The file of a result begins with a line that contains the digest of the layer. If a result cannot be computed, the
rejection is stored under the same path with the suffix ``_refused``, and is valid until the limits change::

    {"digest": "sha256:9b1d…", "rules": "1-68719476736-1100-300", "error": "TooLarge", "sentence": "…", "detail": {…}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import Bytes, StorageDriver
from docker_registry.errors import LayerFormatUnsupported, PathNotFound, TooLarge
from docker_registry.registry.names import Digest

#: Smaller results are read in one call when they are looked up.
_SMALL_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A stored result, or a part of one.

    Attributes:
        path: the file that contains it.
        offset: its start in the file, bytes.
        size: its size, bytes.
        content: its bytes; None if they have not been read.
    """

    driver: StorageDriver
    path: str
    offset: int
    size: int
    content: bytes | None = None

    def read(self) -> Iterator[bytes]:
        """
        Yield the content in blocks.

        Raises:
            PathNotFound: the file was removed in the meantime.
        """
        if self.content is not None:
            return iter((self.content,))
        return self.driver.stream_read(self.path, self.offset, self.size)

    def tail(self, size: int) -> bytes:
        """Return at most the last *size* bytes."""
        size = min(size, self.size)
        return b"".join(self._part(self.size - size, size).read())

    def head(self, size: int) -> Answer:
        """Return the part that consists of at most the first *size* bytes."""
        return self._part(0, min(size, self.size))

    def _part(self, offset: int, size: int) -> Answer:
        content = self.content[offset : offset + size] if self.content is not None else None
        return Answer(self.driver, self.path, self.offset + offset, size, content)


class StoredResults:
    """The stored results of all images."""

    def __init__(self, driver: StorageDriver, rules: str) -> None:
        """
        Args:
            rules: the current limits (:attr:`~docker_registry.registry.v1.layer_reader.LayerReader.rules`).
        """
        self._driver = driver
        self._rules = rules

    def find(self, path: str, digest: Digest) -> Answer | None:
        """
        Return the stored result for a layer; None if there is none.

        Raises:
            LayerFormatUnsupported, TooLarge: a rejection of this layer under the current limits is stored.
        """
        line = f"{digest}\n".encode()
        try:
            size = self._driver.get_size(path) - len(line)
            if size < _SMALL_BYTES:
                whole = self._driver.get_content(path)
                found, content = whole[: len(line)], whole[len(line) :]
            else:
                found, content = b"".join(self._driver.stream_read(path, 0, len(line))), None
        except PathNotFound:
            found, size, content = b"", 0, None
        if found != line:
            self.check_refusal(path, digest)
            return None
        return Answer(self._driver, path, len(line), size if content is None else len(content), content)

    def put(self, path: str, digest: Digest, compute: Callable[[], Iterable[Bytes]]) -> Answer:
        """
        Compute and store a result, or store the rejection if it cannot be computed.

        Args:
            path: the file to write.
            digest: the digest of the layer.
            compute: returns the blocks of the result.

        Raises:
            LayerFormatUnsupported, TooLarge: raised by *compute* or by the iteration over its result.
        """
        line = f"{digest}\n".encode()
        try:
            size = self._driver.stream_write(path, _after(line, compute))
        except (LayerFormatUnsupported, TooLarge) as error:
            refusal: dict[str, object] = {"digest": str(digest), "rules": self._rules, "error": type(error).__name__}
            refusal |= {"sentence": error.sentence, "detail": error.detail}
            self._driver.put_content(f"{path}_refused", json.dumps(refusal).encode())
            raise
        return Answer(self._driver, path, len(line), size - len(line))

    def check_refusal(self, path: str, digest: Digest) -> None:
        """
        Check that no rejection of a layer is stored.

        Raises:
            LayerFormatUnsupported, TooLarge: as for :meth:`find`.
        """
        try:
            refusal = json.loads(self._driver.get_content(f"{path}_refused"))
            if (refusal["digest"], refusal["rules"]) != (str(digest), self._rules):
                return
            kind = {each.__name__: each for each in (LayerFormatUnsupported, TooLarge)}[refusal["error"]]
            error = kind(str(refusal["sentence"]), **refusal["detail"])
        except (PathNotFound, ValueError, KeyError, TypeError):  # missing, or written by other software
            return
        raise error


def _after(line: bytes, compute: Callable[[], Iterable[Bytes]]) -> Iterator[Bytes]:
    yield line
    yield from compute()
