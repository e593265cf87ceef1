from __future__ import annotations

import json

import pytest

from docker_registry.registry import layout
from docker_registry.registry.intake import Content
from docker_registry.registry.names import Digest, Tag
from docker_registry.registry.payloads import OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.referrers import fallback_tag
from tests.registry.conftest import NAME, OTHER

SUBJECT = Digest.of(b"a manifest that need not be here")


def descriptor(content, media_type="application/vnd.example.config"):
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def push(registry, name=NAME, **fields):
    """Push a manifest about the subject, and return its digest."""
    registry.uploads.put(name, Digest.of(b"{}"), Content(b"{}"))
    subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 2}
    document = {"schemaVersion": 2, "config": descriptor(b"{}"), "layers": [], "subject": subject, **fields}
    payload = json.dumps(document).encode()
    return registry.manifests.put(name, Digest.of(payload), payload, OCI_MANIFEST)


class TestAManifestAboutAnother:
    def test_is_listed_as_its_descriptor(self, registry):
        annotations = {"a": "b"}
        pushed = push(registry, artifactType="application/x", annotations=annotations)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert {
            "mediaType": OCI_MANIFEST,
            "digest": str(pushed.descriptor.digest),
            "size": pushed.descriptor.size,
            "artifactType": "application/x",
            "annotations": annotations,
        } == entry
        assert SUBJECT == pushed.subject

    def test_is_of_the_type_of_its_config_when_it_says_nothing(self, registry):
        push(registry)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert "application/vnd.example.config" == entry["artifactType"]

    def test_that_is_an_index_has_no_type_of_a_config(self, registry):
        subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 2}
        payload = json.dumps({"schemaVersion": 2, "manifests": [], "subject": subject}).encode()
        registry.manifests.put(NAME, Tag("x"), payload, OCI_INDEX)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert (OCI_INDEX, False) == (entry["mediaType"], "artifactType" in entry)

    def test_is_listed_in_its_repository_alone(self, registry):
        push(registry, OTHER)
        assert () == registry.referrers.list(NAME, SUBJECT)

    def test_is_forgotten_with_its_manifest(self, registry, driver):
        pushed = push(registry)
        registry.manifests.delete(NAME, pushed.descriptor.digest)
        assert () == registry.referrers.list(NAME, SUBJECT)
        assert [] == list(driver.walk(layout.referrers(NAME, SUBJECT)))

    def test_does_not_count_before_it_is_there(self, registry, driver):
        pushed = push(registry)
        driver.remove(layout.revision_link(NAME, pushed.descriptor.digest))
        assert () == registry.referrers.list(NAME, SUBJECT)

    def test_comes_in_the_order_of_digests(self, registry):
        digests = sorted(str(push(registry, number=number).descriptor.digest) for number in range(5))
        assert digests == [entry["digest"] for entry in registry.referrers.list(NAME, SUBJECT)]


class TestAListThatClientsKept:
    @pytest.fixture
    def child(self, registry, driver):
        """A manifest about the subject that was pushed before there was an API for it."""
        pushed = push(registry)
        driver.remove(layout.referrers(NAME, SUBJECT))
        return pushed.descriptor

    def keep(self, registry, *digests):
        entries = [{"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 1} for digest in digests]
        payload = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        registry.manifests.put(NAME, fallback_tag(SUBJECT), payload, OCI_INDEX)

    def test_is_adopted(self, registry, child):
        assert () == registry.referrers.list(NAME, SUBJECT)
        self.keep(registry, child.digest)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert (str(child.digest), child.size) == (entry["digest"], entry["size"])

    def test_adds_nothing_that_is_not_here_or_not_about_it(self, registry, child):
        other = registry.manifests.put(NAME, Tag("other"), b'{"schemaVersion": 2, "manifests": []}', OCI_INDEX)
        self.keep(registry, Digest.of(b"missing"), other.descriptor.digest)
        assert () == registry.referrers.list(NAME, SUBJECT)

    def test_adds_nothing_twice(self, registry):
        pushed = push(registry)
        self.keep(registry, pushed.descriptor.digest)
        assert 1 == len(registry.referrers.list(NAME, SUBJECT))

    def test_has_a_tag_made_of_the_digest(self):
        assert f"sha256-{SUBJECT.hex}" == str(fallback_tag(SUBJECT))
        assert f"sha512-{Digest.of(b'', 'sha512').hex[:64]}" == str(fallback_tag(Digest.of(b"", "sha512")))
