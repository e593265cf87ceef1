"""Manifests of API V2 that are generated from images of V1."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from contextlib import nullcontext

import pytest

from docker_registry.concurrency import watching_client
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import BlobUnknown, ClientLeft, ManifestUnknown
from docker_registry.registry import layout
from docker_registry.registry.access import OpenPolicy
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.leases import Leases
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import (
    DOCKER,
    GZIP,
    NEW,
    OLD,
    PLAIN,
    V1,
    V2,
    Below,
    as_is,
    config_of,
    make_v2,
    push_v1,
    push_v2,
    read,
    unpack,
    unpack_any,
)
from tests.registry.bridge.test_conversion import GOLDEN, IMAGE_IDS
from tests.support import v1_trees
from tests.support.layers import member, tar
from tests.support.registries import Registry
from tests.support.v1_images import Image, chain, make, pulled, store_raw


@pytest.fixture
def old_tree(tmp_path):
    return Registry(FileDriver(storage_path=v1_trees.copy("registry-0.7.1", tmp_path / "store")))


#: The manifests of the golden images; they must never change.
MANIFESTS = {
    "acme/newer:latest": "sha256:db0bade1a46a76bd898c8b083e1eb3119b1fd6814818451fc67c6df425abef66",
    "acme/web:latest": "sha256:88aa03c5f0052b6a06cea9b6538a815ecccf88e3aac4e1040783e9bba4c929e2",
    "acme/web:v1": "sha256:2f5760dc85b2fea36506dba5b9b6a81f05c3574125c32d1366ea4b61c2e8fd64",
    "base:latest": "sha256:6100748a809f9a29b566d5242550d80f5e1f82016b5dbfe40ebc11af4f57a4ee",
}


class OnlyAliceMayPull(OpenPolicy):
    """Hides the repository ``acme/web`` from everyone but alice."""

    def allows(self, principal, action, name, tag=None):
        return principal.name == "alice" or str(name) != str(NEW)

    def may_pull_all(self, principal):
        return principal.name == "alice"

    def hidden_repositories(self, principal):
        return () if principal.name == "alice" else (NEW,)


class TestAManifestOfAnotherRepository:
    def test_is_served_to_clients_that_may_pull_from_there(self, registry):
        original = push_v2(registry, gzip.compress(tar(member("f", b"1"))))
        image_id = registry.image_tags.get(OLD, V2)
        registry.driver.put_content("repositories/acme/shared/tag_v1", str(image_id).encode())
        registry.access.policy = OnlyAliceMayPull()
        shared = RepositoryName("acme/shared")
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(shared, V1)
        alice = Principal("alice")
        assert original == registry.manifests.get(shared, V1, principal=alice).descriptor.digest
        assert original == registry.tags.get(shared, V1, principal=alice)

    def test_is_not_needed_for_an_image_that_was_pushed_with_the_same_layer(self, registry):
        content = gzip.compress(tar(member("f", b"1")))
        push_v2(registry, content)
        image_id = registry.image_tags.get(OLD, V2)
        store_raw(registry.driver, Image(str(image_id), registry.images.check(image_id), content, (str(image_id),)))
        registry.driver.put_content("repositories/acme/shared/tag_v1", str(image_id).encode())
        registry.access.policy = OnlyAliceMayPull()
        for principal in (Principal("alice"), ANONYMOUS):
            manifest = registry.manifests.get(RepositoryName("acme/shared"), V1, principal=principal)
            assert [str(Digest.of(content))] == [each["digest"] for each in json.loads(manifest.payload)["layers"]]

    def test_is_the_base_of_an_image_for_clients_that_may_pull_from_there(self, registry):
        base = gzip.compress(tar(member("f", b"1")))
        push_v2(registry, base)
        image, shared = make(5, parent=Below(registry, registry.image_tags.get(OLD, V2))), RepositoryName("acme/shared")
        push_v1(registry, [image], name=ImageRepositoryName.parse("acme/shared"))
        registry.access.policy = OnlyAliceMayPull()
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(shared, V1)
        manifest = registry.manifests.get(shared, V1, principal=Principal("alice"))
        layers = [str(Digest.of(layer)) for layer in (base, image.layer)]
        assert layers == [each["digest"] for each in json.loads(manifest.payload)["layers"]]


class TestATreeOfAnOldServer:
    @pytest.mark.parametrize("reference", IMAGE_IDS)
    def test_has_the_images_that_docker_saw_in_it(self, old_tree, reference):
        name, _, tag = reference.partition(":")
        name = RepositoryName.parse(name)
        manifest = old_tree.manifests.get(name, Tag(tag))
        document = json.loads(manifest.payload)
        assert DOCKER == manifest.descriptor.media_type
        assert f"sha256:{IMAGE_IDS[reference]}" == document["config"]["digest"]
        config = config_of(old_tree, name, Tag(tag))
        assert (GOLDEN / f"config-{IMAGE_IDS[reference]}.json").read_bytes() == config
        stored = [read(old_tree, name, each["digest"]) for each in document["layers"]]
        assert json.loads(config)["rootfs"]["diff_ids"] == [str(Digest.of(unpack(content))) for content in stored]
        assert MANIFESTS[reference] == str(manifest.descriptor.digest)

    def test_lists_its_repositories_by_the_names_of_v2(self, old_tree):
        expected = ["acme/broken", "acme/newer", "acme/web", "base", "deep/er/name", "modern/gold-dev"]
        assert expected == list(old_tree.repositories.page(100).names)

    def test_has_no_layer_stored_twice(self, old_tree, tmp_path):
        old_tree.manifests.get(RepositoryName("acme/web"), Tag("latest"))
        images = {path.stat().st_ino for path in (tmp_path / "store/images").glob("*/layer")}
        blobs = (tmp_path / "store/docker/registry/v2/blobs").glob("*/*/*/data")
        small = [path for path in blobs if path.stat().st_ino not in images]
        assert 2 == len(small)  # the configuration and the manifest


class TestAnImagePushedByV1:
    def test_has_one_manifest_on_every_driver(self, registry, tmp_path):
        images = chain(3)
        others = Registry(FileDriver(storage_path=tmp_path))
        for each in (registry, others):
            push_v1(each, images)
        assert registry.manifests.get(NEW, V1) == others.manifests.get(NEW, V1)

    def test_is_an_ordinary_manifest_after_the_first_request(self, registry):
        push_v1(registry, chain(2))
        manifest = registry.manifests.get(NEW, V1)
        digest = manifest.descriptor.digest
        assert manifest.payload == registry.manifests.get(NEW, digest).payload
        subject = {"mediaType": DOCKER, "digest": str(digest), "size": len(manifest.payload)}
        about = json.loads(make_v2(registry))
        registry.manifest_pushes.put(NEW, V2, json.dumps({**about, "subject": subject}).encode(), None)
        assert 1 == len(registry.referrers.list(NEW, digest))

    def test_never_gets_a_tag_of_v2(self, registry, driver):
        push_v1(registry, chain(2))
        registry.manifests.get(NEW, V1)
        assert not driver.exists("docker/registry/v2/repositories/acme/web/_manifests/tags")

    def test_is_generated_once(self, registry, driver, monkeypatch):
        push_v1(registry, chain(2))
        first = registry.manifests.get(NEW, V1)
        monkeypatch.setattr(driver, "put_content", None)
        monkeypatch.setattr(driver, "stream_read", None)
        assert first == registry.manifests.get(NEW, V1)

    @pytest.mark.parametrize("pack", [gzip.compress, as_is], ids=["gzip", "tar"])
    def test_has_the_pushed_layers(self, registry, pack):
        images = [make(1, compress=pack), make(2, make(1), compress=pack)]
        push_v1(registry, images)
        layers = json.loads(registry.manifests.get(NEW, V1).payload)["layers"]
        assert [GZIP if pack is gzip.compress else PLAIN] * 2 == [each["mediaType"] for each in layers]
        assert [image.layer for image in images] == [read(registry, NEW, each["digest"]) for each in layers]

    @pytest.mark.parametrize(
        "pack", [bz2.compress, lzma.compress, zstd.compress, lambda content: lzma.compress(content, lzma.FORMAT_ALONE)]
    )
    def test_has_an_uncompressed_layer_if_v2_clients_cannot_read_it(self, registry, pack):
        image = make(1, compress=pack)
        push_v1(registry, [image])
        (stored,) = json.loads(registry.manifests.get(NEW, V1).payload)["layers"]
        assert (PLAIN, len(unpack_any(image))) == (stored["mediaType"], stored["size"])
        assert unpack_any(image) == read(registry, NEW, stored["digest"])
        assert image.layer == pulled(registry, image)

    def test_keeps_the_layers_of_a_parent_of_v2_whose_copies_for_v1_are_removed(self, registry, driver):
        plain = tar(member("etc/parent", content=b"parent" * 500))
        push_v2(registry, zstd.compress(plain), media_types=["application/vnd.oci.image.layer.v1.tar+zstd"])
        image = make(5, parent=Below(registry, registry.image_tags.get(OLD, V2)))
        push_v1(registry, [image])
        layers = json.loads(registry.manifests.get(NEW, V1).payload)["layers"]
        driver.discard(layout.UNPACKED)
        assert [plain, image.layer] == [read(registry, NEW, each["digest"]) for each in layers]

    def test_may_have_a_layer_of_several_gzip_members(self, registry):
        whole = tar(member("etc/a", content=b"a" * 3000))
        image = make(1, layer=gzip.compress(whole[:700]) + gzip.compress(whole[700:]) + bytes(512))
        push_v1(registry, [image])
        assert [str(Digest.of(whole))] == json.loads(config_of(registry, NEW, V1))["rootfs"]["diff_ids"]

    @pytest.mark.parametrize(
        ("layer", "more", "sentence"),
        [
            (b"no tar at all", {}, "Layer format not supported"),
            (gzip.compress(bytes(1024), mtime=0) + b"garbage", {}, "Layer format not supported"),
            (None, {"author": 7}, "The image's JSON is invalid"),
        ],
    )
    def test_that_cannot_be_converted_is_missing_in_v2(self, registry, layer, more, sentence):
        push_v1(registry, [make(1, layer=layer, **more)])
        with pytest.raises(ManifestUnknown, match=sentence):
            registry.manifests.get(NEW, V1)
        assert [V1] == list(registry.tags.list(NEW))

    def test_is_missing_in_v2_if_the_json_of_its_ancestors_is_too_long(self, registry):
        images = [make(1, comment="x" * 4_190_000)]
        for number in (2, 3):
            images.append(make(number, images[-1], comment="x" * 4_190_000))
        for length, error in ((2, nullcontext()), (3, pytest.raises(ManifestUnknown, match="too long"))):
            push_v1(registry, images[:length])
            with error:
                assert registry.manifests.get(NEW, V1)

    def test_is_missing_in_v2_during_its_push(self, registry):
        image = make(1)
        registry.image_pushes.put_json(image.id, image.payload)
        registry.image_tag_pushes.put(OLD, V1, image.id, {})
        with pytest.raises(ManifestUnknown, match="is being uploaded"):
            registry.manifests.get(NEW, V1)
        registry.image_pushes.put_layer(image.id, Content(image.layer))
        registry.image_pushes.put_checksum(image.id, image.checksum)
        assert DOCKER == registry.manifests.get(NEW, V1).descriptor.media_type

    def test_is_not_awaited_for_a_client_that_has_left(self, registry, driver):
        image = make(1)
        push_v1(registry, [image])
        Leases(driver).take(f"manifest-of-{image.text}", 5)  # as a process that derives its manifest does
        with watching_client(lambda: True), pytest.raises(ClientLeft):
            registry.manifests.get(NEW, V1)

    def test_can_be_granted_to_another_repository(self, registry):
        images = chain(2)
        push_v1(registry, images)
        push_v1(registry, images, name=ImageRepositoryName.parse("acme/other"))
        other = RepositoryName("acme/other")
        manifest = registry.manifests.get(NEW, V1)
        assert manifest == registry.manifests.get(other, V1)
        for each in json.loads(manifest.payload)["layers"]:
            assert read(registry, other, each["digest"])


class TestALegacyLayerOfAStoreWithoutLinks:
    def test_is_read_in_place(self, registry, driver):
        v1_trees.put("registry-0.7.1", driver)
        before = sum(stat.size for stat in driver.walk())
        layers = json.loads(registry.manifests.get(RepositoryName("acme/web"), Tag("latest")).payload)["layers"]
        for each in layers:
            assert each["digest"] == str(Digest.of(read(registry, NEW, each["digest"])))
        assert sum(stat.size for stat in driver.walk()) < before + 20_000
        assert not driver.exists(
            f"docker/registry/v2/blobs/sha256/{layers[0]['digest'][7:9]}/{layers[0]['digest'][7:]}/data"
        )

    @pytest.mark.parametrize(
        "alias", [b"5 images/x/\xff", b"5 images//layer", b"5 images/../secret", b"5 secret", b"5"]
    )
    def test_is_an_unknown_blob_if_its_alias_is_damaged(self, registry, driver, alias):
        digest = Digest.of(b"12345")
        driver.put_content("secret", b"12345")
        driver.put_content(layout.layer_link(NEW, digest), str(digest).encode())
        driver.put_content(layout.blob_alias(digest), alias)
        with pytest.raises(BlobUnknown):
            registry.blobs.stat(NEW, digest)

    def test_may_be_an_uncompressed_copy_in_the_store_of_an_earlier_version(self, registry, driver):
        digest, path = Digest.of(b"12345"), f"{layout.UNPACKED}/sha256/{Digest.of(b'12345').hex}"
        driver.put_content(path, b"12345")
        driver.put_content(layout.blob_alias(digest), f"5 {path}".encode())
        assert 5 == registry.blobs.stat_anywhere(digest).size

    def test_that_was_removed_is_an_unknown_blob(self, registry, driver):
        driver.put_content("images/x/layer", b"12345")
        registry.blobs.publish_in_place(Digest.of(b"12345"), 5, "images/x/layer")
        assert 5 == registry.blobs.stat_anywhere(Digest.of(b"12345")).size
        driver.put_content("images/x/layer", b"1")
        with pytest.raises(BlobUnknown):
            registry.blobs.stat_anywhere(Digest.of(b"12345"))
        driver.remove("images/x/layer")
        with pytest.raises(BlobUnknown):
            registry.blobs.stat_anywhere(Digest.of(b"12345"))
