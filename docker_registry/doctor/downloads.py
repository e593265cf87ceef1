"""Probes that pull."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from docker_registry.doctor.connection import Answer, read
from docker_registry.doctor.examination import Examination
from docker_registry.doctor.probe_image import MANIFEST_TYPE
from docker_registry.doctor.uploads import REPLICA_REQUESTS, REPLICAS


def check(examination: Examination) -> None:
    """Run the probes that pull what was pushed."""
    _check_blob(examination)
    _check_encodings(examination)
    _check_ranges(examination)
    _check_encoded_slash(examination)
    _check_replicas(examination)


def _check_blob(examination: Examination) -> None:
    image, path = examination.image, _blob_path(examination)
    answer = _get(examination, path)
    if answer.body != image.blob:
        examination.findings.fault("content", "A blob comes back changed.")
    if answer.header("docker-content-digest") != image.digest:
        examination.findings.fault(
            "digest-header",
            "Docker-Content-Digest is lost (nginx: no proxy_hide_header; with X-Accel-Redirect: add_header "
            "Docker-Content-Digest $upstream_http_docker_content_digest always;).",
        )
    head = examination.target.ask("HEAD", path)
    if head.status == 200 and head.header("content-length") != str(len(image.blob)):
        examination.findings.fault("head", "HEAD has no Content-Length: do not compress, cache or convert responses.")


def _check_encodings(examination: Examination) -> None:
    encodings = {"Accept-Encoding": "gzip, br, zstd"}
    manifest = examination.target.ask(
        "GET", f"{examination.root}/manifests/probe", headers={"Accept": MANIFEST_TYPE, **encodings}
    )
    blob = _get(examination, _blob_path(examination), encodings)
    if blob.header("content-encoding") or manifest.header("content-encoding"):
        examination.findings.fault(
            "compression", "Responses are compressed again (nginx: gzip off; Caddy: no encode; Traefik: no compress)."
        )


def _check_ranges(examination: Examination) -> None:
    for asked in ("bytes=10-19", "bytes=10-19,100-109"):
        answer = _get(examination, _blob_path(examination), {"Range": asked})
        if answer.status != 206 or examination.image.blob[10:20] not in answer.body:
            examination.findings.fault(
                "ranges", f"Range: {asked} is answered with {answer.status}: forward Range and Content-Range."
            )


def _check_encoded_slash(examination: Examination) -> None:
    encoded = examination.repository.replace("/", "%2F")
    status = examination.target.ask("GET", f"{examination.target.path}/v2/{encoded}/tags/list").status
    if encoded != examination.repository and status != 200:
        examination.findings.fault(
            "encoded-slash",
            f"A path with %2F is answered with {status} (Apache: AllowEncodedSlashes NoDecode, ProxyPass … "
            "nocanon; Traefik: allowEncodedSlash; nginx: proxy_pass without a path).",
        )


def _check_replicas(examination: Examination) -> None:
    path = f"{examination.root}/manifests/probe"
    asked = [
        examination.target.ask("HEAD", path, headers={"Accept": MANIFEST_TYPE}).status for _ in range(REPLICA_REQUESTS)
    ]
    if missing := asked.count(404):
        examination.findings.fault("replicas", REPLICAS.format(missing=missing, asked=len(asked)))


def _blob_path(examination: Examination) -> str:
    return f"{examination.root}/blobs/{examination.image.digest}"


def _get(examination: Examination, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a response, after the redirect to the store if there is one."""
    target = examination.target
    answer = target.ask("GET", path, headers={"Accept-Encoding": "identity", **(headers or {})})
    if answer.status not in (302, 307):
        return answer
    location = answer.header("location")
    try:
        location = urljoin(target.url, location)
        parts = urlsplit(location)
        with contextlib.closing(target.connect(location)) as connection:
            connection.request("GET", f"{parts.path}?{parts.query}", headers=dict(headers or {}))
            found = read(connection)
    except (OSError, ValueError, http.client.HTTPException) as error:
        examination.findings.fault(
            "redirect",
            f"Downloads are redirected to {location.partition('?')[0]}, which this client cannot reach "
            f"({error}). Set storage_redirect: false, or make the store reachable.",
        )
        return Answer(206 if (headers or {}).get("Range") else 200, answer.headers, examination.image.blob)
    digest = answer.header("docker-content-digest")
    return Answer(found.status, {**found.headers, **({"docker-content-digest": digest} if digest else {})}, found.body)
