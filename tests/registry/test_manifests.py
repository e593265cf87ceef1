from __future__ import annotations

import json

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import DigestInvalid, ManifestBlobUnknown, ManifestInvalid, ManifestUnknown, TooLarge
from docker_registry.registry import layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.manifest_payload import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.names import Digest, Tag
from tests.registry.conftest import NAME, OTHER
from tests.support.registries import Registry

LATEST = Tag("latest")


def descriptor(content, media_type="application/octet-stream"):
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image(registry, name=NAME, note=""):
    """Push the blobs of an image and return its payload."""
    for content in (b"{}", b"layer"):
        registry.uploads.put(name, Digest.of(content), Content(content))
    document = {"schemaVersion": 2, "config": descriptor(b"{}"), "layers": [descriptor(b"layer")], "note": note}
    return json.dumps(document, indent=3).encode()


class TestAPushedManifest:
    def test_is_served_bit_for_bit_by_tag_and_digest(self, registry):
        payload = image(registry)
        pushed = registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST).descriptor
        assert payload == registry.manifests.get(NAME, LATEST).payload
        assert payload == registry.manifests.get(NAME, pushed.digest).payload
        assert (Digest.of(payload), len(payload)) == (pushed.digest, pushed.size)

    def test_keeps_the_type_it_was_pushed_with(self, registry):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), DOCKER_MANIFEST).descriptor
        assert pushed == registry.manifests.get(NAME, LATEST).descriptor
        assert DOCKER_MANIFEST == pushed.media_type

    def test_of_a_type_that_its_fields_tell_has_no_file_beside_it(self, registry, driver):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        assert pushed == registry.manifests.get(NAME, LATEST).descriptor
        assert not driver.exists(layout.revision_media_type(NAME, pushed.digest))

    def test_by_digest_may_be_of_sha512(self, registry):
        payload = image(registry)
        digest = Digest.of(payload, "sha512")
        assert digest == registry.manifest_pushes.put(NAME, digest, payload, OCI_MANIFEST).descriptor.digest
        assert payload == registry.manifests.get(NAME, digest).payload

    def test_replaces_what_the_tag_pointed_at_and_keeps_both(self, registry):
        first = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        second = registry.manifest_pushes.put(NAME, LATEST, image(registry, note="2"), OCI_MANIFEST).descriptor
        assert second.digest == registry.manifests.get(NAME, LATEST).descriptor.digest
        assert registry.manifests.exists(NAME, first.digest)

    def test_belongs_to_its_repository_only(self, registry):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        for reference in (LATEST, pushed.digest):
            with pytest.raises(ManifestUnknown):
                registry.manifests.get(OTHER, reference)


class TestAnUnacceptableManifest:
    def test_names_a_blob_that_its_repository_lacks(self, registry):
        payload = image(registry, OTHER)
        with pytest.raises(ManifestBlobUnknown) as refused:
            registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST)
        assert [str(Digest.of(b"{}")), str(Digest.of(b"layer"))] == refused.value.detail["digests"]

    def test_is_pushed_under_the_digest_of_another(self, registry):
        with pytest.raises(DigestInvalid):
            registry.manifest_pushes.put(NAME, Digest.of(b"other"), image(registry), OCI_MANIFEST)

    def test_is_too_large(self, driver):
        registry = Registry(driver, max_manifest_bytes=100)
        with pytest.raises(TooLarge):
            registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST)

    def test_changes_nothing(self, registry, driver):
        payload = image(registry)
        before = sorted(stat.path for stat in driver.walk())
        for broken in (b"", payload[:-1], payload.replace(b'"schemaVersion": 2', b'"schemaVersion": 1')):
            with pytest.raises(ManifestInvalid):
                registry.manifest_pushes.put(NAME, LATEST, broken, OCI_MANIFEST)
        assert before == sorted(stat.path for stat in driver.walk())


class TestAManifestThatAnEarlierVersionAccepted:
    @pytest.mark.parametrize("more", [b'"Manifests": []', b'"layers": []'])
    def test_is_served_although_it_would_be_rejected(self, registry, driver, more):
        payload = image(registry).rstrip(b"}") + b", " + more + b"}"
        digest = Digest.of(payload)
        driver.put_content(layout.blob_data(digest), payload)
        driver.put_content(layout.revision_link(NAME, digest), str(digest).encode())
        registry.tags.put(NAME, Tag("old"), digest)
        assert payload == registry.manifests.get(NAME, Tag("old")).payload
        with pytest.raises(ManifestInvalid):
            registry.manifest_pushes.put(NAME, Tag("new"), payload, None)


class TestAnIndex:
    INDEX = json.dumps({"schemaVersion": 2, "manifests": [descriptor(b"child")]}).encode()

    def test_may_name_children_that_are_not_there(self, registry):
        registry.manifest_pushes.put(NAME, LATEST, self.INDEX, OCI_INDEX)

    def test_may_not_when_children_are_checked(self, driver):
        registry = Registry(driver, check_index_children=True)
        with pytest.raises(ManifestBlobUnknown):
            registry.manifest_pushes.put(NAME, LATEST, self.INDEX, OCI_INDEX)


class TestDeleting:
    def test_a_tag_leaves_its_manifest(self, registry):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        registry.removal.delete_manifest(NAME, LATEST)
        assert registry.manifests.exists(NAME, pushed.digest)
        with pytest.raises(ManifestUnknown):
            registry.removal.delete_manifest(NAME, LATEST)

    def test_a_manifest_deletes_its_tags_and_no_others(self, registry):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        registry.manifest_pushes.put(NAME, Tag("v1"), image(registry), OCI_MANIFEST)
        registry.manifest_pushes.put(NAME, Tag("v2"), image(registry, note="2"), OCI_MANIFEST)
        registry.removal.delete_manifest(NAME, pushed.digest)
        assert (Tag("v2"),) == registry.tags.list(NAME)
        with pytest.raises(ManifestUnknown):
            registry.removal.delete_manifest(NAME, pushed.digest)

    def test_a_manifest_hides_a_tag_without_a_back_reference(self, registry, driver):
        pushed = registry.manifest_pushes.put(NAME, LATEST, image(registry), OCI_MANIFEST).descriptor
        driver.remove(layout.revision_link(NAME, pushed.digest))
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(NAME, LATEST)


class TestListing:
    def test_tags_are_in_ascii_order_without_foreign_folders(self, registry, driver):
        for tag in ("b", "B", "a", "1"):
            registry.manifest_pushes.put(NAME, Tag(tag), image(registry), OCI_MANIFEST)
        driver.put_content(f"{layout.tags(NAME)}/.trash/current/link", b"x")
        assert [Tag("1"), Tag("B"), Tag("a"), Tag("b")] == list(registry.tags.list(NAME))

    def test_tags_of_an_unknown_repository_are_empty(self, registry):
        assert () == registry.tags.list(NAME)


class Interrupted(MemoryDriver):
    """A store in which something happens just before or after a change."""

    def __init__(self):
        super().__init__()
        self.before, self.after = {}, {}

    def put_content(self, path, content, *, if_match=None):
        self._happen(self.before, path)
        super().put_content(path, content, if_match=if_match)
        self._happen(self.after, path)

    def remove(self, path):
        self._happen(self.before, path)
        super().remove(path)
        self._happen(self.after, path)

    def remove_if_match(self, path, version):
        self._happen(self.before, path)
        super().remove_if_match(path, version)
        self._happen(self.after, path)

    def _happen(self, events, path):
        events.pop(path, lambda: None)()


class TestAPushThatMeetsADeletion:
    """Whichever comes first, no tag is listed that cannot be pulled."""

    DIGEST = Digest.of(json.dumps({"schemaVersion": 2, "config": descriptor(b"{}"), "layers": []}).encode())

    @pytest.fixture
    def driver(self):
        return Interrupted()

    @pytest.fixture
    def payload(self, registry):
        image(registry)
        return json.dumps({"schemaVersion": 2, "config": descriptor(b"{}"), "layers": []}).encode()

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("path", [layout.tag_link(NAME, LATEST), layout.tag_back_reference(NAME, DIGEST, LATEST)])
    def test_in_the_middle_of_the_push(self, registry, driver, payload, moment, path):
        registry.manifest_pushes.put(NAME, self.DIGEST, payload, OCI_MANIFEST)
        getattr(driver, moment)[path] = lambda: registry.removal.delete_manifest(NAME, self.DIGEST)
        registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST)
        self.all_tags_can_be_pulled(registry)
        assert registry.manifests.exists(NAME, self.DIGEST)

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("path", [layout.revision_link(NAME, DIGEST), layout.revision(NAME, DIGEST)])
    def test_in_the_middle_of_the_deletion(self, registry, driver, payload, moment, path):
        registry.manifest_pushes.put(NAME, self.DIGEST, payload, OCI_MANIFEST)
        getattr(driver, moment)[path] = lambda: registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST)
        registry.removal.delete_manifest(NAME, self.DIGEST)
        self.all_tags_can_be_pulled(registry)

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("path", [layout.tag_link(NAME, LATEST), layout.revision_link(NAME, DIGEST)])
    def test_of_another_manifest_keeps_the_tag(self, registry, driver, payload, moment, path):
        registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST)
        other = image(registry)
        getattr(driver, moment)[path] = lambda: registry.manifest_pushes.put(NAME, LATEST, other, OCI_MANIFEST)
        registry.removal.delete_manifest(NAME, self.DIGEST)
        assert other == registry.manifests.get(NAME, LATEST).payload

    def all_tags_can_be_pulled(self, registry):
        for tag in registry.tags.list(NAME):
            assert registry.manifests.get(NAME, tag)
