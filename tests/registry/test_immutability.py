"""Immutable tags hold under every name of a repository, and so does the content that they depend on."""

from __future__ import annotations

import json

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown, ContentImmutable, ManifestUnknown, TagImmutable
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import descriptor, layer, push_v1, push_v2, put_blob
from tests.registry.conftest import NAME
from tests.support.registries import Registry
from tests.support.v1_images import make, push

FOO, LIBRARY_FOO = RepositoryName("foo"), RepositoryName("library/foo")
OLD_FOO = ImageRepositoryName("library", "foo")
R1 = Tag("r1")


def push_index(registry, tag, *children, name=NAME):
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": kind, "digest": str(child), "size": 1} for child in children],
    }
    return registry.manifest_pushes.put(name, tag, json.dumps(document).encode(), None).descriptor.digest


def named_by(registry, digest, name=NAME):
    document = json.loads(registry.manifests.get(name, digest).payload)
    return [Digest.parse(item["digest"]) for item in (document["config"], *document["layers"])]


@pytest.mark.parametrize("pattern", ["foo:r*", "library/foo:r*", "r*"])
class TestAPatternForARepositoryWithTwoNames:
    @pytest.fixture
    def registry(self, pattern):
        registry = Registry(MemoryDriver(), immutable_tags=[pattern])
        push(registry, make(1), make(2))
        return registry

    def test_prevents_v1_from_changing_a_tag_of_v2(self, registry):
        push_v2(registry, layer(1), name=FOO, tag=R1)
        with pytest.raises(TagImmutable):
            registry.image_tag_pushes.put(OLD_FOO, R1, make(1).id, {})
        with pytest.raises(TagImmutable):
            registry.image_tags.delete(OLD_FOO, R1)
        with pytest.raises(TagImmutable):
            registry.image_tags.delete_repository(OLD_FOO)

    def test_prevents_v2_from_changing_a_tag_of_v1(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO, tag=R1)
        for name in (FOO, registry.repositories.resolve(LIBRARY_FOO)):
            with pytest.raises(TagImmutable):
                push_v2(registry, layer(1), name=name, tag=R1)
            with pytest.raises(TagImmutable):
                registry.removal.delete_manifest(name, R1)

    def test_prevents_v2_from_changing_a_tag_of_v1_whose_reservation_was_abandoned(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO, tag=R1)
        registry.driver.put_content(layout.tag_link(FOO, R1), store_removal.new_mark())
        with pytest.raises(TagImmutable):
            push_v2(registry, layer(1), name=FOO, tag=R1)

    def test_prevents_v2_from_hiding_a_tag_of_v1_by_the_longer_name(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO, tag=R1)
        with pytest.raises(TagImmutable):
            push_v2(registry, layer(1), name=LIBRARY_FOO, tag=R1)

    def test_prevents_v1_from_deleting_a_tag_of_the_longer_name(self, registry, pattern):
        if pattern == "foo:r*":
            pytest.skip("library/foo of V2 is another repository")
        push_v2(registry, layer(1), name=LIBRARY_FOO, tag=R1)
        with pytest.raises(TagImmutable):
            registry.image_tags.delete(OLD_FOO, R1)


class TestARepositoryNameWithCapitals:
    def test_is_matched_by_the_name_that_it_has_in_v1(self):
        registry = Registry(MemoryDriver(), immutable_tags=["Acme/*:r*"])
        push(registry, make(1), make(2))
        name = ImageRepositoryName.parse("Acme/Web")
        registry.image_tag_pushes.put(name, R1, make(1).id, {})
        with pytest.raises(TagImmutable):
            registry.image_tag_pushes.put(name, R1, make(2).id, {})


class TestContentOfAnImmutableTag:
    @pytest.fixture
    def registry(self):
        return Registry(MemoryDriver(), immutable_tags=["v*"])

    def test_is_kept_with_the_tag(self, registry):
        kept = push_v2(registry, layer(1), layer(2), tag=Tag("v1"))
        other = push_v2(registry, layer(1), layer(3), tag=Tag("latest"))
        for digest in named_by(registry, kept):
            with pytest.raises(ContentImmutable):
                registry.removal.delete_blob(NAME, digest)
        loose = [digest for digest in named_by(registry, other) if digest not in named_by(registry, kept)]
        assert 2 == len(loose)
        for digest in loose:
            registry.removal.delete_blob(NAME, digest)
        assert [NAME] * 3 == [registry.blobs.stat(NAME, digest) and NAME for digest in named_by(registry, kept)]

    def test_is_kept_below_an_index(self, registry):
        child = push_v2(registry, layer(1), tag=Tag("child"))
        inner = push_index(registry, Tag("inner"), child)
        push_index(registry, Tag("v2"), inner)
        for digest in (child, inner):
            with pytest.raises(ContentImmutable):
                registry.removal.delete_manifest(NAME, digest)
        with pytest.raises(ContentImmutable):
            registry.removal.delete_blob(NAME, named_by(registry, child)[0])
        registry.removal.delete_manifest(NAME, Tag("child"))  # the tag is another thing
        assert registry.manifests.exists(NAME, child)

    def test_is_kept_below_a_tag_of_v1_that_v2_has_shown(self, registry):
        push_v1(registry, [make(1)])
        made = registry.tags.get(NAME, Tag("v1"))
        for digest in named_by(registry, made):
            with pytest.raises(ContentImmutable):
                registry.removal.delete_blob(NAME, digest)

    def test_may_be_deleted_from_another_repository(self, registry):
        push_v2(registry, layer(1), tag=Tag("v1"))
        other = RepositoryName("acme/other")
        digest = put_blob(registry, layer(1), other)
        registry.removal.delete_blob(other, digest)
        with pytest.raises(BlobUnknown):
            registry.blobs.stat(other, digest)

    def test_may_be_deleted_where_no_tag_is_immutable(self, registry):
        pushed = push_v2(registry, layer(1), tag=Tag("latest"))
        for digest in named_by(registry, pushed):
            registry.removal.delete_blob(NAME, digest)
        registry.removal.delete_manifest(NAME, pushed)
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(NAME, pushed)

    def test_is_found_without_reading_layers_as_manifests(self, registry):
        blob = put_blob(registry, layer(1))
        document = {"schemaVersion": 2, "manifests": [descriptor("application/vnd.oci.image.layer.v1.tar", layer(1))]}
        registry.manifest_pushes.put(
            NAME, Tag("v1"), json.dumps(document).encode(), "application/vnd.oci.image.index.v1+json"
        )
        with pytest.raises(ContentImmutable):
            registry.removal.delete_blob(NAME, blob)

    def test_is_restored_when_the_tag_is_pushed_during_the_deletion(self):
        driver = MemoryDriver()
        registry = Registry(driver, immutable_tags=["v*"])
        pushed = push_v2(registry, layer(1), tag=Tag("latest"))
        digest = named_by(registry, pushed)[1]
        delete, payload = registry.blobs.delete, registry.manifests.get(NAME, pushed).payload

        def push_first(*arguments):
            registry.manifest_pushes.put(NAME, Tag("v1"), payload, None)
            delete(*arguments)

        registry.blobs.delete = push_first
        with pytest.raises(ContentImmutable):
            registry.removal.delete_blob(NAME, digest)
        assert digest == registry.blobs.stat(NAME, digest).digest
