"""containerd, with which Kubernetes pulls images."""

from __future__ import annotations

import pytest

from tests.support.images import make_image, pull

PLAIN = ["--plain-http"]


def content(ctr, digest):
    """A content as containerd stores it."""
    return ctr.raw("content", "get", digest)


class TestContainerd:
    @pytest.fixture
    def image(self, skopeo, layouts, host, name):
        """An image that the registry has and containerd has not."""
        image = make_image(name)
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", f"docker://{host}/{name}:v1")
        return image

    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_pulls_byte_for_byte(self, ctr, image, host, name, by):
        reference = f"{host}/{name}:v1" if by == "tag" else f"{host}/{name}@{image.digest}"
        ctr("images", "pull", *PLAIN, "--snapshotter=native", reference)
        assert image.contents == {digest: content(ctr, digest) for digest in image.contents}

    def test_pulls_one_of_several_platforms(self, ctr, skopeo, layouts, host, name, index):
        skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        ctr("content", "fetch", *PLAIN, "--platform=linux/arm64", f"{host}/{name}:v1")
        wanted = index.images[1].contents | {index.digest: index.manifest}
        assert wanted == {digest: content(ctr, digest) for digest in wanted}

    def test_pushes_byte_for_byte(self, ctr, image, reader, host, name):
        ctr("images", "pull", *PLAIN, "--snapshotter=native", f"{host}/{name}:v1")
        ctr("images", "tag", f"{host}/{name}:v1", f"{host}/{name}/copy:v1")
        ctr("images", "push", *PLAIN, f"{host}/{name}/copy:v1")
        assert image.contents == pull(reader, f"{name}/copy", "v1")

    def test_pushes_an_imported_image(self, ctr, skopeo, layouts, reader, host, name, tmp_path):
        image = make_image(name, layers=3)
        skopeo("copy", f"oci:{layouts(image)}:v1", f"oci-archive:{tmp_path}/image.tar:imported")
        ctr("images", "import", "--no-unpack", "--base-name", f"{host}/{name}", tmp_path / "image.tar")
        ctr("images", "push", *PLAIN, f"{host}/{name}:imported")
        assert image.contents == pull(reader, name, "imported")
