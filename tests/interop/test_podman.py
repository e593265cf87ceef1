"""podman and buildah, which share their storage and their implementation of pushes."""

from __future__ import annotations

import json

import pytest

from tests.support.clients.v2 import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of
from tests.support.images import make_image, pull, read_layout

INSECURE = "--tls-verify=false"


@pytest.fixture
def image(podman, host, name, tree, tmp_path):
    """An image that podman has and the registry has not."""
    reference = f"{host}/{name}:v1"
    (tmp_path / "tree.tar").write_bytes(tree)
    podman("import", tmp_path / "tree.tar", reference)
    yield reference
    podman("rmi", "--force", "--ignore", reference)


@pytest.fixture
def pushed(podman, policy, image, tmp_path):
    """The reference of the pushed image."""
    podman("push", INSECURE, f"--signature-policy={policy}", f"--digestfile={tmp_path}/digest", image)
    return image


class TestPodman:
    def test_pushes_an_image(self, podman, pushed, reader, name, tmp_path):
        manifest = reader.get_manifest(name, "v1")
        assert (tmp_path / "digest").read_text() == manifest.digest
        assert podman("image", "inspect", "--format={{.Id}}", pushed) in manifest.document["config"]["digest"]
        assert 3 == len(pull(reader, name, "v1"))

    @pytest.mark.parametrize(("form", "media_type"), [("oci", OCI_MANIFEST), ("v2s2", DOCKER_MANIFEST)])
    def test_pushes_in_either_format(self, podman, policy, image, reader, name, form, media_type):
        podman("push", INSECURE, f"--signature-policy={policy}", f"--format={form}", image)
        assert media_type == reader.get_manifest(name, "v1").media_type

    def test_pushes_zstd(self, podman, policy, image, reader, name):
        podman("push", INSECURE, f"--signature-policy={policy}", "--compression-format=zstd", "--format=oci", image)
        (layer,) = reader.get_manifest(name, "v1").document["layers"]
        assert layer["mediaType"].endswith("tar+zstd")
        assert reader.get_blob(name, layer["digest"]).startswith(b"\x28\xb5\x2f\xfd")

    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_pulls_its_own_push(self, podman, policy, pushed, reader, host, name, by):
        before = podman("image", "inspect", "--format={{.Id}} {{.RootFS.Layers}}", pushed)
        podman("rmi", pushed)
        reference = pushed if by == "tag" else f"{host}/{name}@{reader.get_manifest(name, 'v1').digest}"
        podman("pull", INSECURE, f"--signature-policy={policy}", reference)
        assert before == podman("image", "inspect", "--format={{.Id}} {{.RootFS.Layers}}", reference)
        podman("rmi", "--force", reference)

    def test_pulls_an_image_byte_for_byte(self, podman, policy, skopeo, layouts, host, name):
        image = make_image(name)
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", f"docker://{host}/{name}:v1")
        podman("pull", INSECURE, f"--signature-policy={policy}", f"{host}/{name}:v1")
        seen = json.loads(podman("image", "inspect", f"{host}/{name}:v1"))[0]
        diff_ids = json.loads(image.config)["rootfs"]["diff_ids"]
        assert (image.digest, diff_ids) == (seen["Digest"], seen["RootFS"]["Layers"])
        assert digest_of(image.config) == f"sha256:{seen['Id']}"
        podman("rmi", f"{host}/{name}:v1")


class TestBuildah:
    @pytest.fixture
    def commit(self, buildah, policy, host, name, tmp_path):
        """Build an image for a platform from a single file, and return its name."""

        def commit(architecture):
            reference = f"localhost/{name}:{architecture}"
            (tmp_path / "file").write_text(f"{name} {architecture}")
            container = buildah("from", "scratch")
            buildah("copy", container, tmp_path / "file", "/file")
            buildah("config", f"--arch={architecture}", "--os=linux", container)
            buildah("commit", f"--signature-policy={policy}", "--rm", container, reference)
            return reference

        return commit

    def test_pushes_a_built_image(self, buildah, policy, commit, reader, host, name, tmp_path):
        image = commit("amd64")
        digest = f"--digestfile={tmp_path}/digest"
        buildah("push", INSECURE, f"--signature-policy={policy}", digest, image, f"docker://{host}/{name}:v1")
        assert (tmp_path / "digest").read_text() == reader.get_manifest(name, "v1").digest
        assert 3 == len(pull(reader, name, "v1"))

    def test_pushes_several_platforms(self, buildah, policy, commit, reader, host, name, tmp_path):
        listed = f"localhost/{name}:list"
        buildah("manifest", "create", listed, commit("amd64"), commit("arm64"))
        options = [INSECURE, f"--signature-policy={policy}", f"--digestfile={tmp_path}/digest", "--all", "--format=oci"]
        buildah("manifest", "push", *options, listed, f"docker://{host}/{name}:v1")
        index = reader.get_manifest(name, "v1")
        platforms = [entry["platform"]["architecture"] for entry in index.document["manifests"]]
        assert (OCI_INDEX, ["amd64", "arm64"]) == (index.media_type, platforms)
        assert (tmp_path / "digest").read_text() == index.digest
        assert 7 == len(pull(reader, name, "v1"))

    def test_builds_on_an_image_of_another_client(self, buildah, policy, skopeo, layouts, reader, host, name, tmp_path):
        base = make_image(name)
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layouts(base)}:v1", f"docker://{host}/{name}:v1")
        container = buildah("from", INSECURE, f"--signature-policy={policy}", f"docker://{host}/{name}:v1")
        (tmp_path / "more").write_text("more")
        buildah("copy", container, tmp_path / "more", "/more")
        buildah("commit", f"--signature-policy={policy}", "--rm", container, f"localhost/{name}:more")
        buildah(
            "push", INSECURE, f"--signature-policy={policy}", f"localhost/{name}:more", f"docker://{host}/{name}:more"
        )
        layers = reader.get_manifest(name, "more").document["layers"]
        assert 3 == len(layers)
        assert read_layout_of(skopeo, tmp_path, f"{host}/{name}:more") == pull(reader, name, "more")


def read_layout_of(skopeo, folder, reference):
    """Return the content that another client reads, by digest."""
    skopeo("copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{folder}/read:v1")
    return read_layout(folder / "read")
