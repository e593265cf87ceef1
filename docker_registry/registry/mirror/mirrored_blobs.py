"""Blobs of upstreams, served while they are received, and stored once they are verified."""

from __future__ import annotations

import time
from collections.abc import Callable

from gevent.lock import BoundedSemaphore

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blob, Blobs
from docker_registry.registry.ingest import Body
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.mirror.remotes import MIRROR, Remote, Remotes
from docker_registry.registry.mirror.transfer import Transfer, TransferFile
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.sources import Found, Origin
from docker_registry.registry.uploads import Uploads

_Key = tuple[str, Digest]


class MirroredBlobs:
    """A :class:`~docker_registry.registry.sources.BlobSource` of all upstreams."""

    def __init__(self, driver: StorageDriver, remotes: Remotes, blobs: Blobs, uploads: Uploads) -> None:
        """
        Args:
            uploads: verifies and publishes what is received.
        """
        self._driver = driver
        self._remotes = remotes
        self._blobs = blobs
        self._uploads = uploads
        self._locks = KeyedLocks()
        self._transfers: dict[_Key, Transfer] = {}
        self._slots = {each.name: BoundedSemaphore(each.max_connections) for each in remotes.upstreams}

    def get(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob that is being received; None if the repository mirrors nothing, or the upstream has no such blob.

        Raises:
            UpstreamError: the upstream cannot be asked, or denies access.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        key = str(name), digest
        with self._locks.hold(key):
            transfer = self._transfers.get(key)
            if transfer is None:
                stored = self._stored(name, remote, digest)
                if stored is not None:
                    return Found(stored)
                transfer = self._start(name, remote, digest)
        if transfer is None:
            return None
        if transfer.size is None:  # a response needs the length
            transfer.wait()
            return Found(self._blobs.stat_anywhere(digest))
        file = TransferFile(transfer, transfer.size)
        return Found(Blob(digest, transfer.size, file.path, file=file), Origin(expires=time.monotonic()))

    def stat(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob without receiving it; None as for :meth:`get`.

        Raises:
            UpstreamError: as for :meth:`get`.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        transfer = self._transfers.get((str(name), digest))
        size = transfer.size if transfer is not None else None
        if size is None:
            size = self._find_size(name, remote, digest)
        if size is None:
            return None
        return Found(Blob(digest, size, layout.blob_data(digest)), Origin(expires=time.monotonic()))

    # ------------------------------------------------------------------------------------------------- steps

    def _stored(self, name: RepositoryName, remote: Remote, digest: Digest) -> Blob | None:
        """
        Return a blob whose bytes are in the store, and link it to the repository.

        If only other repositories have it, the upstream must confirm that this one has it too: the client may not be
        allowed to see the others.
        """
        try:
            blob = self._blobs.stat_anywhere(digest)
        except BlobUnknown:
            return None
        if not self._driver.exists(layout.layer_link(name, digest)):
            if self._find_size(name, remote, digest) is None:
                return None
            self._remotes.check_writable()
            self._remotes.mark(name, remote)
            self._blobs.link(name, digest)
        return blob

    def _find_size(self, name: RepositoryName, remote: Remote, digest: Digest) -> int | None:
        if self._remotes.is_absent(name, digest):
            return None
        size = remote.client.find_blob_size(remote.path, digest)
        if size is None:
            self._remotes.record_absence(name, digest)
        return size

    def _start(self, name: RepositoryName, remote: Remote, digest: Digest) -> Transfer | None:
        """Start to receive a blob; None if the upstream does not have it."""
        if self._remotes.is_absent(name, digest):
            return None
        self._remotes.check_writable()
        slots = self._slots[remote.upstream.name]
        if not slots.acquire(timeout=remote.upstream.timeout_seconds):
            raise UpstreamUnavailable("Too many transfers from the upstream registry.", upstream=remote.upstream.name)
        release = _Once(slots.release)
        try:
            stream = remote.client.get_blob(remote.path, digest)
            if stream is None:
                self._remotes.record_absence(name, digest)
                release()
                return None
            self._remotes.mark(name, remote)
        except BaseException:
            release()
            raise

        def publish(body: Body) -> None:
            self._uploads.put(name, digest, body, actor=MIRROR)

        def end() -> None:
            self._transfers.pop((str(name), digest), None)
            release()

        transfer = Transfer(self._driver, digest, stream, publish)
        self._transfers[str(name), digest] = transfer
        transfer.start(end)
        return transfer


class _Once:
    """Calls a function at the first call only."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
