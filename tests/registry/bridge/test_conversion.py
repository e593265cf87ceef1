"""The conversion between API V1 and V2, compared with the results of Docker 1.10.3, 1.12.6 and 17.05.0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker_registry.registry.bridge.conversion import to_chain, to_config, to_manifest
from docker_registry.registry.names import Descriptor, Digest, ImageRepositoryName
from tests.support import v1_trees

GOLDEN = Path(__file__).parent.parent.parent / "fixtures" / "bridge"
TREE = v1_trees.FIXTURES / "registry-0.7.1"

#: The image id that ``docker images`` shows for each tag of the tree.
IMAGE_IDS = json.loads((GOLDEN / "image-ids.json").read_text())

#: An image of V2, and the tag under which Docker 1.12.6 pushed it to a registry of V1.
OCI_CONFIG = GOLDEN / "oci-image/blobs/sha256/d51e6d2255b8e91e69187375313fb3b528baddcae0e7888e567a67b188048728"
PUSHED = "modern/gold-dev:v1"


def chain(reference):
    """The images behind a tag of the tree, the oldest first: their ids and their JSON."""
    name, _, tag = reference.partition(":")
    top = (TREE / "repositories" / str(ImageRepositoryName.parse(name)) / f"tag_{tag}").read_text()
    ids = json.loads((TREE / "images" / top / "ancestry").read_text())[::-1]
    return ids, [(TREE / "images" / each / "json").read_bytes() for each in ids]


def diff_ids(config):
    return [Digest.parse(each) for each in json.loads(config)["rootfs"]["diff_ids"]]


class TestAnImageOfV1:
    @pytest.mark.parametrize("reference", IMAGE_IDS)
    def test_has_the_configuration_that_docker_gave_it(self, reference):
        golden = (GOLDEN / f"config-{IMAGE_IDS[reference]}.json").read_bytes()
        config = to_config(chain(reference)[1], diff_ids(golden))
        assert golden == config
        assert IMAGE_IDS[reference] == Digest.of(config).hex

    def test_of_a_newer_docker_is_passed_on_unchanged(self):
        payload = b'{"id":"1","docker_version":"1.9.1","z":1.0,"a":{"y":1,"b":2}}'
        assert to_config([payload], []).startswith(b'{"a":{"y":1,"b":2},"docker_version":"1.9.1","history":[')
        assert b'"z":1.0' in to_config([payload], [])

    def test_without_its_v1_fields_is_the_same_image(self):
        own = b'"id":"1","parent":"2","Size":7,"parent_id":"3","layer_id":"4","throwaway":true'
        assert to_config([b'{"docker_version":"1.9.1","x":1}'], []) == to_config(
            [b'{%s,"docker_version":"1.9.1","x":1}' % own], []
        )

    def test_that_docker_could_not_read_is_rejected(self):
        with pytest.raises(ValueError):
            to_config([b'{"id":"1","author":7}', b'{"id":"2"}'], [])


class TestAManifest:
    def test_never_changes(self):
        config = (GOLDEN / f"config-{IMAGE_IDS['base:latest']}.json").read_bytes()
        layer = Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", Digest("sha256", "a" * 64), 123)
        assert (
            '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
            '"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":901,'
            f'"digest":"sha256:{IMAGE_IDS["base:latest"]}"}},'
            '"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":123,'
            f'"digest":"sha256:{"a" * 64}"}}]}}'
        ).encode() == to_manifest(config, [layer])


class TestAnImageOfV2:
    def test_is_the_chain_that_docker_pushed(self):
        ids, payloads = chain(PUSHED)
        made = to_chain(OCI_CONFIG.read_bytes())
        assert tuple(ids) == tuple(map(str, made.ids))
        assert payloads == [made.payload(position) for position in range(len(ids))]

    @pytest.mark.parametrize("position", range(3))
    def test_names_the_parent_of_each_image(self, position):
        ids, _ = chain(PUSHED)
        made = to_chain(OCI_CONFIG.read_bytes())
        assert tuple(reversed(ids[: position + 1])) == made.ancestry(position)

    def test_shares_the_ids_of_the_layers_that_it_shares(self):
        config = json.loads(OCI_CONFIG.read_bytes())
        other = to_chain(json.dumps({**config, "author": "another"}).encode())
        made = to_chain(OCI_CONFIG.read_bytes())
        assert made.ids[:-1] == other.ids[:-1]
        assert made.ids[-1] != other.ids[-1]

    def test_without_layers_is_one_image(self):
        config = b'{"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"parent":"old"}'
        made = to_chain(config)
        assert (Digest.of(config).hex,) == tuple(map(str, made.ids))
        assert {"id": Digest.of(config).hex, "os": "linux"} == json.loads(made.payload(0))

    @pytest.mark.parametrize(
        "config",
        [
            b"", b"[]", b"{}", b'{"rootfs":null}', b'{"rootfs":[]}', b'{"rootfs":{"diff_ids":{}}}',
            b'{"rootfs":{"diff_ids":[1]}}', b'{"rootfs":{"diff_ids":["sha256:1"]}}',
            b'{"rootfs":{"diff_ids":["sha512:%s"]}}' % (b"a" * 128),
        ],
    )  # fmt: skip
    def test_requires_a_configuration_with_layers(self, config):
        with pytest.raises(ValueError):
            to_chain(config)
