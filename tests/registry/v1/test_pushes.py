"""Pushes of images: what is accepted, in which order, and the errors."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.errors import (
    ChecksumMismatch,
    ChecksumMissing,
    ChecksumUnexpected,
    ImageExists,
    ImageInvalid,
    ImageUnknown,
    ParentUnknown,
    SizeInvalid,
    Unsupported,
)
from docker_registry.registry import events
from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.tarsum import tarsum
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.v1.pending_pushes import MAX_PENDING
from docker_registry.registry.v1.pushes import Checksum
from tests.registry.conftest import NAME
from tests.registry.test_uploads import CutOff
from tests.support.layers import tar
from tests.support.registries import Registry
from tests.support.v1_images import chain, make, pulled, push

IMAGE = make(1)


@pytest.fixture
def pushes(registry):
    return registry.image_pushes


def refusal(error, function, *args):
    with pytest.raises(error) as caught:
        function(*args)
    return caught.value.sentence


class TestTheJson:
    @pytest.mark.parametrize(
        "payload",
        [b"", b"{", b"[]", b"{}", b'"x"', b"7", b"null", b"\xff", b"[" * 10_000, b"1" * 5000, "{}".encode("utf-16")],
    )
    def test_must_be_an_object(self, pushes, payload):
        assert "Invalid JSON" == refusal(ImageInvalid, pushes.put_json, IMAGE.id, payload)

    def test_must_have_an_id(self, pushes):
        assert "Missing key `id' in JSON" == refusal(ImageInvalid, pushes.put_json, IMAGE.id, b'{"parent": "x"}')

    @pytest.mark.parametrize("text", ["0" * 64, "", None, 7, ["x"]])
    def test_must_have_the_id_of_the_url(self, pushes, text):
        payload = json.dumps({"id": text}).encode()
        assert "JSON data contains invalid id" == refusal(ImageInvalid, pushes.put_json, IMAGE.id, payload)

    def test_must_not_be_nested_too_deeply(self, pushes):
        payload = b'{"id": "%s", "x": [%b[]]}' % (str(IMAGE.id).encode(), b"[]," * 50_000)
        assert "JSON data has too many values" == refusal(ImageInvalid, pushes.put_json, IMAGE.id, payload)

    @pytest.mark.parametrize("parent", ["0" * 64, "../../etc/passwd", 7, ["x"], IMAGE.text])
    def test_must_have_a_stored_parent(self, pushes, parent):
        payload = json.dumps({"id": IMAGE.text, "parent": parent}).encode()
        sentence = refusal(ParentUnknown, pushes.put_json, IMAGE.id, payload)
        assert "Image depends on a non existing parent" == sentence

    def test_may_have_a_parent_that_is_being_pushed(self, pushes, registry):
        base, top = chain(2)
        for image in (base, top):
            pushes.put_json(image.id, image.payload)
        assert top.ancestry == registry.images.ancestry(top.id)

    def test_must_not_create_a_cycle(self, pushes):
        base, top = chain(2)
        for image in (base, top):
            pushes.put_json(image.id, image.payload)
        payload = json.dumps({"id": base.text, "parent": top.text}).encode()
        assert refusal(ParentUnknown, pushes.put_json, base.id, payload)

    @pytest.mark.parametrize("parent", ["", None])
    def test_may_have_an_empty_parent(self, pushes, parent):
        pushes.put_json(IMAGE.id, json.dumps({"id": IMAGE.text, "parent": parent}).encode())

    def test_is_rejected_if_the_image_exists(self, pushes, registry):
        push(registry, IMAGE)
        assert "Image already exists" == refusal(ImageExists, pushes.put_json, IMAGE.id, IMAGE.payload)

    def test_may_be_sent_again_during_the_push(self, pushes, registry):
        for _ in range(3):
            pushes.put_json(IMAGE.id, IMAGE.payload)
        push(registry, IMAGE)
        assert IMAGE.layer == pulled(registry, IMAGE)

    def test_is_passed_to_listeners_that_may_reject_it(self, pushes, driver, registry):
        def refuse(sender, image_id, image_json):
            assert (driver, IMAGE.text, IMAGE.text) == (sender, image_id, image_json["id"])
            raise Unsupported("Not today.")

        with events.before_put_image_json.connected_to(refuse):
            assert "Not today." == refusal(Unsupported, pushes.put_json, IMAGE.id, IMAGE.payload)
        with pytest.raises(ImageUnknown):
            registry.images.get(IMAGE.id)


class TestTheLayer:
    def test_requires_its_json_first(self, pushes):
        assert "Image not found" == refusal(ImageUnknown, pushes.put_layer, IMAGE.id, Content(IMAGE.layer))

    def test_is_rejected_if_the_image_exists(self, pushes, registry):
        push(registry, IMAGE)
        assert "Image already exists" == refusal(ImageExists, pushes.put_layer, IMAGE.id, Content(IMAGE.layer))

    def test_may_be_anything(self, registry):
        for number, layer in enumerate([b"", b"no tar", gzip.compress(b"no tar"), tar(), bytes(100_000)], 10):
            image = make(number, layer=layer)
            push(registry, image)
            assert layer == pulled(registry, image)

    def test_arrives_without_the_documents_that_it_may_belong_to_in_memory(self, pushes):
        for number in range(MAX_PENDING):
            pushes.put_json(IMAGE.id, json.dumps({"id": IMAGE.text, "comment": f"{number}" * 500_000}).encode())
        held = []

        class Measured(Content):
            def readinto(self, buffer):
                held.append(tracemalloc.get_traced_memory()[0])
                return super().readinto(buffer)

        tracemalloc.start()
        try:
            pushes.put_layer(IMAGE.id, Measured(IMAGE.layer))
        finally:
            tracemalloc.stop()
        assert max(held) < 500_000

    def test_leaves_nothing_if_truncated(self, pushes, driver):
        pushes.put_json(IMAGE.id, IMAGE.payload)
        before = {stat.path for stat in driver.walk()}
        assert refusal(SizeInvalid, pushes.put_layer, IMAGE.id, CutOff(IMAGE.layer[:-1], len(IMAGE.layer)))
        assert before == {stat.path for stat in driver.walk()}
        assert refusal(ChecksumMismatch, pushes.put_checksum, IMAGE.id, IMAGE.checksum)

    def test_is_stored_once_for_both_protocols(self, tmp_path):
        for order in (1, -1):
            driver = FileDriver(str(tmp_path / str(order)))
            registry = Registry(driver)
            steps = [
                lambda registry=registry: push(registry, IMAGE),
                lambda registry=registry: registry.uploads.put(NAME, Digest.of(IMAGE.layer), Content(IMAGE.layer)),
            ]
            for step in steps[::order]:
                step()
            files = [path.stat() for path in (tmp_path / str(order)).rglob("*")]
            assert 1 == len({file.st_ino for file in files if file.st_size == len(IMAGE.layer)})


class TestTheChecksum:
    @pytest.fixture
    def waiting(self, pushes):
        pushes.put_json(IMAGE.id, IMAGE.payload)
        pushes.put_layer(IMAGE.id, Content(IMAGE.layer))
        return pushes

    @pytest.mark.parametrize("checksum", [Checksum(), Checksum("", "")])
    def test_must_not_be_missing(self, waiting, checksum):
        assert "Missing Image's checksum" == refusal(ChecksumMissing, waiting.put_checksum, IMAGE.id, checksum)

    def test_is_required_before_the_image_is_looked_up(self, pushes):
        assert refusal(ChecksumMissing, pushes.put_checksum, IMAGE.id, Checksum())
        assert "Image not found" == refusal(ImageUnknown, pushes.put_checksum, IMAGE.id, IMAGE.checksum)

    def test_of_an_existing_image_is_not_expected(self, pushes, registry):
        push(registry, IMAGE)
        sentence = refusal(ChecksumUnexpected, pushes.put_checksum, IMAGE.id, IMAGE.checksum)
        assert "Cannot set this image checksum" == sentence

    def test_without_a_layer_matches_nothing(self, pushes):
        pushes.put_json(IMAGE.id, IMAGE.payload)
        assert "Checksum mismatch" == refusal(ChecksumMismatch, pushes.put_checksum, IMAGE.id, IMAGE.checksum)

    @pytest.mark.parametrize(
        "checksum",
        [
            Checksum("sha256:" + "0" * 64),
            Checksum(IMAGE.payload_sum.removeprefix("sha256:")),
            Checksum("sha256:" + hashlib.sha256(IMAGE.layer).hexdigest()),
            Checksum(None, "tarsum+sha256:" + "0" * 64),
            Checksum("sha256:" + "0" * 64, IMAGE.payload_sum),
        ],
    )
    def test_must_be_correct(self, waiting, registry, checksum):
        assert "Checksum mismatch" == refusal(ChecksumMismatch, waiting.put_checksum, IMAGE.id, checksum)
        waiting.put_checksum(IMAGE.id, IMAGE.checksum)
        assert IMAGE.layer == pulled(registry, IMAGE)

    @pytest.mark.parametrize(
        "checksum",
        [
            Checksum(IMAGE.payload_sum, "tarsum+sha256:" + "0" * 64),
            Checksum(IMAGE.payload_sum, "nonsense"),
            Checksum(None, IMAGE.payload_sum),
        ],
        ids=["of the payload alone counts", "of the payload alone counts again", "may be in the old header"],
    )
    def test(self, waiting, registry, checksum):
        waiting.put_checksum(IMAGE.id, checksum)
        assert (IMAGE.payload_sum,) == registry.images.get(IMAGE.id).checksums

    def test_may_be_a_tarsum_of_docker_before_0_10(self, waiting, registry):
        text = tarsum(IMAGE.payload, [IMAGE.layer], max_bytes=None)
        waiting.put_checksum(IMAGE.id, Checksum(None, text))
        assert (IMAGE.payload_sum, text) == registry.images.get(IMAGE.id).checksums

    def test_must_not_be_a_tarsum_if_the_layer_is_not_a_tar(self, pushes):
        image = make(1, layer=b"no tar")
        pushes.put_json(image.id, image.payload)
        pushes.put_layer(image.id, Content(image.layer))
        checksum = Checksum(None, tarsum(image.payload, [tar()], max_bytes=None))
        assert refusal(ChecksumMismatch, pushes.put_checksum, image.id, checksum)

    def test_that_is_wrong_reads_the_layer_once(self, waiting, driver, monkeypatch):
        wrong = Checksum(None, "tarsum+sha256:" + "0" * 64)
        assert refusal(ChecksumMismatch, waiting.put_checksum, IMAGE.id, wrong)
        monkeypatch.setattr(waiting._reader, "tarsum", None)
        assert refusal(ChecksumMismatch, waiting.put_checksum, IMAGE.id, wrong)
        waiting.put_checksum(IMAGE.id, Checksum(None, tarsum(IMAGE.payload, [IMAGE.layer], max_bytes=None)))

    def test_selects_one_of_the_received_layers(self, pushes, registry):
        other = make(1, layer=gzip.compress(tar("other")))
        pushes.put_json(IMAGE.id, IMAGE.payload)
        for image in (IMAGE, other):
            pushes.put_layer(IMAGE.id, Content(image.layer))
        pushes.put_checksum(IMAGE.id, IMAGE.checksum)
        assert IMAGE.layer == pulled(registry, IMAGE)

    def test_of_an_overtaken_push_is_accepted_and_changes_nothing(self, pushes, registry, driver):
        other = make(1, layer=gzip.compress(tar("other")))
        pushes.put_json(IMAGE.id, IMAGE.payload)
        for image in (IMAGE, other):
            pushes.put_layer(IMAGE.id, Content(image.layer))
        pushes.put_checksum(IMAGE.id, IMAGE.checksum)
        pushes.put_checksum(IMAGE.id, other.checksum)
        assert IMAGE.layer == pulled(registry, IMAGE)
        assert not driver.exists("docker/registry/v2/_uploads")
        assert not driver.exists(f"images/{IMAGE.text}/_received")

    def test_selects_the_json_that_it_belongs_to(self, pushes, registry):
        other = make(1, comment="as another client writes it")
        for image in (IMAGE, other):
            pushes.put_json(IMAGE.id, image.payload)
        pushes.put_layer(IMAGE.id, Content(IMAGE.layer))
        pushes.put_checksum(IMAGE.id, IMAGE.checksum)
        assert IMAGE.payload == registry.images.get(IMAGE.id).payload

    @pytest.mark.parametrize("is_tarsum", [False, True])
    def test_does_not_match_if_too_many_newer_documents_have_displaced_its_json(self, waiting, registry, is_tarsum):
        checksum = Checksum(None, tarsum(IMAGE.payload, [IMAGE.layer], max_bytes=None)) if is_tarsum else IMAGE.checksum
        assert refusal(ChecksumMismatch, waiting.put_checksum, IMAGE.id, Checksum(None, "tarsum+sha256:" + "0" * 64))
        for number in range(MAX_PENDING):
            waiting.put_json(IMAGE.id, make(1, comment=str(number)).payload)
        assert refusal(ChecksumMismatch, waiting.put_checksum, IMAGE.id, checksum)
        push(registry, IMAGE)
        assert IMAGE.payload == registry.images.get(IMAGE.id).payload


class TestAnIdOf16Digits:
    def test_works_like_one_of_64(self, pushes, registry):
        image_id = ImageId("0123456789abcdef")
        payload = b'{"id": "0123456789abcdef"}'
        pushes.put_json(image_id, payload)
        pushes.put_layer(image_id, Content(b""))
        pushes.put_checksum(image_id, Checksum("sha256:" + hashlib.sha256(payload + b"\n").hexdigest()))
        assert payload == registry.images.get(image_id).payload
