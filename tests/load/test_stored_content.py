"""Requests for large stored content do not block a worker: other requests are answered meanwhile."""

from __future__ import annotations

import json
import threading

import pytest
import requests

from docker_registry.drivers.file import FileDriver
from docker_registry.registry import layout
from docker_registry.registry.manifest_payload import OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.referrers import fallback_tag
from tests.support.processes import memory_bytes
from tests.support.servers.registry import Server
from tests.support.timing import Latency

NAME = RepositoryName("acme/large")
SUBJECT = Digest.of(b"subject")
MIB = 1024 * 1024

MAX_LATENCY_SECONDS = 0.25
MAX_MEMORY_BYTES = 300 * MIB


def dump(document):
    return json.dumps(document, separators=(",", ":")).encode()


def digest(number):
    return f"sha256:{number:064x}"


def about_subject(**fields):
    config = {"mediaType": "application/x", "digest": str(Digest.of(b"{}")), "size": 2}
    subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 7}
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [], "subject": subject, **fields}


def absurd(head, size_bytes=700_000):
    """A manifest with the maximum number of values."""
    return dump({**head, "x": "@"}).replace(b'"@"', b"[" + b"[]," * ((size_bytes - 2000) // 3) + b"[]]")


class OldStore:
    """Writes content as earlier versions or other servers stored it."""

    def __init__(self, store):
        self._driver = FileDriver(str(store))

    def put(self, payload):
        found = Digest.of(payload)
        self._driver.put_content(layout.blob_data(found), payload)
        self._driver.put_content(layout.revision_link(NAME, found), str(found).encode())
        self._driver.put_content(layout.layer_link(NAME, found), str(found).encode())
        return str(found)

    def tag(self, tag, digest_):
        self._driver.put_content(layout.tag_link(NAME, tag), digest_.encode())

    def refer(self, digest_, entry):
        self._driver.put_content(layout.referrer(NAME, SUBJECT, Digest.parse(digest_)), entry)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("large") / "store", new_interpreter=True) as server:
        server.url += "/v2/acme/large"
        yield server


@pytest.fixture(scope="module")
def old(server):
    return OldStore(server.store)


@pytest.fixture(scope="module", autouse=True)
def others(server, tmp_path_factory):
    """Another client, which must be served quickly during all tests."""
    host = server.url.removesuffix("/v2/acme/large")
    with Server(tmp_path_factory.mktemp("idle") / "store") as idle, Latency(host, idle.url) as latency:
        yield
    latency.assert_below(MAX_LATENCY_SECONDS)
    assert MAX_MEMORY_BYTES > max(memory_bytes(pid, "VmHWM") for pid in server.worker_pids())


def at_once(work, count=4):
    """Call a function several times concurrently, and return the results."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == len(results)
    return results


class TestALargeManifest:
    def test_of_thousands_of_children_is_stored(self, server):
        payload = dump({"schemaVersion": 2, "manifests": [{"digest": digest(number)} for number in range(20_000)]})
        url, headers = f"{server.url}/manifests/many", {"Content-Type": OCI_INDEX, "Accept": OCI_INDEX}
        assert 201 == requests.put(url, payload, headers=headers).status_code
        found = requests.get(url, headers=headers)
        assert (OCI_INDEX, payload) == (found.headers["Content-Type"], found.content)

    def test_nested_too_deeply_is_rejected(self, server):
        payload = absurd({"mediaType": "application/y"}, 4 * MIB)
        assert [400] * 4 == at_once(lambda: requests.put(f"{server.url}/manifests/absurd", payload).status_code)

    def test_nested_too_deeply_of_earlier_versions_is_served(self, server, old):
        found = old.put(absurd({"mediaType": "application/y"}))

        def pull():
            response = requests.get(f"{server.url}/manifests/{found}")
            return response.status_code, response.headers["Content-Type"]

        assert [(200, "application/y")] * 4 == at_once(pull)


class TestReferrers:
    def get(self, server, query=""):
        """Yield the pages of the list."""
        url = f"{server.url}/referrers/{SUBJECT}"
        while True:
            response = requests.get(f"{url}?{query}")
            assert 4 * MIB > len(response.content)
            yield response.json()["manifests"]
            if "next" not in response.links:
                return
            query = response.links["next"]["url"].partition("?")[2]

    def test_of_an_index_that_repeats_large_manifests(self, server, old):
        large = [old.put(absurd(about_subject(number=number))) for number in range(2)]
        children = [old.put(dump(about_subject(number=number))) for number in range(100)]
        entries = [{"digest": child} for child in (large + children) * 100]
        old.tag(fallback_tag(SUBJECT), old.put(dump({"schemaVersion": 2, "manifests": entries})))
        found = [item["digest"] for page in self.get(server) for item in page]
        assert sorted(large + children) == found

    def test_with_annotations_of_megabytes(self, server, old):
        for number in range(40):
            payload = dump(about_subject(annotations={str(number): "x" * 3_000_000}))
            descriptor = {"mediaType": OCI_MANIFEST, "digest": old.put(payload), "size": len(payload)}
            entry = {**descriptor, "artifactType": "a/b", "annotations": {str(number): "x" * 3_000_000}}
            old.refer(descriptor["digest"], dump(entry))
        assert [[]] == list(self.get(server, "artifactType=none/none"))
        assert [1] * 4 == at_once(lambda: len(next(self.get(server, "artifactType=a/b"))))
