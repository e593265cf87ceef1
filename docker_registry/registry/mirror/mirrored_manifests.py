"""Manifests of upstreams, verified and stored bit for bit when they are first requested."""

from __future__ import annotations

from docker_registry.concurrency import KeyedLocks
from docker_registry.errors import DigestInvalid, ManifestInvalid, UpstreamError
from docker_registry.registry.manifest_pushes import ManifestPushes
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.mirror.blob_sizes import BlobSizes
from docker_registry.registry.mirror.platforms import PlatformRecords
from docker_registry.registry.mirror.remotes import MIRROR, Remote, Remotes
from docker_registry.registry.mirror.responses import UpstreamManifest
from docker_registry.registry.names import Digest, Reference, RepositoryName
from docker_registry.registry.sources import Found, Origin

#: All types of manifests begin with this.
_VENDOR_TYPES = "application/vnd."


class MirroredManifests:
    """A :class:`~docker_registry.registry.sources.ManifestSource` of all upstreams."""

    def __init__(
        self,
        remotes: Remotes,
        manifests: Manifests,
        pushes: ManifestPushes,
        platforms: PlatformRecords,
        blob_sizes: BlobSizes,
    ) -> None:
        """
        Args:
            pushes: store what is fetched.
            platforms: tell which manifests are for platforms that are not mirrored.
            blob_sizes: remembers the sizes of blobs in what is fetched.
        """
        self._blob_sizes = blob_sizes
        self._remotes = remotes
        self._manifests = manifests
        self._pushes = pushes
        self._platforms = platforms
        self._locks = KeyedLocks()

    def get(self, name: RepositoryName, digest: Digest) -> Found[bytes] | None:
        """
        Fetch a manifest; None if the repository mirrors nothing, or the upstream has no such manifest.

        Raises:
            UpstreamError: the upstream cannot be asked, or its answer is invalid.
            ManifestUnknown: the manifest is for a platform that is not mirrored.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        with self._locks.hold((str(name), digest)):
            if self._manifests.exists(name, digest):  # fetched by another request meanwhile
                return Found(self._manifests.get(name, digest).payload)
            if remote.upstream.platforms:
                self._platforms.check(name, digest, remote.upstream.platforms)
            fetched = self.fetch(name, remote, digest)
        return None if fetched is None else Found(fetched[1], Origin(fetched_from=remote.upstream.name))

    def exists(self, name: RepositoryName, digest: Digest) -> bool:
        """Return whether a manifest is in the store."""
        return self._manifests.exists(name, digest)

    def fetch(self, name: RepositoryName, remote: Remote, reference: Reference) -> tuple[Digest, bytes] | None:
        """
        Fetch a manifest by tag or digest, and store it unless the registry is read-only.

        Returns:
            Its digest and payload; None if the upstream has no such manifest.

        Raises:
            UpstreamError: as for :meth:`get`.
        """
        if self._remotes.is_absent(name, reference):
            return None
        manifest = remote.client.get_manifest(remote.path, reference)
        if manifest is None:
            self._remotes.record_absence(name, reference)
            return None
        digest = _verified(manifest, reference)
        self._blob_sizes.record(name, manifest.payload)
        if not self._remotes.may_store:
            return digest, manifest.payload
        self._remotes.mark(name, remote)
        try:
            self._pushes.adopt(name, digest, manifest.payload, manifest.content_type or None, actor=MIRROR)
            if remote.upstream.platforms:
                self._platforms.put(name, manifest.payload)
        except ManifestInvalid as error:
            raise UpstreamError(f"The manifest of the upstream registry is invalid. {error.sentence}") from error
        except RecursionError:  # the platforms are read at a greater depth of calls than the manifest
            raise UpstreamError("The manifest of the upstream registry is nested too deeply.") from None
        return digest, manifest.payload


def _verified(manifest: UpstreamManifest, reference: Reference) -> Digest:
    """
    Return the digest of a manifest.

    Raises:
        UpstreamError: it is not the digest that was requested or announced, none was announced for a tag, or the
            upstream sent something else than a manifest.
    """
    if manifest.content_type and not manifest.content_type.lower().startswith(_VENDOR_TYPES):
        raise UpstreamError("The upstream registry sent no manifest.", mediaType=manifest.content_type[:255])
    try:
        announced = Digest.parse(manifest.digest) if manifest.digest else None
    except DigestInvalid:
        raise UpstreamError("The upstream registry announces an invalid digest.") from None
    expected = list(dict.fromkeys(each for each in (reference, announced) if isinstance(each, Digest)))
    if not expected:
        raise UpstreamError("The upstream registry announces no digest for the tag.")
    for digest in expected:
        if Digest.of(manifest.payload, digest.algorithm) != digest:
            raise UpstreamError("The manifest of the upstream registry has another digest.", digest=str(digest))
    return expected[0]
