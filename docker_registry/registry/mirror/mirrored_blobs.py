"""Blobs of upstreams, served while they are received, and stored once they are verified."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blob, Blobs
from docker_registry.registry.ingest import Body
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.arriving_blob import ArrivingBlob, ArrivingFile, ByteStream
from docker_registry.registry.mirror.followed_transfer import POLL_SECONDS, FollowedTransfer
from docker_registry.registry.mirror.pieces import Pieces, announced_size
from docker_registry.registry.mirror.remotes import MIRROR, Remote, Remotes
from docker_registry.registry.mirror.transfer import Transfer
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.sources import Found, Origin
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.uploads import Uploads

#: Life of the lease of a transfer, and how often it is extended while the process lives.
LEASE_SECONDS: Final = 4.0
_EXTEND_SECONDS: Final = 1.0

_Key = tuple[str, Digest]


class MirroredBlobs:
    """A :class:`~docker_registry.registry.sources.BlobSource` of all upstreams."""

    def __init__(self, driver: StorageDriver, remotes: Remotes, blobs: Blobs, uploads: Uploads, leases: Leases) -> None:
        """
        Args:
            leases: let one process at a time receive a blob.
            uploads: verifies and publishes what is received.
        """
        self._driver = driver
        self._remotes = remotes
        self._blobs = blobs
        self._uploads = uploads
        self._leases = leases
        self._locks = KeyedLocks()
        self._arriving: dict[_Key, ArrivingBlob] = {}
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
        key, fetched_from = (str(name), digest), ""
        with self._locks.hold(key):
            blob = self._arriving.get(key)
            if blob is None:
                found = self._wait_for_another_process(name, remote, digest)
                if isinstance(found, Blob):
                    return Found(found)
                if found is None:
                    fetched_from = remote.upstream.name
                    found = self._start(name, remote, digest)
                blob = found
        if blob is None:
            return None
        if blob.size is None:  # a response needs the length
            blob.wait()
            return Found(self._blobs.stat_anywhere(digest), Origin(fetched_from=fetched_from))
        file = self._file(name, remote, blob, blob.size)
        origin = Origin(expires=time.monotonic(), fetched_from=fetched_from)
        return Found(Blob(digest, blob.size, file.path, file=file), origin)

    def stat(self, name: RepositoryName, digest: Digest) -> Found[Blob] | None:
        """
        Return a blob without receiving it; None as for :meth:`get`.

        Raises:
            UpstreamError: as for :meth:`get`.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        blob = self._arriving.get((str(name), digest))
        size = blob.size if blob is not None else None
        if size is None:
            size = self._find_size(name, remote, digest)
        if size is None:
            return None
        return Found(Blob(digest, size, layout.blob_data(digest)), Origin(expires=time.monotonic()))

    def close(self) -> None:
        """Stop all transfers."""
        for blob in list(self._arriving.values()):
            blob.stop()

    def purge(self, ttl_seconds: float) -> int:
        """
        Remove the pieces of transfers that no process continues.

        Args:
            ttl_seconds: minimum time since the last change of a transfer.

        Returns:
            The number of removed transfers.
        """
        oldest, newest = time.time() - ttl_seconds, dict[str, float]()
        for piece in self._driver.walk(layout.TRANSFERS):
            folder = piece.path.rpartition("/")[0]
            newest[folder] = max(newest.get(folder, 0), piece.modified)
        abandoned = [folder for folder, modified in newest.items() if modified < oldest]
        return sum(self._driver.scratch.discard(folder) for folder in abandoned)

    # ------------------------------------------------------------------------------------------------- steps

    def _wait_for_another_process(
        self, name: RepositoryName, remote: Remote, digest: Digest
    ) -> Blob | FollowedTransfer | None:
        """
        Return a blob that is in the store, or the transfer of another process.

        Returns:
            None if this process is to receive it; it then holds the lease.
        """
        work = _work(name, digest)
        while True:
            stored = self._stored(name, remote, digest)
            if stored is not None:
                return stored
            if self._leases.take(work, LEASE_SECONDS, ends_with_process=True):
                return None
            size = announced_size(self._driver, work)
            if size is not None:
                return self._follow(name, digest, work, size)
            gevent.sleep(POLL_SECONDS)

    def _follow(self, name: RepositoryName, digest: Digest, work: str, size: int) -> FollowedTransfer:
        def is_in_store() -> bool:
            return self._driver.has_file(layout.layer_link(name, digest))

        blob = FollowedTransfer(self._driver, self._leases, work, digest, size, is_in_store)
        key = str(name), digest
        self._arriving[key] = blob
        blob.start(lambda: self._arriving.pop(key, None))
        return blob

    def _file(self, name: RepositoryName, remote: Remote, blob: ArrivingBlob, size: int) -> ArrivingFile:
        digest = blob.digest

        def fetch_part(start: int, end: int) -> ByteStream | None:
            return remote.client.get_blob(remote.path, digest, start, end)

        def continued() -> ServedFile:
            found = self.get(name, digest)
            if found is None:
                raise UpstreamUnavailable("The upstream registry does not have the blob any more.")
            return self._blobs.file(found.value)

        return ArrivingFile(blob, size, fetch_part, continued)

    def _keep_lease(self, work: str) -> None:
        """Extend the lease of a transfer for ever; the body of a greenlet."""
        while True:
            gevent.sleep(_EXTEND_SECONDS)
            self._leases.take(work, LEASE_SECONDS, ends_with_process=True)

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
        if not self._driver.has_file(layout.layer_link(name, digest)):
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
        """
        Start to receive a blob; this process holds the lease, which is released when the transfer has ended.

        Returns:
            None if the upstream does not have the blob.
        """
        work = _work(name, digest)
        slots = self._slots[remote.upstream.name]
        with ExitStack() as held:
            held.callback(self._leases.release, work)
            if self._remotes.is_absent(name, digest):
                return None
            self._remotes.check_writable()
            if not slots.acquire(timeout=remote.upstream.timeout_seconds):
                name_there = remote.upstream.name
                raise UpstreamUnavailable("Too many transfers from the upstream registry.", upstream=name_there)
            held.callback(slots.release)
            # Without leases several processes may receive the same blob, each with pieces of its own.
            has_leases = self._driver.capabilities.if_match
            pieces = Pieces(self._driver, work if has_leases else secrets.token_hex(16))
            pieces.find_all()
            stream = remote.client.get_blob(remote.path, digest, pieces.end)
            if stream is None:
                self._remotes.record_absence(name, digest)
                return None
            if stream.size is not None:
                pieces.announce_size(stream.size)
            held.callback(gevent.spawn(self._keep_lease, work).kill)

            def publish(body: Body) -> None:
                self._remotes.mark(name, remote)
                self._uploads.put(name, digest, body, actor=MIRROR)

            self._arriving[str(name), digest] = transfer = Transfer(
                self._driver,
                digest,
                stream,
                lambda start: remote.client.get_blob(remote.path, digest, start, validator=stream.validator),
                pieces,
                publish,
            )
            held.callback(self._arriving.pop, (str(name), digest), None)
            transfer.start(held.pop_all().close)
        return transfer


def _work(name: RepositoryName, digest: Digest) -> str:
    """Return the name of the lease of a transfer, and of the folder of its pieces."""
    return f"mirror-{Digest.of(f'{name}@{digest}'.encode()).hex[:40]}"
