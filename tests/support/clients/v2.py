"""
A client of API V2 for tests: one method per request of the specification, with verified responses.

A request whose response lacks the status that the specification requires raises :class:`Refused`, so a test calls
``client.push_blob(name, content)`` and continues; a test of errors examines the :class:`Refused`, or sends its own
request through :attr:`Client.session`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

import requests

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

#: The media types that every current client accepts.
ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}, */*"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

#: Seconds of silence after which a server counts as hung.
TIMEOUT_SECONDS: Final = 60

_BLOCK_BYTES = 64 * 1024


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of *content* as text."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def encoded(document: object) -> bytes:
    """Return a JSON document as bytes, always the same."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True)
class Pulled:
    """A manifest as it was served."""

    payload: bytes
    media_type: str
    digest: str

    @property
    def document(self) -> Any:
        """The payload, parsed."""
        return json.loads(self.payload)


class Refused(AssertionError):
    """The server's response has an unexpected status."""

    def __init__(self, answer: requests.Response) -> None:
        self.answer = answer
        self.status = answer.status_code
        super().__init__(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}")

    @property
    def code(self) -> str:
        """The OCI code of the first error."""
        return str(self.answer.json()["errors"][0]["code"])


class Client:
    """
    One user of a registry.

    Attributes:
        session: for requests that have no method here; its connections are kept alive.
    """

    def __init__(self, url: str) -> None:
        """
        Args:
            url: of the server, as ``http://127.0.0.1:5000``.
        """
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False  # ignores proxies of the machine's environment

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def request(self, method: str, path: str, *statuses: int, **options: Any) -> requests.Response:
        """
        Send a request, whose answer must have one of these statuses.

        Args:
            path: below the server, or an absolute URL, such as a ``Location``.

        Raises:
            Refused: it has another one.
        """
        options.setdefault("timeout", TIMEOUT_SECONDS)
        answer = self.session.request(method, urljoin(f"{self.url}/", path), **options)
        if answer.status_code not in statuses:
            raise Refused(answer)
        return answer

    # ------------------------------------------------------------------------------------------------- blobs

    def start_upload(self, name: str) -> str:
        """Begin an upload and return its location, an absolute URL (end-4a)."""
        answer = self.request("POST", f"/v2/{name}/blobs/uploads/", 202)
        return urljoin(self.url, answer.headers["Location"])

    def append(self, location: str, content: bytes | Iterable[bytes], start: int | None = None) -> tuple[str, int]:
        """
        Send the next bytes of an upload (end-5).

        Args:
            content: bytes go with Content-Length, an iterable goes chunked.
            start: offset for Content-Range; None sends none.

        Returns:
            The next location of the upload, and the number of bytes that the server acknowledges.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if start is not None and isinstance(content, bytes):
            headers["Content-Range"] = f"{start}-{start + len(content) - 1}"
        answer = self.request("PATCH", location, 202, data=content, headers=headers)
        return urljoin(self.url, answer.headers["Location"]), acknowledged(answer)

    def commit(self, location: str, digest: str, content: bytes | Iterable[bytes] = b"") -> None:
        """End an upload, with the last bytes or without any (end-6)."""
        headers = {"Content-Type": "application/octet-stream"}
        answer = self.request("PUT", location, 201, params={"digest": digest}, data=content, headers=headers)
        assert digest == answer.headers["Docker-Content-Digest"]

    def push_blob(self, name: str, content: bytes, way: str = "streamed") -> str:
        """
        Push a blob and return its digest.

        Args:
            way: one of :data:`WAYS`.
        """
        digest = digest_of(content)
        WAYS[way](self, name, content, digest)
        return digest

    def push_stream(self, name: str, blocks: Iterable[bytes]) -> str:
        """Push a blob of any size, chunked as docker does, and return its digest."""
        received = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for block in blocks:
                received.update(block)
                yield block

        location, _ = self.append(self.start_upload(name), hashed())
        digest = f"sha256:{received.hexdigest()}"
        self.commit(location, digest)
        return digest

    def mount(self, name: str, digest: str, source: str | None = None) -> bool:
        """Try to mount a blob of another repository; return whether it was mounted (end-11)."""
        query = {"mount": digest} | ({"from": source} if source else {})
        return self.request("POST", f"/v2/{name}/blobs/uploads/", 201, 202, params=query).status_code == 201

    def has_blob(self, name: str, digest: str) -> bool:
        """Return whether a repository has a blob (end-2)."""
        return self.request("HEAD", f"/v2/{name}/blobs/{digest}", 200, 404).status_code == 200

    def get_blob(self, name: str, digest: str) -> bytes:
        """Return a blob, verified (end-2)."""
        content: bytes = self.request("GET", f"/v2/{name}/blobs/{digest}", 200).content
        assert digest == digest_of(content, digest.partition(":")[0])
        return content

    def pull_blob(self, name: str, digest: str) -> int:
        """Read a blob of any size without keeping it, verified, and return its size."""
        received, size = hashlib.new(digest.partition(":")[0]), 0
        with self.request("GET", f"/v2/{name}/blobs/{digest}", 200, stream=True) as answer:
            for block in answer.iter_content(_BLOCK_BYTES):
                received.update(block)
                size += len(block)
        assert digest == f"{received.name}:{received.hexdigest()}"
        return size

    # --------------------------------------------------------------------------------------------- manifests

    def put_manifest(self, name: str, reference: str, payload: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Push a manifest under a tag or its digest, and return its digest (end-7)."""
        headers = {"Content-Type": media_type}
        answer = self.request("PUT", f"/v2/{name}/manifests/{reference}", 201, data=payload, headers=headers)
        digest = digest_of(payload)
        assert digest == answer.headers["Docker-Content-Digest"]
        return digest

    def get_manifest(self, name: str, reference: str, accept: str = ACCEPT) -> Pulled:
        """Return a manifest, verified (end-3)."""
        answer = self.request("GET", f"/v2/{name}/manifests/{reference}", 200, headers={"Accept": accept})
        digest = answer.headers["Docker-Content-Digest"]
        assert digest == digest_of(answer.content, digest.partition(":")[0])
        return Pulled(answer.content, answer.headers["Content-Type"], digest)

    def has_manifest(self, name: str, reference: str) -> bool:
        """Return whether a repository has a manifest or a tag (end-3)."""
        headers = {"Accept": ACCEPT}
        answer = self.request("HEAD", f"/v2/{name}/manifests/{reference}", 200, 404, headers=headers)
        return answer.status_code == 200

    def delete_manifest(self, name: str, reference: str) -> None:
        """Delete a manifest or a tag (end-9)."""
        self.request("DELETE", f"/v2/{name}/manifests/{reference}", 202)

    # ------------------------------------------------------------------------------------------------- lists

    def tags(self, name: str) -> list[str]:
        """Return all tags of a repository, page after page (end-8)."""
        return list(self._listed(f"/v2/{name}/tags/list", "tags"))

    def repositories(self) -> list[str]:
        """Return the names of all repositories, page after page."""
        return list(self._listed("/v2/_catalog", "repositories"))

    def _listed(self, path: str, key: str) -> Iterator[str]:
        following: str | None = path
        while following:
            answer = self.request("GET", following, 200)
            yield from answer.json()[key] or ()
            following = answer.links.get("next", {}).get("url")


def acknowledged(answer: requests.Response) -> int:
    """Return the number of bytes in a ``Range`` header; 0-0 means none, or one byte, which no test uses."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers["Range"])
    assert match, answer.headers["Range"]
    return int(match[1]) + 1 if int(match[1]) else 0


# ------------------------------------------------------------------------------- the ways in which a blob is pushed


def _streamed(client: Client, name: str, content: bytes, digest: str) -> None:
    location, kept = client.append(client.start_upload(name), cut(content))
    assert len(content) <= 1 or len(content) == kept
    client.commit(location, digest)


def _ranged(client: Client, name: str, content: bytes, digest: str) -> None:
    location = client.start_upload(name)
    step = max(len(content) // 3, 1)
    for start in range(0, len(content), step):
        location, _ = client.append(location, content[start : start + step], start)
    client.commit(location, digest)


def _put(client: Client, name: str, content: bytes, digest: str) -> None:
    client.commit(client.start_upload(name), digest, content)


def _posted(client: Client, name: str, content: bytes, digest: str) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    query = {"digest": digest}
    answer = client.request("POST", f"/v2/{name}/blobs/uploads/", 201, params=query, data=content, headers=headers)
    assert digest == answer.headers["Docker-Content-Digest"]


def cut(content: bytes, size: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """Yield content in pieces, so that the request is sent chunked."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


#: ``streamed``: one chunked PATCH, then PUT (docker, podman, skopeo); ``ranged``: PATCHes with Content-Range, then PUT;
#: ``put``: POST, then one PUT (containerd); ``posted``: one POST.
WAYS: Final[dict[str, Callable[[Client, str, bytes, str], None]]] = {
    "streamed": _streamed,
    "ranged": _ranged,
    "put": _put,
    "posted": _posted,
}
