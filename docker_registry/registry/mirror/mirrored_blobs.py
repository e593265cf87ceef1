"""Blobs of upstreams, served while they are received, and stored once they are verified."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from docker_registry.concurrency import deadline
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.ingest import Body
from docker_registry.registry.mirror.arriving_content import ArrivingFile
from docker_registry.registry.mirror.blob_sizes import BlobSizes
from docker_registry.registry.mirror.passed_on_blob import PassedOnBlob
from docker_registry.registry.mirror.remotes import MIRROR, Remote, Remotes
from docker_registry.registry.mirror.responses import MAX_MANIFEST_SECONDS, UpstreamBlob, network_errors
from docker_registry.registry.mirror.transfers import Transfers
from docker_registry.registry.mirror.upstream_content import UpstreamContent, first_bytes
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.sources import Blob, Found, Origin
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.uploads import Uploads

#: Bytes by which an upstream proves that it has a blob.
_PROOF_BYTES: Final = 1024

#: Largest blob of which an upstream that does not support ranges proves possession in this way. A larger one is
#: received again: otherwise the client would wait until all bytes before the random place have arrived.
_MAX_SKIPPED_BYTES: Final = 4 * 1024 * 1024


class MirroredBlobs:
    """A :class:`~docker_registry.registry.sources.BlobSource` of all upstreams."""

    def __init__(
        self,
        driver: StorageDriver,
        remotes: Remotes,
        blobs: Blobs,
        uploads: Uploads,
        transfers: Transfers,
        sizes: BlobSizes,
    ) -> None:
        """
        Args:
            uploads: verifies and publishes what is received.
            sizes: of blobs, as manifests state them.
        """
        self._sizes = sizes
        self._driver = driver
        self._remotes = remotes
        self._blobs = blobs
        self._uploads = uploads
        self._transfers = transfers

    def get(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob that is being received; None if the repository mirrors nothing, or the upstream has no such blob.

        Raises:
            UpstreamError: the upstream cannot be asked, or denies access.
        """
        remote = self._remotes.find(name)
        if remote is None or self._remotes.is_absent(name, digest):
            return None
        content = MirroredBlob(
            self._driver, self._remotes, self._blobs, self._uploads, self._sizes, name, remote, digest
        )
        if not self._remotes.may_store and self._transfers.find_size(content.work) is None:
            return self._pass_on(name, remote, digest, content)
        opened = self._transfers.open(content)
        if opened is None:
            return None
        file, fetched_from = opened.file, remote.upstream.name if opened.is_new else ""
        blob = Blob(digest, file.size, layout.blob_data(digest))
        if isinstance(file, ArrivingFile):
            return Found(replace(blob, file=file), Origin(expires=time.monotonic(), fetched_from=fetched_from))
        return Found(blob, Origin(fetched_from=fetched_from))

    def stat(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob without receiving it; None as for :meth:`get`.

        Raises:
            UpstreamError: as for :meth:`get`.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        size = self._transfers.find_size(work_of(name, digest))
        if size is None:
            size = find_blob_size(self._remotes, name, remote, digest)
        if size is None:
            return None
        return Found(Blob(digest, size, layout.blob_data(digest)), Origin(expires=time.monotonic()))

    def _pass_on(
        self, name: RepositoryName, remote: Remote, digest: Digest, content: MirroredBlob
    ) -> Found[Blob] | None:
        """Return a blob without storing anything; None if the upstream does not have it."""
        origin = Origin(expires=time.monotonic(), fetched_from=remote.upstream.name)
        stored = content.find()
        if stored is not None:
            return Found(Blob(digest, stored.size, layout.blob_data(digest)), origin)
        size = find_blob_size(self._remotes, name, remote, digest)
        if size is None:
            return None
        self._sizes.check(name, digest, size)
        file = PassedOnBlob(digest, size, partial(self._transfers.receive_part, content))
        return Found(Blob(digest, size, file.path, file=file, is_passed_on=True), origin)


class MirroredBlob(UpstreamContent):
    """A blob of an upstream."""

    def __init__(
        self,
        driver: StorageDriver,
        remotes: Remotes,
        blobs: Blobs,
        uploads: Uploads,
        sizes: BlobSizes,
        name: RepositoryName,
        remote: Remote,
        digest: Digest,
    ) -> None:
        super().__init__(remote.upstream, work_of(name, digest), {"digest": str(digest)})
        self._driver = driver
        self._remotes = remotes
        self._blobs = blobs
        self._uploads = uploads
        self._sizes = sizes
        self._name = name
        self._remote = remote
        self._digest = digest

    def find(self) -> ServedFile | None:
        """
        Return the blob if its bytes are in the store, and link it to the repository if possible.

        If only other repositories have it, the upstream must prove that this one has it too: the client may not be
        allowed to see the others, and the upstream may know no more of the blob than its digest.

        Returns:
            None if the store does not have it, or the upstream must send it as a whole to prove that it has it.

        Raises:
            UpstreamError: the upstream must prove it, and cannot be asked, or sends other bytes.
        """
        try:
            blob = self._blobs.stat_anywhere(self._digest)
        except BlobUnknown:
            return None
        if not self.is_stored():
            if not self._is_proven(blob):
                return None
            if self._remotes.may_store:
                self._remotes.mark(self._name, self._remote)
                self._blobs.link(self._name, self._digest)
        return self._blobs.file(blob)

    def _is_proven(self, blob: Blob) -> bool:
        """
        Return whether the upstream has a blob, as some bytes at a random place in it prove.

        Returns:
            False also if the upstream does not send parts of it.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends other bytes.
        """
        if not blob.size:  # no part can be requested, and everyone knows its content
            return find_blob_size(self._remotes, self._name, self._remote, self._digest) is not None
        if self._remotes.is_absent(self._name, self._digest):
            return False
        length = min(blob.size, _PROOF_BYTES)
        start = secrets.randbelow(blob.size - length + 1)
        stream = self.open_part(start, start + length)
        if stream is None:
            self._remotes.record_absence(self._name, self._digest)
            return False
        with closing(stream):
            if not stream.is_part and blob.size > _MAX_SKIPPED_BYTES:
                return False
            received = self._receive(stream, length)
        if received != b"".join(self._blobs.file(blob).read(start, length)):
            raise UpstreamError(
                "The upstream registry sent other content than that of the digest.", digest=str(self._digest)
            )
        return True

    def _receive(self, stream: UpstreamBlob, length: int) -> bytes:
        """
        Return the first bytes of a stream, at most *length*.

        Raises:
            UpstreamError: they do not arrive in time.
        """
        with network_errors(self._remote.upstream.name), deadline(MAX_MANIFEST_SECONDS):
            return b"".join(first_bytes(stream.blocks(), length))

    def is_stored(self) -> bool:
        """See :class:`UpstreamContent`."""
        return self._driver.has_file(layout.layer_link(self._name, self._digest))

    def get(self) -> ServedFile:
        """See :class:`UpstreamContent`."""
        return self._blobs.file(self._blobs.stat_anywhere(self._digest))

    def open(self, start: int, validator: str = "") -> UpstreamBlob | None:
        """See :class:`UpstreamContent`."""
        if self._remotes.is_absent(self._name, self._digest):
            return None
        self._remotes.check_writable()
        stream = self.open_part(start, validator=validator)
        if stream is None:
            self._remotes.record_absence(self._name, self._digest)
            return None
        try:
            stream.size = self._sizes.check(self._name, self._digest, stream.size)
        except UpstreamError:
            stream.close()
            raise
        return stream

    def open_part(self, start: int, end: int | None = None, validator: str = "") -> UpstreamBlob | None:
        """See :class:`UpstreamContent`."""
        return self._remote.client.get_blob(self._remote.path, self._digest, start, end, validator)

    def publish(self, body: Body) -> None:
        """See :class:`UpstreamContent`."""
        self._remotes.mark(self._name, self._remote)
        self._uploads.put(self._name, self._digest, body, actor=MIRROR)


def find_blob_size(remotes: Remotes, name: RepositoryName, remote: Remote, digest: Digest) -> int | None:
    """Return the size of a blob at an upstream in bytes; None if it does not have it."""
    if remotes.is_absent(name, digest):
        return None
    size = remote.client.find_blob_size(remote.path, digest)
    if size is None:
        remotes.record_absence(name, digest)
    return size


def work_of(name: RepositoryName, digest: Digest) -> str:
    """Return the name of the lease of a transfer, and of the folder of its pieces."""
    return f"mirror-{Digest.of(f'{name}@{digest}'.encode()).hex[:40]}"
