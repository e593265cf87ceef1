"""Images of API V1 that follow from manifests of V2."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from dataclasses import replace

import pytest

from docker_registry import services
from docker_registry.config.schema import Config
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import ConfigError, ImageExists, ImageTagUnknown, ImageUnknown, ManifestUnknown
from docker_registry.registry import layout
from docker_registry.registry.actor import GARBAGE_COLLECTION
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import (
    DOCKER,
    NEW,
    OLD,
    V1,
    V2,
    Below,
    as_is,
    claim,
    config_of,
    content_of,
    descriptor,
    layer,
    make_v2,
    push_v1,
    push_v2,
    put_blob,
    read,
    unpack,
    v1_image,
)
from tests.registry.bridge.test_conversion import GOLDEN, PUSHED
from tests.support import v1_trees
from tests.support.registries import Registry
from tests.support.v1_images import Image, loads, make


class TestAnImagePushedByV2:
    def test_has_the_ids_and_json_that_docker_gave_it(self, registry, tmp_path):
        index = json.loads((GOLDEN / "oci-image/index.json").read_text())
        blobs = GOLDEN / "oci-image/blobs/sha256"
        payload = (blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes()
        for path in blobs.iterdir():
            put_blob(registry, path.read_bytes())
        registry.manifest_pushes.put(NEW, V2, payload, None)
        name, _, tag = PUSHED.partition(":")
        golden = Registry(FileDriver(storage_path=v1_trees.copy("registry-0.7.1", tmp_path / "golden")))
        top = golden.image_tags.get(ImageRepositoryName.parse(name), Tag(tag))
        assert top == v1_image(registry, OLD, V2)
        assert golden.images.ancestry(top) == registry.images.ancestry(top)
        for text in golden.images.ancestry(top):
            assert golden.images.check(ImageId(text)) == registry.images.get(ImageId(text)).payload

    @pytest.mark.parametrize("pack", [gzip.compress, as_is, bz2.compress, lzma.compress])
    def test_has_its_layers_unchanged(self, registry, pack):
        layers = [layer(1, pack), layer(2, pack)]
        push_v2(registry, *layers)
        ids = registry.images.ancestry(v1_image(registry, OLD, V2))
        assert layers == [content_of(registry, text) for text in reversed(ids)]
        for text, content in zip(reversed(ids), layers, strict=True):
            image = registry.images.get(ImageId(text))
            payload_sum = hashlib.sha256(image.payload + b"\n" + content).hexdigest()
            assert (len(content), (f"sha256:{payload_sum}",)) == (image.size, image.checksums)

    def test_has_an_uncompressed_layer_if_v1_clients_cannot_read_it(self, registry):
        push_v2(registry, layer(1, zstd.compress), media_types=["application/vnd.oci.image.layer.v1.tar+zstd"])
        top = v1_image(registry, OLD, V2)
        link, file = registry.images.find_layer(top)
        plain = layer(1, as_is)
        assert (plain, len(plain), Digest.of(plain)) == (b"".join(file.read()), file.size, link.digest)
        assert plain[700:1700] == b"".join(file.read(700, 1000))
        assert (len(plain) - 1, plain[-1:]) == (len(plain) - 1, b"".join(file.read(len(plain) - 1)))
        assert f"docker/registry/v2/_v1/unpacked/sha256/{link.digest.hex}" == file.path
        payload = registry.images.get(top).payload
        payload_sum = hashlib.sha256(b"\n".join((payload, plain))).hexdigest()
        assert (f"sha256:{payload_sum}",) == registry.images.get(top).checksums

    def test_has_files_and_a_diff(self, registry):
        push_v2(registry, layer(1), layer(2))
        top = v1_image(registry, OLD, V2)
        assert ["etc/conf-2"] == [entry[0] for entry in loads(registry.image_files.files(top))]
        assert {"etc/conf-2"} == loads(registry.image_files.diff(top))["created"].keys()

    def test_without_layers_has_an_empty_layer(self, registry):
        push_v2(registry)
        top = v1_image(registry, OLD, V2)
        assert (str(top),) == registry.images.ancestry(top)
        assert bytes(1024) == content_of(registry, str(top))

    def test_is_in_the_lists(self, registry):
        push_v2(registry, layer(1))
        top = str(v1_image(registry, OLD, V2))
        assert {"v2": top} == registry.image_tags.list(OLD)
        assert [{"id": top}] == json.loads(registry.image_tags.list_images(OLD))

    def test_cannot_be_pushed_by_v1(self, registry):
        push_v2(registry, layer(1))
        top = v1_image(registry, OLD, V2)
        with pytest.raises(ImageExists):
            registry.image_pushes.put_json(top, json.dumps({"id": str(top)}).encode())

    def test_is_unchanged_if_another_image_was_pushed_under_its_id(self, registry):
        payload = make_v2(registry, layer(1), layer(2))
        config = Digest.parse(json.loads(payload)["config"]["digest"])
        claimed = claim(config.hex)
        push_v1(registry, [claimed], name=ImageRepositoryName.parse("evil/web"))
        registry.manifest_pushes.put(NEW, V2, payload, None)
        top = v1_image(registry, OLD, V2)
        assert config.hex == str(top)
        assert layer(2) == content_of(registry, str(top))
        assert 2 == len(registry.images.ancestry(top))

    def test_is_hidden_if_a_layer_contradicts_its_configuration(self, registry):
        lying = [str(Digest.of(unpack(layer(7))))]
        push_v2(registry, layer(1), rootfs={"type": "layers", "diff_ids": lying})
        top = v1_image(registry, OLD, V2)
        with pytest.raises(ImageUnknown):
            registry.images.get(top)
        with pytest.raises(ImageUnknown):
            registry.images.find_layer(top)

    def test_that_is_hidden_has_its_layer_read_once_within_the_same_limits(self, registry, driver, monkeypatch):
        push_v2(registry, layer(1), rootfs={"type": "layers", "diff_ids": [str(Digest.of(unpack(layer(7))))]})
        top = v1_image(registry, OLD, V2)
        again = Registry(driver)
        with pytest.raises(ImageUnknown):
            registry.images.get(top)
        with monkeypatch.context() as patch:
            patch.setattr(driver, "stream_read", None)
            with pytest.raises(ImageUnknown):
                again.images.get(top)
        reads = []
        monkeypatch.setattr(driver, "stream_read", lambda path: reads.append(path) or iter([b"x"]))
        with pytest.raises(ImageUnknown):
            Registry(driver, layer_limits=LayerLimits(max_ratio=5)).images.get(top)
        assert 1 == len(reads)

    def test_has_each_of_its_layers_read_once_for_clients_of_different_repositories(self, driver, monkeypatch):
        registry, other = Registry(driver), RepositoryName.parse("acme/other")
        plain = layer(1, as_is)
        layers = {name: gzip.compress(plain, level) for name, level in ((NEW, 1), (other, 9))}
        for name, content in layers.items():
            push_v2(registry, content, name=name)
        (top,) = {v1_image(registry, name, V2) for name in (OLD, ImageRepositoryName.parse("acme/other"))}
        read_paths, stream_read = [], driver.stream_read
        monkeypatch.setattr(
            driver, "stream_read", lambda path, *part: read_paths.append(path) or stream_read(path, *part)
        )
        for name in (NEW, other, NEW, other, NEW):
            image = registry.images._derived.find(top, lambda found, name=name: found == name)
            assert Digest.of(layers[name]) == image.blob
        assert 2 == len(read_paths)

    def test_in_many_repositories_is_found_in_a_permitted_one_without_reading_all(self, driver, monkeypatch):
        registry, names = Registry(driver), [RepositoryName(f"acme/app-{number}") for number in range(20)]
        for name in names:
            push_v2(registry, layer(1), layer(2), name=name, author=str(name))
            ids = registry.images.ancestry(v1_image(registry, ImageRepositoryName.parse(str(name)), V2))
        again, reads, get_content = Registry(driver).images._derived, [], driver.get_content
        monkeypatch.setattr(driver, "get_content", lambda path: reads.append(path) or get_content(path))
        assert again.is_permitted(ImageId(ids[-1]), lambda _: True)
        assert not again.is_permitted(ImageId(ids[-1]), lambda _: False)
        first = len(reads)
        assert len(names) + 3 > first
        assert not again.is_permitted(ImageId(ids[-1]), lambda _: False)
        assert again.is_permitted(ImageId(ids[-1]), lambda name: name == names[7])
        assert first + 3 > len(reads), "of each repository once, and of one image"

    def test_takes_no_layer_from_an_image_with_a_false_configuration(self, registry):
        evil = RepositoryName("evil/web")
        diff_ids = [str(Digest.of(unpack(layer(number)))) for number in (1, 2)]
        push_v2(registry, layer(8), layer(9), name=evil, rootfs={"type": "layers", "diff_ids": diff_ids}, author="e")
        registry.images.ancestry(v1_image(registry, ImageRepositoryName.parse("evil/web"), V2))
        push_v2(registry, layer(1), layer(2))
        ids = registry.images.ancestry(v1_image(registry, OLD, V2))
        assert [layer(2), layer(1)] == [content_of(registry, text) for text in ids]

    def test_may_be_the_parent_of_one_pushed_by_v1(self, registry):
        push_v2(registry, layer(1), layer(2))
        parent = v1_image(registry, OLD, V2)
        image = make(5, parent=Below(registry, parent))
        push_v1(registry, [image])
        assert (image.text, *registry.images.ancestry(parent)) == registry.images.ancestry(image.id)
        layers = json.loads(registry.manifests.get(NEW, V1).payload)["layers"]
        assert [layer(1), layer(2), image.layer] == [read(registry, NEW, each["digest"]) for each in layers]

    def test_is_found_again_after_its_caches_are_deleted(self, registry, driver):
        push_v2(registry, layer(1), layer(2))
        before = registry.image_tags.list(OLD)
        registry.images.get(v1_image(registry, OLD, V2))
        driver.remove("docker/registry/v2/_v1")
        again = Registry(driver)
        assert before == again.image_tags.list(OLD)
        top = v1_image(again, OLD, V2)
        assert [layer(2), layer(1)] == [content_of(again, text) for text in again.images.ancestry(top)]


class TestAnImageWhoseContentWasEvicted:
    """Content of a mirrored repository may be evicted while another repository has the image."""

    MIRRORED, AS_MIRRORED = RepositoryName("hub/app"), ImageRepositoryName.parse("hub/app")

    def evict(self, registry):
        for digest, _ in list(registry.references.links_of(self.MIRRORED)):
            registry.removal.forget(self.MIRRORED, digest, actor=GARBAGE_COLLECTION)
            if digest not in registry.references.among([digest]):
                registry.driver.remove(layout.blob_data(digest))

    def test_is_served_from_a_repository_that_has_it_in_another_compression(self, registry):
        plain = layer(1, as_is)
        push_v2(registry, gzip.compress(plain, 1), name=self.MIRRORED)
        top = v1_image(registry, self.AS_MIRRORED, V2)
        content_of(registry, str(top))
        push_v2(registry, gzip.compress(plain, 9))
        assert top == v1_image(registry, OLD, V2)
        self.evict(registry)
        assert gzip.compress(plain, 9) == content_of(registry, str(top))

    def test_has_its_empty_layer_again(self, registry):
        push_v2(registry)
        top = v1_image(registry, OLD, V2)
        content_of(registry, str(top))
        push_v2(registry, bytes(1024), name=self.MIRRORED)
        self.evict(registry)
        assert bytes(1024) == content_of(registry, str(top))

    def test_is_not_kept_from_being_removed_by_requests_for_it(self, registry):
        push_v2(registry, layer(1), layer(2), layer(1), name=self.MIRRORED)
        top = v1_image(registry, self.AS_MIRRORED, V2)
        content_of(registry, str(top))
        registry.driver.put_content("repositories/acme/web/tag_v1", str(top).encode())
        other, waiting = Digest.of(layer(2)), Digest.of(layer(1))
        registry.blobs.removed.move_away(waiting)
        assert layer(1) == content_of(registry, str(top)), "a push has written its link while references were counted"
        for each in (other, waiting):
            registry.removal.forget(self.MIRRORED, each, actor=GARBAGE_COLLECTION)
        registry.blobs.removed.move_away(waiting)
        registry.driver.remove(layout.blob_data(other))
        with pytest.raises(ImageUnknown):
            registry.images.find_layer(top)
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(NEW, V1)
        assert registry.driver.exists(layout.removed_data(waiting))
        registry.driver.put_content(layout.blob_data(other), layer(2))
        assert registry.manifests.get(NEW, V1), "all of it is here or waiting"
        assert layer(1) == content_of(registry, str(top))

    @pytest.mark.parametrize("is_whole", [True, False])
    def test_can_be_pushed_by_v1(self, registry, is_whole):
        push_v2(registry, layer(1), layer(2), name=self.MIRRORED)
        top = v1_image(registry, self.AS_MIRRORED, V2)
        ancestry = registry.images.ancestry(top)
        images = [
            Image(text, registry.images.get(ImageId(text)).payload, content_of(registry, text), ancestry[position:])
            for position, text in reversed(list(enumerate(ancestry)))
        ]
        if is_whole:
            self.evict(registry)
        else:
            registry.driver.remove(layout.blob_data(Digest.of(layer(1))))
        push_v1(registry, images)
        assert [image.layer for image in images] == [content_of(registry, image.text) for image in images]
        layers = json.loads(registry.manifests.get(NEW, V1).payload)["layers"]
        assert [image.layer for image in images] == [read(registry, NEW, each["digest"]) for each in layers]


class TestALegacyLayerOfAStoreWithoutLinks:
    def test_is_a_layer_of_an_image_of_v2(self, registry, driver):
        v1_trees.put("registry-0.7.1", driver)
        document = json.loads(registry.manifests.get(NEW, Tag("latest")).payload)
        config = json.dumps({**json.loads(config_of(registry, NEW, Tag("latest"))), "author": "me"}).encode()
        put_blob(registry, config)
        document["config"] = descriptor(document["config"]["mediaType"], config)
        registry.manifest_pushes.put(NEW, V2, json.dumps(document).encode(), None)
        ancestry = registry.images.ancestry(v1_image(registry, OLD, V2))
        expected = [each["digest"] for each in reversed(document["layers"])]
        assert expected == [str(Digest.of(content_of(registry, text))) for text in ancestry]


class TestAManifestWithoutAV1Image:
    def tag(self, registry, payload):
        registry.manifest_pushes.put(NEW, V2, payload, None)

    @pytest.mark.parametrize(
        ("media_type", "sentence"),
        [
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "must not be distributed"),
            ("application/vnd.example.thing", "a media type that API V1 does not support"),
        ],
    )
    def test_is_omitted_because_of_a_layer(self, registry, media_type, sentence):
        push_v2(registry, layer(1), media_types=[media_type])
        self.is_left_out(registry, sentence)

    @pytest.mark.parametrize("media_type", ["application/octet-stream", "application/json", "text/html", "", None])
    def test_has_the_configuration_type_of_docker_1_10(self, registry, media_type):
        """An artifact of OCI with such a configuration stays one."""
        document = json.loads(make_v2(registry, layer(1)))
        document["config"]["mediaType"] = media_type
        if media_type is None:
            del document["config"]["mediaType"]
        self.tag(registry, json.dumps(document).encode())
        self.is_left_out(registry, "an artifact")
        self.tag(registry, json.dumps(document | {"mediaType": DOCKER}).encode())
        assert registry.image_tags.get(OLD, V2)

    def test_is_omitted_because_it_is_an_artifact(self, registry):
        document = json.loads(make_v2(registry, layer(1)))
        document["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
        self.tag(registry, json.dumps(document).encode())
        self.is_left_out(registry, "an artifact")

    def test_is_omitted_because_of_an_invalid_configuration(self, registry):
        push_v2(registry, layer(1), rootfs=7)
        self.is_left_out(registry, "configuration cannot be read")

    def is_left_out(self, registry, sentence):
        with pytest.raises(ImageTagUnknown, match=sentence):
            v1_image(registry, OLD, V2)
        assert {} == registry.image_tags.list(OLD)
        assert [V2] == list(registry.tags.list(NEW))


class TestAnIndex:
    def put(self, registry, *children, tag=V2):
        manifests = []
        for number, (platform, notes) in enumerate(children, 1):
            payload = make_v2(registry, layer(number))
            digest = registry.manifest_pushes.put(NEW, Digest.of(payload), payload, None).descriptor.digest
            kind = "application/vnd.oci.image.manifest.v1+json"
            child = {"mediaType": kind, "digest": str(digest), "size": len(payload), "annotations": notes}
            manifests.append({**child, **({"platform": platform} if platform else {})})
        media_type = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
        return registry.manifest_pushes.put(NEW, tag, json.dumps(index).encode(), None).descriptor.digest

    ARM, AMD, NONE = (
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
        {"os": "linux", "architecture": "amd64"},
        {"os": "unknown", "architecture": "unknown"},
    )

    def test_is_the_image_that_v1_clients_can_run(self, registry):
        about = {"vnd.docker.reference.type": "attestation-manifest"}
        self.put(registry, (self.ARM, {}), (self.AMD, about), (self.AMD, {}), (self.NONE, about))
        assert layer(3) == content_of(registry, str(v1_image(registry, OLD, V2)))

    def test_is_for_another_platform_if_configured(self, driver):
        registry = Registry(driver, v1_platform="linux/arm64/v8")
        self.put(registry, (self.AMD, {}), (self.ARM, {}))
        assert layer(2) == content_of(registry, str(v1_image(registry, OLD, V2)))
        usual = Registry(driver)
        assert layer(1) == content_of(usual, str(v1_image(usual, OLD, V2)))

    def test_of_arm64_needs_no_variant(self, driver):
        config = Config(storage="memory", search_backend=None, v1_platform="linux/arm64/v8")
        with services.build(config, driver) as built:
            self.put(built.registry, (self.AMD, {}), ({"os": "linux", "architecture": "arm64"}, {}))
            legacy = built.require_legacy()
            assert layer(2) == content_of(legacy, str(v1_image(legacy, OLD, V2)))
        with pytest.raises(ConfigError, match="v1_platform: a platform is not"):
            services.build(replace(config, v1_platform="amd64"), driver)

    def test_of_one_image_requires_no_platform(self, registry):
        self.put(registry, (None, {}))
        assert layer(1) == content_of(registry, str(v1_image(registry, OLD, V2)))

    def test_without_such_an_image_is_omitted(self, registry):
        self.put(registry, (self.ARM, {}))
        with pytest.raises(ImageTagUnknown, match=r"The index has no image for linux/amd64\."):
            v1_image(registry, OLD, V2)
        assert {} == registry.image_tags.list(OLD)
