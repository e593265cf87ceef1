"""skopeo, which also stands for every tool built on containers/image."""

from __future__ import annotations

import json

import pytest

from tests.support.clients.v2 import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, Refused
from tests.support.images import make_image, pull, read_layout

TO = "--dest-tls-verify=false"
FROM = "--src-tls-verify=false"


@pytest.fixture
def pushed(skopeo, layouts, host, name, index):
    """The reference of a pushed image for two platforms."""
    skopeo("copy", "--all", TO, f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
    return f"docker://{host}/{name}"


class TestSkopeo:
    def test_pushes_an_image_that_is_stored_byte_for_byte(self, skopeo, layouts, host, name, reader):
        image = make_image(name, layers=3)
        skopeo("copy", TO, f"oci:{layouts(image)}:v1", f"docker://{host}/{name}:v1")
        assert image.contents == pull(reader, name, "v1")

    def test_pushes_several_platforms_byte_for_byte(self, pushed, reader, name, index):
        assert OCI_INDEX == reader.get_manifest(name, "v1").media_type
        assert index.contents == pull(reader, name, "v1")

    @pytest.mark.parametrize("reference", ["tag", "digest"])
    def test_pulls_several_platforms_byte_for_byte(self, skopeo, pushed, tmp_path, index, reference):
        source = f"{pushed}:v1" if reference == "tag" else f"{pushed}@{index.digest}"
        skopeo("copy", "--all", FROM, source, f"oci:{tmp_path}/pulled:v1")
        assert index.contents == read_layout(tmp_path / "pulled")

    def test_pushes_in_the_formats_of_docker(self, skopeo, layouts, host, name, index, reader):
        skopeo("copy", "--all", "--format=v2s2", TO, f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        listed = reader.get_manifest(name, "v1")
        assert DOCKER_LIST == listed.media_type
        assert {DOCKER_MANIFEST} == {entry["mediaType"] for entry in listed.document["manifests"]}
        layers = {layer for image in index.images for layer in image.layers}
        assert layers < set(pull(reader, name, "v1").values())

    def test_copies_between_repositories(self, skopeo, pushed, host, name, index, reader):
        skopeo("copy", "--all", FROM, TO, f"{pushed}:v1", f"docker://{host}/{name}/copy:v1")
        assert index.contents == pull(reader, f"{name}/copy", "v1")

    def test_inspects(self, skopeo, pushed, index):
        seen = json.loads(skopeo("inspect", "--tls-verify=false", f"{pushed}:v1"))
        image = index.images[0]
        assert (index.digest, list(image.blobs)[:2], ["v1"]) == (seen["Digest"], seen["Layers"], seen["RepoTags"])
        assert index.manifest.decode() == skopeo("inspect", "--raw", "--tls-verify=false", f"{pushed}:v1")

    def test_lists_tags(self, skopeo, pushed, host, name):
        for tag in ("v2", "latest"):
            skopeo("copy", FROM, TO, f"{pushed}:v1", f"docker://{host}/{name}:{tag}")
        assert ["latest", "v1", "v2"] == json.loads(skopeo("list-tags", "--tls-verify=false", pushed))["Tags"]

    def test_deletes_an_image_with_its_tags(self, skopeo, pushed, reader, name, index):
        skopeo("delete", "--tls-verify=false", f"{pushed}:v1")
        assert not reader.has_manifest(name, "v1")
        with pytest.raises(Refused, match="404"):
            reader.get_manifest(name, index.digest)
        assert index.images[0].contents == pull(reader, name, index.images[0].digest)
