"""Content of an upstream that is received once, however many clients request it, and stored when it is verified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from docker_registry.registry.ingest import Body
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.registry.stored_file import ServedFile

#: Bytes at the end of content that clients receive only after it is verified.
WITHHELD_BYTES: Final = 64 * 1024


def first_bytes(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """
    Yield the first bytes of blocks, as they arrive; an upstream may send more than the part that was requested.

    Args:
        size: at least 1; fewer bytes are yielded only if the blocks end earlier.
    """
    for block in blocks:
        part = block[:size]
        size -= len(part)
        yield part
        if not size:
            return


class ByteStream(Protocol):
    """
    Bytes that are received from an upstream.

    Attributes:
        size: bytes of the whole content, as the upstream announces; None if it announces none.
        validator: ETag with which the rest of the same content can be requested; empty if there is none.
        is_part: whether the upstream sends a part, and not the whole content of which the beginning is skipped.
    """

    size: int | None
    validator: str
    is_part: bool

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive."""

    def close(self) -> None:
        """Close the connection."""


class UpstreamContent(ABC):
    """
    A blob, or a layer of API V1.

    Attributes:
        upstream: has it.
        work: identifies it among all content of this registry: name of a lease and of a folder.
        detail: identifies it in errors and messages.
        has_digest: whether it is identified by its digest: clients can verify it, and always notice bytes of other
            content in it.
        is_verifiable: whether this registry notices bytes of other content before it stores them, by a digest or a
            checksum.
    """

    def __init__(
        self,
        upstream: Upstream,
        work: str,
        detail: Mapping[str, str],
        *,
        has_digest: bool = True,
        is_verifiable: bool = True,
    ) -> None:
        self.upstream = upstream
        self.work = work
        self.detail = detail
        self.has_digest = has_digest
        self.is_verifiable = is_verifiable

    def __str__(self) -> str:
        return " ".join(f"{key} {value}" for key, value in self.detail.items())

    def may_continue(self, validator: str) -> bool:
        """
        Return whether bytes that are requested now may be appended to those that came earlier.

        Args:
            validator: of the stream that brought the earlier bytes; empty if there is none.
        """
        return self.is_verifiable or bool(validator)

    def is_continued_by(self, stream: ByteStream, validator: str) -> bool:
        """Return whether a stream has the rest of the bytes that came earlier, with a *validator* or none."""
        if self.has_digest or not validator or stream.validator == validator:
            return True
        return self.is_verifiable and stream.is_part and not stream.validator

    @abstractmethod
    def find(self) -> ServedFile | None:
        """
        Return the content if it is in the store and may be served; None if it must be received.

        Raises:
            UpstreamError: the upstream must confirm that it has it, and cannot be asked.
        """

    @abstractmethod
    def is_stored(self) -> bool:
        """Return whether the verified content is in the store, without asking the upstream."""

    @abstractmethod
    def get(self) -> ServedFile:
        """Return the content, which is in the store."""

    @abstractmethod
    def open(self, start: int, validator: str = "") -> ByteStream | None:
        """
        Begin to receive the content at an offset; None if the upstream does not have it.

        Args:
            start: offset of the first byte.
            validator: of the stream that brought the bytes before *start*; empty if there is none.

        Raises:
            UpstreamError: the upstream cannot be asked, or what is received could not be stored.
        """

    @abstractmethod
    def open_part(self, start: int, end: int | None = None, validator: str = "") -> ByteStream | None:
        """
        Receive a part of the content; None if the upstream does not have it any more.

        Args:
            start: offset of the first byte.
            end: offset after the last byte; None for the end of the content.
            validator: of the stream that brought the bytes before *start*; empty if there is none.

        Raises:
            UpstreamError: the upstream cannot be asked.
        """

    @abstractmethod
    def publish(self, body: Body) -> None:
        """
        Verify the content and store it.

        Raises:
            DigestInvalid, SizeInvalid, UpstreamError: it is not what it should be.
        """
