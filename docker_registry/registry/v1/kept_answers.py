"""
Answers that are computed once from the layer of an image and kept beside it.

An answer lies under a path, after a line with the digest of the layer for which it holds. What cannot be computed is
kept as well, under the same path with ``_refused``, and holds until the limits change::

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

#: Answers up to this size are read at once.
_SMALL_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A part of a stored file.

    Attributes:
        size: bytes.
    """

    driver: StorageDriver
    path: str
    offset: int
    size: int
    content: bytes | None = None

    def read(self) -> Iterator[bytes]:
        """
        Read it in blocks.

        Raises:
            PathNotFound: it was removed meanwhile.
        """
        if self.content is not None:
            return iter((self.content,))
        return self.driver.stream_read(self.path, self.offset, self.size)

    def tail(self, size: int) -> bytes:
        """Return its last bytes."""
        size = min(size, self.size)
        return b"".join(self._part(self.size - size, size).read())

    def head(self, size: int) -> Answer:
        """Return its first *size* bytes as an answer of their own."""
        return self._part(0, min(size, self.size))

    def _part(self, offset: int, size: int) -> Answer:
        content = self.content[offset : offset + size] if self.content is not None else None
        return Answer(self.driver, self.path, self.offset + offset, size, content)


class KeptAnswers:
    """The answers beside all images."""

    def __init__(self, driver: StorageDriver, rules: str) -> None:
        """
        Args:
            rules: the limits of now (:attr:`~docker_registry.registry.v1.layer_reader.LayerReader.rules`).
        """
        self._driver = driver
        self._rules = rules

    def find(self, path: str, digest: Digest) -> Answer | None:
        """
        Return the answer that is kept for a layer; None when there is none.

        Raises:
            LayerFormatUnsupported, TooLarge: a refusal is kept.
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
            self._check_refusal(path, digest)
            return None
        if found != line:
            return None
        return Answer(self._driver, path, len(line), size if content is None else len(content), content)

    def keep(self, path: str, digest: Digest, compute: Callable[[], Iterable[Bytes]]) -> Answer:
        """
        Compute an answer and keep it, or keep why it cannot be computed.

        Raises:
            LayerFormatUnsupported, TooLarge: as *compute*, or the iteration over what it returns.
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

    def _check_refusal(self, path: str, digest: Digest) -> None:
        try:
            refusal = json.loads(self._driver.get_content(f"{path}_refused"))
            if (refusal["digest"], refusal["rules"]) != (str(digest), self._rules):
                return
            kind = {each.__name__: each for each in (LayerFormatUnsupported, TooLarge)}[refusal["error"]]
            error = kind(str(refusal["sentence"]), **refusal["detail"])
        except (PathNotFound, ValueError, KeyError, TypeError):  # none, or written by something else
            return
        raise error


def _after(line: bytes, compute: Callable[[], Iterable[Bytes]]) -> Iterator[Bytes]:
    yield line
    yield from compute()
