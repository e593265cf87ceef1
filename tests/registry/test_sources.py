"""A registry whose sources are another registry, as those of a mirror would be: it has what the other has."""

from __future__ import annotations

import json
import time

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown, ManifestUnknown, NameUnknown
from docker_registry.registry import layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.manifest_payload import OCI_MANIFEST
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.sources import Found, Origin
from docker_registry.services import build

NAME, TAG = RepositoryName.parse("acme/web"), Tag.parse("v1")
CONFIG = b"{}"
LATE = Origin(warning="the upstream cannot be reached", expires=time.monotonic() + 60)


def payload(note, subject=None):
    """A manifest; *note* tells one from another."""
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(CONFIG)), "size": 2}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": [],
        "annotations": {"n": note},
    }
    if subject is not None:
        document["subject"] = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 1}
    return json.dumps(document).encode()


def push(registry, content, reference=TAG):
    registry.uploads.put(NAME, Digest.of(CONFIG), Content(CONFIG))
    return registry.manifest_pushes.put(NAME, reference, content, OCI_MANIFEST).descriptor.digest


class Upstream:
    """Another registry as a source of all kinds; counts how often it is asked."""

    def __init__(self, registry):
        self.registry = registry
        self.asked = 0

    def _ask(self):
        self.asked += 1
        return self.registry


class UpstreamTags(Upstream):
    def get(self, name, tag, principal):
        digest = self._ask().tags.find(name, tag)
        return None if digest is None else Found(digest, LATE)

    def find(self, name, tag):
        return self._ask().tags.find(name, tag)

    def exists(self, name, tag):
        return self._ask().tags.find(name, tag) is not None

    def names(self, name):
        return self._ask().tags.names(name)

    def page(self, name, count, last):
        return None

    def pointing_at(self, name, digest, tags=None):
        return iter([tag for tag in self._ask().tags.pointing_at(name, digest) if tags is None or tag in tags])

    def remove(self, name, tag, holds=None):
        return False


class UpstreamManifests(Upstream):
    def get(self, name, digest):
        try:
            return Found(self._ask().manifests.get(name, digest).payload, LATE)
        except ManifestUnknown:
            return None


class UpstreamBlobs(Upstream):
    def __init__(self, registry, driver):
        super().__init__(registry)
        self.driver = driver

    def get(self, name, digest):
        try:
            blob = self._ask().blobs.stat(name, digest)
        except BlobUnknown:
            return None
        self.driver.put_content(blob.path, self.registry.blobs.get(digest))
        return Found(blob, LATE)

    def stat(self, name, digest):
        try:
            return Found(self._ask().blobs.stat(name, digest), LATE)
        except BlobUnknown:
            return None


class UpstreamReferrers(Upstream):
    def list(self, name, subject):
        entries = self._ask().referrers.list(name, subject)
        return {Digest.parse(entry["digest"]): entry for entry in entries}


class UpstreamRepositories(Upstream):
    def exists(self, name):
        return self._ask().repositories.exists(name)

    def names(self):
        return map(RepositoryName, self._ask().repositories.page(100).names)


@pytest.fixture
def upstream():
    return OciRegistry(MemoryDriver())


@pytest.fixture
def services(upstream):
    services = build(Config(storage="memory", v1=False), MemoryDriver())
    sources = services.registry.sources
    sources.tags.append(UpstreamTags(upstream))
    sources.manifests.append(UpstreamManifests(upstream))
    sources.blobs.append(UpstreamBlobs(upstream, services.registry.driver))
    sources.referrers.append(UpstreamReferrers(upstream))
    sources.repositories.append(UpstreamRepositories(upstream))
    return services


@pytest.fixture
def mirror(services):
    return services.registry


class TestWhatOnlyASourceHas:
    def test_is_found_with_a_warning(self, upstream, services, mirror):
        content = payload("upstream")
        digest = push(upstream, content)
        manifest = mirror.manifests.get(NAME, TAG)
        assert (content, digest, LATE) == (manifest.payload, manifest.descriptor.digest, manifest.origin)
        assert content == mirror.manifests.get(NAME, digest).payload
        assert LATE == mirror.blobs.stat(NAME, Digest.of(CONFIG)).origin
        client = create_app(services).test_client()
        for path in (f"manifests/{TAG}", f"blobs/{Digest.of(CONFIG)}"):
            answer = client.get(f"/v2/{NAME}/{path}")
            assert (200, '299 - "the upstream cannot be reached"') == (answer.status_code, answer.headers["Warning"])

    def test_is_listed(self, upstream, mirror):
        digest = push(upstream, payload("upstream"))
        referrer = push(upstream, payload("signature", digest), Digest.of(payload("signature", digest)))
        mirror.repositories.check(NAME)
        assert [str(NAME)] == list(mirror.repositories.page(10).names)
        assert ["v1"] == list(mirror.tags.page(NAME, 10).names)
        assert [str(referrer)] == [entry["digest"] for entry in mirror.referrers.list(NAME, digest)]
        page = mirror.referrers.page(NAME, digest, max_entries=10, artifact_types=["application/other"])
        assert () == page.entries

    def test_is_the_previous_target_of_a_tag(self, upstream, mirror):
        digest = push(upstream, payload("upstream"))
        mine = push(mirror, payload("mine"), Digest.of(payload("mine")))
        assert digest == mirror.tags.put(NAME, TAG, mine)


class TestWhatTheStoreHas:
    def test_is_not_asked_for(self, upstream, mirror):
        push(upstream, payload("upstream"))
        digest = push(mirror, payload("mine"))
        sources = (*mirror.sources.tags, *mirror.sources.manifests, *mirror.sources.blobs)
        before = [source.asked for source in sources]
        assert digest == mirror.manifests.get(NAME, TAG).descriptor.digest
        assert mirror.manifests.get(NAME, TAG).origin is None
        mirror.blobs.stat(NAME, Digest.of(CONFIG))
        assert before == [source.asked for source in sources]

    def test_is_listed_once(self, upstream, mirror):
        for registry in (upstream, mirror):
            digest = push(registry, payload("same"))
            push(registry, payload("signature", digest), Digest.of(payload("signature", digest)))
        assert ["v1"] == list(mirror.tags.page(NAME, 10).names)
        assert 1 == len(mirror.referrers.list(NAME, digest))


class TestWhatNoSourceHas:
    def test_is_unknown(self, mirror):
        with pytest.raises(ManifestUnknown):
            mirror.manifests.get(NAME, TAG)
        with pytest.raises(ManifestUnknown):
            mirror.manifests.get(NAME, Digest.of(b"nothing"))
        with pytest.raises(BlobUnknown):
            mirror.blobs.stat(NAME, Digest.of(b"nothing"))
        with pytest.raises(NameUnknown):
            mirror.repositories.check(NAME)
        assert not mirror.driver.exists(layout.repository(NAME))
