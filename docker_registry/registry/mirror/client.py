"""The client of an upstream registry: requests of API V2 whose answers are bounded and checked."""

from __future__ import annotations

from typing import Final

from docker_registry.errors import DigestInvalid, UpstreamDenied, UpstreamError
from docker_registry.registry.manifest_payload import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.mirror import responses
from docker_registry.registry.mirror.responses import TagState, UpstreamBlob, UpstreamManifest, UpstreamPage
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.registry.mirror.upstream_connection import OK, UNAUTHORIZED, UpstreamConnection
from docker_registry.registry.names import Digest, Reference, Tag

_ACCEPT: Final = f"{OCI_INDEX}, {DOCKER_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}"

#: Status codes of upstreams that do not support HEAD.
_UNSUPPORTED: Final = frozenset({405, 501})


class UpstreamClient:
    """
    Asks one upstream by API V2; greenlets may share it.

    Attributes:
        connection: sends the requests.
    """

    def __init__(self, connection: UpstreamConnection) -> None:
        self.connection = connection

    @property
    def upstream(self) -> Upstream:
        """The upstream that is asked."""
        return self.connection.upstream

    def check(self) -> None:
        """
        Check that the upstream answers, and accepts the credentials.

        Raises:
            UpstreamError: it does not, or does not speak API V2.
        """
        response = self.connection.ask("GET", "", "", accepted={200, UNAUTHORIZED})
        if response is None:
            raise UpstreamError("The upstream registry does not speak API V2.", upstream=self.upstream.name)
        response.close()
        if response.status_code == UNAUTHORIZED and self.connection.has_credentials:
            raise UpstreamDenied(status=UNAUTHORIZED, upstream=self.upstream.name)

    def get_manifest(self, repository: str, reference: Reference) -> UpstreamManifest | None:
        """
        Return a manifest; None if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or its answer is not a manifest.
        """
        response = self.connection.ask("GET", repository, f"manifests/{reference}", {"Accept": _ACCEPT})
        if response is None:
            return None
        payload = self.connection.read(response, responses.MAX_MANIFEST_BYTES)
        self.connection.pulled_bytes["manifest"] += len(payload)
        return UpstreamManifest(
            payload, responses.content_type(response), response.headers.get("Docker-Content-Digest", "")
        )

    def check_tag(self, repository: str, tag: Tag) -> TagState:
        """
        Return the target of a tag by a HEAD request, which no upstream counts as a pull.

        Raises:
            UpstreamError: the upstream cannot be asked.
        """
        headers, accepted = {"Accept": _ACCEPT}, OK | _UNSUPPORTED
        response = self.connection.ask("HEAD", repository, f"manifests/{tag}", headers, accepted)
        if response is None:
            return TagState(exists=False)
        response.close()
        try:
            text = response.headers.get("Docker-Content-Digest", "") if response.status_code in OK else ""
            return TagState(exists=True, digest=Digest.parse(text))
        except DigestInvalid:
            return TagState(exists=True)

    def get_blob(
        self, repository: str, digest: Digest, start: int = 0, end: int | None = None, validator: str = ""
    ) -> UpstreamBlob | None:
        """
        Start to receive a blob, or a part of it; None if the upstream does not have it.

        Args:
            start: offset of the first byte.
            end: offset after the last byte; None for the end of the blob.
            validator: of the response that brought the bytes before *start*; empty if there is none.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends another part.
        """
        headers = responses.range_headers(start, end, validator)
        accepted = OK | {responses.PARTIAL} if headers else OK
        response = self.connection.ask("GET", repository, f"blobs/{digest}", headers, accepted)
        return None if response is None else self.connection.blob(response, start)

    def find_blob_size(self, repository: str, digest: Digest) -> int | None:
        """
        Return the size of a blob in bytes; None if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or does not state the size.
        """
        response = self.connection.ask("HEAD", repository, f"blobs/{digest}")
        if response is None:
            return None
        with response:
            size = responses.length_of(response)
        if size is None:
            raise UpstreamError(
                "The upstream registry does not state the size of the blob.", upstream=self.upstream.name
            )
        return size

    def get_page(self, repository: str, path: str, accept: str) -> UpstreamPage | None:
        """
        Return a page of tags or referrers; None if the upstream does not have the list.

        Args:
            path: path and query of the page, below the repository.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends something else.
        """
        response = self.connection.ask("GET", repository, path, {"Accept": accept})
        if response is None:
            return None
        with response:
            # Amazon ECR sends JSON as text (https://github.com/deitch/docker_registry2/issues/34).
            if responses.content_type(response) not in (accept, "application/json", "text/plain"):
                raise UpstreamError("The upstream registry sent no list.", upstream=self.upstream.name)
            payload = self.connection.read(response, responses.MAX_MANIFEST_BYTES)
        return UpstreamPage(
            payload, responses.next_page(response, f"{self.upstream.url}/v2/{repository}/", path, self.upstream.name)
        )
