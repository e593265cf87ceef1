from __future__ import annotations

import json

import pytest

from docker_registry.errors import ManifestInvalid
from docker_registry.registry import manifest_payload
from docker_registry.registry.manifest_payload import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.names import Digest

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(Digest.of(b"tar")), "size": 3}
IMAGE = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX = {"schemaVersion": 2, "manifests": [{**CONFIG, "mediaType": OCI_MANIFEST}]}


def dump(document):
    return json.dumps(document).encode()


class TestAPayload:
    @pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
    def test_of_an_image_names_its_config_and_layers(self, media_type):
        payload = manifest_payload.read(dump({**IMAGE, "mediaType": media_type}), media_type)
        assert [Digest.of(b"{}"), Digest.of(b"tar")] == [blob.digest for blob in payload.blobs]
        assert (media_type, True) == (payload.media_type, payload.is_inferable)

    @pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
    def test_of_an_index_names_its_children(self, media_type):
        payload = manifest_payload.read(dump({**INDEX, "mediaType": media_type}), media_type)
        assert ((), [Digest.of(b"{}")]) == (payload.blobs, [item.digest for item in payload.manifests])

    def test_names_its_subject(self):
        payload = manifest_payload.read(dump({**IMAGE, "subject": LAYER}), OCI_MANIFEST)
        assert Digest.of(b"tar") == payload.subject.digest

    def test_needs_no_foreign_layers(self):
        foreign = {**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
        assert 1 == len(manifest_payload.read(dump({**IMAGE, "layers": [foreign]}), DOCKER_MANIFEST).blobs)

    @pytest.mark.parametrize(("document", "media_type"), [(IMAGE, OCI_MANIFEST), (INDEX, OCI_INDEX)])
    def test_without_media_type_is_recognized_by_its_fields(self, document, media_type):
        payload = manifest_payload.read(dump(document), None)
        assert (media_type, True) == (payload.media_type, payload.is_inferable)

    def test_without_media_type_has_the_type_that_the_client_declares(self):
        payload = manifest_payload.read(dump(IMAGE), DOCKER_MANIFEST)
        assert (DOCKER_MANIFEST, False) == (payload.media_type, payload.is_inferable)

    def test_of_an_unknown_type_is_accepted(self):
        assert "application/x+json" == manifest_payload.read(dump({"x": 1}), "application/x+json").media_type

    def test_may_contain_any_numbers_and_strings(self):
        manifest_payload.read(dump({**IMAGE, "x": [10**4000, -1.5e-300, "\ud800", "😀"]}), OCI_MANIFEST)


BROKEN = {
    "no JSON": b"hello",
    "nothing": b"",
    "no object": b"[]",
    "not UTF-8": b'{"schemaVersion": 2, "x": "\xff"}',
    "UTF-16": '{"schemaVersion": 2}'.encode("utf-16"),
    "nested too deep": b"[" * 10000 + b"]" * 10000,
    "objects nested too deep": b'{"a":' * 10000 + b"1" + b"}" * 10000,
    "a huge number": b'{"schemaVersion": 2, "x": ' + b"9" * 10000 + b"}",
    "not a number": b'{"schemaVersion": 2, "x": NaN}',
    "another media type": dump({**IMAGE, "mediaType": DOCKER_MANIFEST}),
    "a media type that is no text": dump({**IMAGE, "mediaType": 1}),
    "schema 1": dump({"schemaVersion": 1}),
    "no schema version": dump({"config": CONFIG, "layers": []}),
    "schema version as text": dump({**IMAGE, "schemaVersion": "2"}),
    "no config": dump({"schemaVersion": 2, "layers": []}),
    "layers that are no list": dump({**IMAGE, "layers": {}}),
    "a layer that is no object": dump({**IMAGE, "layers": ["x"]}),
    "a layer without digest": dump({**IMAGE, "layers": [{"size": 1}]}),
    "a layer of negative size": dump({**IMAGE, "layers": [{**LAYER, "size": -1}]}),
    "a layer whose size is true": dump({**IMAGE, "layers": [{**LAYER, "size": True}]}),
    "a layer with a wrong digest": dump({**IMAGE, "layers": [{**LAYER, "digest": "sha256:xyz"}]}),
    "an image that is an index too": dump({**IMAGE, "manifests": []}),
}


class TestAnInvalidPayload:
    @pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN.keys())
    def test_is_refused(self, payload):
        with pytest.raises(ManifestInvalid):
            manifest_payload.read(payload, OCI_MANIFEST)

    def test_is_rejected_when_it_is_both_an_index_and_an_image(self):
        with pytest.raises(ManifestInvalid):
            manifest_payload.read(dump({**INDEX, "layers": []}), OCI_INDEX)

    def test_is_rejected_when_its_type_is_unknown(self):
        with pytest.raises(ManifestInvalid):
            manifest_payload.read(dump({"schemaVersion": 2}), None)

    def test_of_schema_1_is_rejected_by_its_type_too(self):
        with pytest.raises(ManifestInvalid, match="schema 1"):
            manifest_payload.read(dump({}), manifest_payload.SCHEMA_1_SIGNED)


def twice(document, key, value):
    """A document with one more member."""
    return dump(document)[:-1] + b", " + dump({key: value})[1:]


def inside(key, descriptor):
    """An image, or an index, with a descriptor that is written already."""
    document = INDEX if key == "manifests" else IMAGE
    written = b"[" + descriptor + b"]" if key in ("layers", "manifests") else descriptor
    return dump({**document, key: "@"}).replace(b'"@"', written)


#: Each with its media type.
AMBIGUOUS = {
    "Manifests beside layers": (twice(IMAGE, "Manifests", []), OCI_MANIFEST),
    "manifests and Manifests": (twice(INDEX, "Manifests", []), OCI_INDEX),
    "manifests twice": (twice(INDEX, "manifests", []), OCI_INDEX),
    "config twice": (twice(IMAGE, "config", CONFIG), OCI_MANIFEST),
    "MediaType": (twice(IMAGE, "MediaType", OCI_INDEX), OCI_MANIFEST),
    "mediaType twice": (twice({**IMAGE, "mediaType": OCI_MANIFEST}, "mediaType", OCI_MANIFEST), OCI_MANIFEST),
    "a key with a long s, which Go takes as s": (twice(IMAGE, "layer\u017f", []), OCI_MANIFEST),
    "SchemaVersion": (twice(IMAGE, "SchemaVersion", 1), OCI_MANIFEST),
    "Subject": (twice(IMAGE, "Subject", LAYER), OCI_MANIFEST),
    **{
        f"{key} with {name} twice": (
            inside(key, twice(LAYER, name, value)),
            OCI_INDEX if key == "manifests" else OCI_MANIFEST,
        )
        for key in ("config", "subject", "layers", "manifests")
        for name, value in (("digest", str(Digest.of(b"x"))), ("Digest", str(Digest.of(b"x"))), ("Size", 1))
    },
    "a platform with OS": (inside("manifests", dump({**LAYER, "platform": {"os": "linux", "OS": "x"}})), OCI_INDEX),
    "a config's platform with OS": (inside("config", dump({**LAYER, "platform": {"OS": "x"}})), OCI_MANIFEST),
}


class TestAPayloadThatClientsReadDifferently:
    @pytest.mark.parametrize("padding", [b"", b" " * 70_000], ids=["small", "large"])
    @pytest.mark.parametrize(("payload", "media_type"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
    def test_is_refused_but_stays_served(self, payload, media_type, padding):
        with pytest.raises(ManifestInvalid, match=r"(duplicate key|key whose case differs)"):
            manifest_payload.read(payload + padding, media_type)
        manifest_payload.read(payload + padding, media_type, is_stored=True)

    @pytest.mark.parametrize("padding", [b"", b" " * 70_000], ids=["small", "large"])
    def test_may_have_keys_that_no_client_confuses(self, padding):
        annotations = {"config": "a", "Config": "b", "Digest": "c"}
        document = {**IMAGE, "config": {**CONFIG, "annotations": annotations}, "x": {"Config": 1, "config": 2}}
        payload = twice({**document, "annotations": annotations, "history": 1}, "history", 2)
        assert manifest_payload.read(payload + padding, OCI_MANIFEST).annotations == annotations


class TestAStoredPayload:
    def test_of_schema_1_is_recognized_by_its_signatures(self):
        stored = dump({"schemaVersion": 1, "signatures": []})
        assert (manifest_payload.SCHEMA_1_SIGNED, False) == manifest_payload.stored_media_type(stored)

    def test_without_any_hint_has_no_type(self):
        assert (None, False) == manifest_payload.stored_media_type(b"{}")
        assert (None, False) == manifest_payload.stored_media_type(b"\xff")

    @pytest.mark.parametrize("padding", ["", " " * 70_000])
    def test_references_content_also_from_schema_1_and_beside_invalid_entries(self, padding):
        schema_1 = {"schemaVersion": 1, "fsLayers": [{"blobSum": LAYER["digest"]}, {"blobSum": 1}, 2], "config": None}
        odd = {**IMAGE, "manifests": [{**LAYER, "size": "3"}], "layers": [{}], "subject": LAYER}
        assert (Digest.of(b"tar"),) == manifest_payload.references(dump(schema_1) + padding.encode())
        assert (Digest.of(b"{}"), Digest.of(b"tar")) == manifest_payload.references(dump(odd) + padding.encode())
        assert () == manifest_payload.references(b"\xff")


class TestALargePayload:
    """It is read part by part, by the same rules."""

    PADDING = " " * 70_000

    @pytest.mark.parametrize(
        ("document", "media_type"),
        [
            (IMAGE, OCI_MANIFEST),
            ({**IMAGE, "subject": LAYER, "annotations": {"a": "b"}, "artifactType": "a/b"}, OCI_MANIFEST),
            ({**INDEX, "mediaType": OCI_INDEX}, OCI_INDEX),
            ({**INDEX, "subject": None, "annotations": None}, DOCKER_LIST),
            ({"x": 1}, "application/x+json"),
        ],
    )
    def test_is_read_like_a_small_one(self, document, media_type):
        small = manifest_payload.read(dump(document), media_type)
        large = manifest_payload.read(dump(document) + self.PADDING.encode(), media_type)
        assert not large.is_inferable
        assert (small.media_type, small.blobs, small.manifests) == (large.media_type, large.blobs, large.manifests)
        assert (small.subject, small.artifact_type) == (large.subject, large.artifact_type)
        assert small.annotations == large.annotations
        stored = dump(document) + self.PADDING.encode()
        assert manifest_payload.stored_media_type(dump(document)) == manifest_payload.stored_media_type(stored)

    @pytest.mark.parametrize(
        "document",
        [
            {**IMAGE, "layers": {}},
            {**IMAGE, "layers": [1]},
            {**IMAGE, "config": [CONFIG]},
            {**IMAGE, "manifests": []},
            {**IMAGE, "annotations": []},
            {**IMAGE, "subject": "x"},
            {**IMAGE, "artifactType": "a" * 300},
            {**IMAGE, "config": {**CONFIG, "mediaType": "a" * 300}},
        ],
    )
    def test_is_rejected_like_a_small_one(self, document):
        for padding in (b"", self.PADDING.encode()):
            with pytest.raises(ManifestInvalid):
                manifest_payload.read(dump(document) + padding, OCI_MANIFEST)

    def test_may_have_thousands_of_children(self):
        children = [
            {"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 1} for number in range(25_000)
        ]
        payload = manifest_payload.read(dump({"schemaVersion": 2, "manifests": children}), OCI_INDEX)
        assert children == [
            {"mediaType": child.media_type, "digest": str(child.digest), "size": child.size}
            for child in payload.manifests
        ]

    @pytest.mark.parametrize("values", ["[]," * 1_390_000 + "[]", "[[" + "[]," * 30_000 + "[]]]"])
    def test_of_an_absurd_structure_is_rejected(self, values):
        with pytest.raises(ManifestInvalid, match="too many JSON values"):
            manifest_payload.read(f'{{"mediaType": "x/y", "x": [{values}]}}'.encode(), None)
