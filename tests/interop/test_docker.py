"""Docker: a daemon and its client."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from tests.support.clients.v2 import DOCKER_LIST, DOCKER_MANIFEST, digest_of
from tests.support.images import named_blobs, pull


@pytest.fixture
def image(docker, host, name, tree):
    """An image that the daemon has and the registry has not."""
    reference = f"{host}/{name}:v1"
    docker("import", "-", reference, stdin=tree)
    yield reference
    docker("rmi", "--force", reference)


@pytest.fixture
def pushed(docker, image):
    docker("push", image)
    return image


def image_id(docker, reference):
    """The digest of the configuration as the daemon knows it."""
    return docker("image", "inspect", "--format={{.Id}}", reference)


def saved_layers(docker, reference):
    """The uncompressed layers as the daemon has them."""
    with tarfile.open(fileobj=io.BytesIO(docker.raw("save", reference))) as saved:
        (entry,) = json.load(saved.extractfile("manifest.json"))
        return [saved.extractfile(layer).read() for layer in entry["Layers"]]


class TestDocker:
    def test_pushes_an_image_of_the_daemon(self, docker, pushed, reader, name):
        manifest = reader.get_manifest(name, "v1")
        config, *layers = (reader.get_blob(name, entry["digest"]) for entry in named_blobs(manifest))
        assert DOCKER_MANIFEST == manifest.media_type
        assert image_id(docker, pushed) == digest_of(config)
        assert saved_layers(docker, pushed) == [gzip.decompress(layer) for layer in layers]

    def test_prints_the_digest_that_the_registry_serves(self, docker, image, reader, name):
        said = docker("push", image)
        assert f"digest: {reader.get_manifest(name, 'v1').digest} " in said

    def test_pulls_its_own_push(self, docker, pushed):
        before, layers = image_id(docker, pushed), saved_layers(docker, pushed)
        docker("rmi", pushed)
        docker("pull", pushed)
        assert (before, layers) == (image_id(docker, pushed), saved_layers(docker, pushed))

    def test_pulls_by_digest(self, docker, pushed, reader, host, name):
        before = image_id(docker, pushed)
        reference = f"{host}/{name}@{reader.get_manifest(name, 'v1').digest}"
        docker("rmi", pushed)
        docker("pull", reference)
        assert before == image_id(docker, reference)
        docker("tag", reference, pushed)

    def test_pulls_all_tags(self, docker, pushed, host, name):
        docker("tag", pushed, f"{host}/{name}:v2")
        docker("push", f"{host}/{name}:v2")
        docker("rmi", pushed, f"{host}/{name}:v2")
        docker("pull", "--all-tags", f"{host}/{name}")
        assert image_id(docker, pushed) == image_id(docker, f"{host}/{name}:v2")
        docker("rmi", f"{host}/{name}:v2")

    def test_pushes_an_image_built_on_a_pulled_one(self, docker, pushed, reader, host, name, tmp_path):
        docker("rmi", pushed)
        (tmp_path / "Dockerfile").write_text(f"FROM {pushed}\nCOPY more /more\nENV A=b\n")
        (tmp_path / "more").write_bytes(b"more")
        docker("build", "--tag", f"{host}/{name}/built:v1", tmp_path)
        docker("push", f"{host}/{name}/built:v1")
        base, built = pull(reader, name, "v1"), pull(reader, f"{name}/built", "v1")
        layers = [entry["digest"] for entry in reader.get_manifest(f"{name}/built", "v1").document["layers"]]
        assert 2 == len(layers)
        assert base[layers[0]] == built[layers[0]]
        docker("rmi", f"{host}/{name}/built:v1")

    def test_pushes_the_layers_of_another_repository(self, docker, pushed, reader, host, name):
        docker("tag", pushed, f"{host}/{name}/copy:v1")
        assert "Mounted from" in docker("push", f"{host}/{name}/copy:v1")
        assert pull(reader, name, "v1") == pull(reader, f"{name}/copy", "v1")
        docker("rmi", f"{host}/{name}/copy:v1")


class TestDockerManifest:
    def test_creates_pushes_and_reads_lists(self, docker, pushed, reader, host, name):
        reference = f"{host}/{name}:list"
        for architecture in ("amd64", "arm64"):
            docker("tag", pushed, f"{host}/{name}:{architecture}")
            docker("push", f"{host}/{name}:{architecture}")
        docker("manifest", "create", "--insecure", reference, f"{host}/{name}:amd64", f"{host}/{name}:arm64")
        docker("manifest", "annotate", "--arch=arm64", "--variant=v8", reference, f"{host}/{name}:arm64")
        digest = docker("manifest", "push", "--insecure", reference)
        listed = reader.get_manifest(name, "list")
        assert (digest, DOCKER_LIST) == (listed.digest, listed.media_type)
        assert reader.get_manifest(name, "v1").digest in {entry["digest"] for entry in listed.document["manifests"]}

        seen = json.loads(docker("manifest", "inspect", "--insecure", reference))
        assert listed.document == seen
        assert pull(reader, name, "v1").items() < pull(reader, name, "list").items()
        docker("rmi", f"{host}/{name}:amd64", f"{host}/{name}:arm64")

    def test_is_used_by_the_daemon(self, docker, skopeo, layouts, host, name, index):
        skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        docker("pull", f"--platform=linux/{index.images[1].architecture}", f"{host}/{name}:v1")
        assert digest_of(index.images[1].config) == image_id(docker, f"{host}/{name}:v1")
        docker("rmi", f"{host}/{name}:v1")
