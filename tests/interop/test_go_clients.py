"""crane, oras, regctl, helm and cosign: clients of OCI registries written in Go."""

from __future__ import annotations

import json

import pytest

from tests.support.clients.go_tools import install
from tests.support.clients.v2 import Refused
from tests.support.images import make_image, make_index, pull, push


@pytest.fixture(scope="session")
def crane(tmp_path_factory):
    return install("crane", tmp_path_factory.mktemp("crane"))


@pytest.fixture(scope="session")
def oras(tmp_path_factory):
    return install("oras", tmp_path_factory.mktemp("oras"))


@pytest.fixture(scope="session")
def regctl(tmp_path_factory, request):
    return install("regctl", tmp_path_factory.mktemp("regctl"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory):
    return install("helm", tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cosign(tmp_path_factory):
    return install("cosign", tmp_path_factory.mktemp("cosign"), COSIGN_PASSWORD="")


class TestCrane:
    def test_copies_lists_and_deletes(self, crane, reader, host, name):
        index = make_index(name)
        push(reader, name, "v1", index)
        crane("copy", "--insecure", f"{host}/{name}:v1", f"{host}/{name}/copy:v1")
        assert index.contents == pull(reader, f"{name}/copy", "v1")
        crane("tag", "--insecure", f"{host}/{name}/copy:v1", "v2")
        assert ["v1", "v2"] == crane("ls", "--insecure", f"{host}/{name}/copy").split()
        assert index.digest == crane("digest", "--insecure", f"{host}/{name}/copy:v2")
        assert f"{name}/copy" in crane("catalog", "--insecure", host).split()
        crane("delete", "--insecure", f"{host}/{name}/copy:v2")
        assert ["v1"] == reader.tags(f"{name}/copy")
        assert index.manifest.decode() == crane("manifest", "--insecure", f"{host}/{name}/copy:v1")

    def test_pulls_pushes_and_appends(self, crane, layouts, reader, host, name, tmp_path):
        image = make_image(name)
        crane("push", "--insecure", layouts(image), f"{host}/{name}:v1")
        assert image.contents == pull(reader, name, "v1")
        crane("pull", "--insecure", "--format=oci", f"{host}/{name}:v1", tmp_path / "pulled")
        assert image.manifest == (tmp_path / f"pulled/blobs/sha256/{image.digest[7:]}").read_bytes()
        (tmp_path / "layer.tar").write_bytes(b"\0" * 1024)
        append = ["--base", f"{host}/{name}:v1", "--new_layer", tmp_path / "layer.tar", "--new_tag"]
        crane("append", "--insecure", *append, f"{host}/{name}:v2")
        assert 3 == len(reader.get_manifest(name, "v2").document["layers"])


class TestOras:
    def test_pushes_attaches_discovers_and_pulls(self, oras, reader, host, name, tmp_path):
        (tmp_path / "file.txt").write_text("content")
        (tmp_path / "about.json").write_text("{}")
        plain = ["--plain-http", "--disable-path-validation"]
        oras("push", *plain, f"{host}/{name}:v1", f"{tmp_path}/file.txt:text/plain")
        kind = ["--artifact-type", "application/vnd.example.about"]
        oras("attach", *plain, *kind, f"{host}/{name}:v1", f"{tmp_path}/about.json:application/json")
        found = json.loads(oras("discover", "--plain-http", "--format=json", f"{host}/{name}:v1"))
        (about,) = found.get("referrers") or found["manifests"]
        assert "application/vnd.example.about" == about["artifactType"]
        subject = reader.get_manifest(name, about["digest"]).document["subject"]
        assert reader.get_manifest(name, "v1").digest == subject["digest"]
        oras("pull", "--plain-http", "--allow-path-traversal", "--output", tmp_path / "pulled", f"{host}/{name}:v1")
        assert "content" == next((tmp_path / "pulled").rglob("file.txt"), tmp_path / "file.txt").read_text()

    def test_copies_with_all_referrers(self, oras, reader, host, name, tmp_path):
        image = make_image(name)
        push(reader, name, "v1", image)
        (tmp_path / "about.json").write_text("{}")
        kind = ["--artifact-type", "application/vnd.example.about", "--disable-path-validation"]
        oras("attach", "--plain-http", *kind, f"{host}/{name}:v1", f"{tmp_path}/about.json:application/json")
        flags = ["--from-plain-http", "--to-plain-http", "--recursive"]
        oras("copy", *flags, f"{host}/{name}:v1", f"{host}/{name}/copy:v1")
        assert image.contents == pull(reader, f"{name}/copy", "v1")
        answer = reader.request("GET", f"/v2/{name}/copy/referrers/{image.digest}", 200)
        assert ["application/vnd.example.about"] == [entry["artifactType"] for entry in answer.json()["manifests"]]

    def test_lists_and_deletes(self, oras, reader, host, name):
        image = make_image(name)
        push(reader, name, "v1", image)
        assert "v1" == oras("repo", "tags", "--plain-http", f"{host}/{name}")
        assert name in oras("repo", "ls", "--plain-http", host).split()
        oras("manifest", "delete", "--plain-http", "--force", f"{host}/{name}:v1")
        assert not reader.has_manifest(name, "v1")


class TestRegctl:
    @pytest.fixture
    def regctl(self, regctl, host):
        regctl("registry", "set", "--tls=disabled", host)
        return regctl

    def test_copies_lists_and_deletes(self, regctl, reader, host, name):
        index = make_index(name)
        push(reader, name, "v1", index)
        regctl("image", "copy", f"{host}/{name}:v1", f"{host}/{name}/copy:v1")
        assert index.contents == pull(reader, f"{name}/copy", "v1")
        assert "v1" == regctl("tag", "ls", f"{host}/{name}/copy")
        assert index.digest == regctl("image", "digest", f"{host}/{name}:v1")
        regctl("tag", "rm", f"{host}/{name}/copy:v1")
        assert [] == reader.tags(f"{name}/copy")
        assert index.manifest == reader.get_manifest(f"{name}/copy", index.digest).payload

    def test_puts_and_lists_artifacts(self, regctl, reader, host, name):
        push(reader, name, "v1", make_image(name))
        kind = ["--artifact-type=application/vnd.example.about", "--subject", f"{host}/{name}:v1"]
        regctl("artifact", "put", *kind, stdin=b"about")
        listed = json.loads(regctl("artifact", "list", "--format={{json .}}", f"{host}/{name}:v1"))
        found = listed.get("descriptors") or listed["manifest"]["manifests"]
        assert ["application/vnd.example.about"] == [entry["artifactType"] for entry in found]


@pytest.mark.slow
class TestHelm:
    def test_pushes_and_pulls_a_chart(self, helm, reader, host, name, tmp_path):
        helm("create", tmp_path / "chart")
        helm("package", tmp_path / "chart", "--destination", tmp_path)
        helm("push", "--plain-http", tmp_path / "chart-0.1.0.tgz", f"oci://{host}/{name}")
        assert ["0.1.0"] == reader.tags(f"{name}/chart")
        (tmp_path / "got").mkdir()
        helm("pull", "--plain-http", f"oci://{host}/{name}/chart", "--version=0.1.0", "--destination", tmp_path / "got")
        assert (tmp_path / "chart-0.1.0.tgz").read_bytes() == (tmp_path / "got/chart-0.1.0.tgz").read_bytes()


@pytest.mark.slow
class TestCosign:
    def test_signs_and_verifies(self, cosign, reader, host, name, tmp_path):
        image = make_image(name)
        push(reader, name, "v1", image)
        cosign("generate-key-pair", "--output-key-prefix", tmp_path / "key")
        reference = f"{host}/{name}@{image.digest}"
        offline = ["--allow-http-registry", "--allow-insecure-registry"]
        sign = ["--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false", "--yes"]
        cosign("sign", "--key", tmp_path / "key.key", *offline, *sign, reference)
        verify = ["--insecure-ignore-tlog", "--new-bundle-format=false"]
        cosign("verify", "--key", tmp_path / "key.pub", *offline, *verify, reference)
        other = make_image(f"{name} other")
        push(reader, name, "v2", other)
        with pytest.raises(AssertionError):
            cosign("verify", "--key", tmp_path / "key.pub", *offline, *verify, f"{host}/{name}@{other.digest}")


class TestDeletedContent:
    def test_is_unknown(self, crane, reader, host, name):
        image = make_image(name)
        push(reader, name, "v1", image)
        crane("delete", "--insecure", f"{host}/{name}@{image.digest}")
        with pytest.raises(Refused, match="404"):
            reader.get_manifest(name, image.digest)
