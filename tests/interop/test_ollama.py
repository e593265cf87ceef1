"""
The requests of ollama, in the order of its server/upload.go and server/download.go.

It does not resolve the Location of an upload, so it needs absolute URLs; it does resolve that of a blob.
"""

from __future__ import annotations

import hashlib
import json
import random
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.clients.v2 import digest_of

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
PART_BYTES = 1_000_000  # 100 MB to 1 GB in ollama

CONTENT = random.Random(3).randbytes(3_500_000)
CONFIG = b'{"model_format":"gguf","model_family":"llama"}'


@pytest.fixture
def session():
    with requests.Session() as session:
        session.headers["User-Agent"] = "ollama/0.5.7 (amd64 linux) Go/go1.23.4"
        yield session


def next_url(answer):
    """Return the URL that ollama requests next, which must be absolute."""
    location = answer.headers.get("Docker-Upload-Location") or answer.headers["Location"]
    assert urlsplit(location).scheme
    assert urlsplit(location).netloc
    return location


def push_blob(session, url, content):
    digest = digest_of(content)
    assert 404 == session.head(f"{url}/blobs/{digest}").status_code
    answer = session.post(f"{url}/blobs/uploads/")
    assert 202 == answer.status_code
    sums = b""
    for start in range(0, len(content), PART_BYTES):
        part = content[start : start + PART_BYTES]
        headers = {"X-Redirect-Uploads": "1", "Content-Range": f"{start}-{start + len(part) - 1}"}
        answer = session.patch(next_url(answer), data=part, headers=headers)
        assert 202 == answer.status_code
        sums += hashlib.md5(part).digest()
    etag = f"{hashlib.md5(sums).hexdigest()}-{-(-len(content) // PART_BYTES)}"
    answer = session.put(next_url(answer), params={"digest": digest, "etag": etag})
    assert 201 == answer.status_code
    return {"digest": digest, "size": len(content)}


def pull_blob(session, url, digest):
    blob = f"{url}/blobs/{digest}"
    size = int(session.head(blob).headers["Content-Length"])
    with session.get(blob, allow_redirects=False, stream=True) as answer:
        assert answer.status_code in (200, 307)
        place = requests.compat.urljoin(blob, answer.headers["Location"])
    content = b""
    for start in range(0, size, PART_BYTES):
        stop = min(start + PART_BYTES, size)
        answer = requests.get(place, headers={"Range": f"bytes={start}-{stop - 1}"}, timeout=30)  # with no session
        assert (206, stop - start) == (answer.status_code, len(answer.content))
        content += answer.content
    return content


def test_pushes_and_pulls_a_model(session, server, name):
    url = f"{server.url}/v2/{name}"
    layer = push_blob(session, url, CONTENT) | {"mediaType": "application/vnd.ollama.image.model"}
    config = push_blob(session, url, CONFIG) | {"mediaType": "application/vnd.docker.container.image.v1+json"}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()
    answer = session.put(f"{url}/manifests/latest", data=manifest, headers={"Content-Type": MANIFEST})
    assert 201 == answer.status_code
    answer = session.get(f"{url}/manifests/latest", headers={"Accept": MANIFEST})
    assert manifest == answer.content
    for descriptor, content in ((layer, CONTENT), (config, CONFIG)):
        assert content == pull_blob(session, url, descriptor["digest"])


def test_receives_urls_with_the_scheme_of_the_proxy(session, server, name):
    answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/", headers={"X-Forwarded-Proto": "https"})
    assert next_url(answer).startswith(f"https://127.0.0.1:{server.port}/v2/{name}/blobs/uploads/")


def test_is_the_only_client_that_receives_absolute_urls(server, name):
    answer = requests.post(f"{server.url}/v2/{name}/blobs/uploads/", timeout=20)
    assert "Docker-Upload-Location" not in answer.headers
    assert answer.headers["Location"].startswith("/v2/")
