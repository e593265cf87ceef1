"""Real clients that pull images of Docker Hub through the mirror, configured as docs/mirrors.md says."""

from __future__ import annotations

import json

import pytest

from tests.interop.conftest import run_docker
from tests.support import v1_trees
from tests.support.clients.programs import Tool, require
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_index, push, read_layout
from tests.support.processes import free_port, stop
from tests.support.servers.registry import Server

INDEX = make_index("clients")

#: What clients call the image, and its id in Docker and podman.
REFERENCE = "docker.io/library/app:v1"
IMAGE_ID = digest_of(INDEX.images[0].config)


def serve(folder, port, **mirroring):
    """Return a server that mirrors."""
    settings = {"storage": "file", "storage_path": str(folder / "store"), "mirroring": mirroring}
    (folder / "config.yml").write_text(json.dumps({"dev": settings}))  # JSON is YAML
    return Server(folder / "store", workers=2, port=port, DOCKER_REGISTRY_CONFIG=str(folder / "config.yml"))


@pytest.mark.slow
class TestClientsOfAMirrorOfDockerHub:
    def test_pull_with_and_without_the_upstream(
        self, tmp_path_factory, distribution, ctr, skopeo, containers_environment, policy
    ):
        folder, port = tmp_path_factory.mktemp("mirror"), free_port()
        with distribution(tmp_path_factory.mktemp("peer") / "store") as peer:
            with Client(peer.url) as client:
                push(client, "library/app", "v1", INDEX)
            mirroring = {"upstreams": [{"name": "docker.io", "url": peer.url}], "hosts": {"localhost": "docker.io"}}
            with (
                serve(folder, port, **mirroring) as mirror,
                run_docker(
                    tmp_path_factory.mktemp("docker"), **{"registry-mirrors": [f"http://localhost:{port}"]}
                ) as docker,
            ):
                pulls = {
                    "docker": lambda: self.pull_by_docker(docker),
                    "containerd": lambda: self.pull_by_containerd(ctr, folder, port),
                    "podman": lambda: self.pull_by_podman(containers_environment, folder, port),
                    "skopeo": lambda: self.copy_by_skopeo(policy, folder, port, tmp_path_factory.mktemp("copy")),
                    "skopeo by path": lambda: self.copy_by_path(skopeo, port, tmp_path_factory.mktemp("copy")),
                }
                for pull in pulls.values():
                    pull()
                stop(peer.process)
                for pull in pulls.values():
                    pull()
                assert "Traceback" not in mirror.log.read_text()

    def pull_by_docker(self, docker):
        docker("pull", "app:v1")
        assert IMAGE_ID == docker("image", "inspect", "--format={{.Id}}", "app:v1")
        docker("rmi", "app:v1")

    def pull_by_containerd(self, ctr, folder, port):
        hosts = folder / "certs.d" / "docker.io"
        hosts.mkdir(parents=True, exist_ok=True)
        (hosts / "hosts.toml").write_text(
            f'server = "https://registry-1.docker.io"\n'
            f'[host."http://127.0.0.1:{port}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        ctr("images", "pull", f"--hosts-dir={folder}/certs.d", "--snapshotter=native", REFERENCE)
        wanted = INDEX.images[0].contents | {INDEX.digest: INDEX.manifest}
        assert wanted == {digest: ctr.raw("content", "get", digest) for digest in wanted}
        ctr("images", "rm", "--sync", REFERENCE)

    def registries_conf(self, folder, port):
        path = folder / "registries.conf"
        path.write_text(
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "127.0.0.1:{port}/docker.io"\ninsecure = true\n'
        )
        return path

    def pull_by_podman(self, environment, folder, port):
        conf = self.registries_conf(folder, port)
        podman = Tool([require("podman", "podman")], {**environment, "CONTAINERS_REGISTRIES_CONF": str(conf)})
        podman("pull", REFERENCE)
        assert IMAGE_ID.partition(":")[2] == podman("image", "inspect", "--format={{.Id}}", REFERENCE)
        podman("rmi", REFERENCE)

    def copy_by_skopeo(self, policy, folder, port, target):
        conf = self.registries_conf(folder, port)
        skopeo = Tool([require("skopeo", "skopeo"), f"--policy={policy}", f"--registries-conf={conf}"])
        skopeo("copy", "--all", f"docker://{REFERENCE}", f"oci:{target}:v1")
        assert INDEX.contents == read_layout(target)

    def copy_by_path(self, skopeo, port, target):
        skopeo("copy", "--all", "--src-tls-verify=false", f"docker://127.0.0.1:{port}/{REFERENCE}", f"oci:{target}:v1")
        assert INDEX.contents == read_layout(target)


@pytest.mark.slow
class TestAClientOfApiV1:
    @pytest.mark.parametrize("api", ["v1", "v2"])
    def test_pulls_from_another_registry_with_and_without_it(self, tmp_path, api):
        tree = v1_trees.copy("registry-0.7.1", tmp_path / "source")
        folder = tmp_path / "mirror"
        folder.mkdir()
        with Server(tree, workers=2, REGISTRY_V1="true" if api == "v1" else "false") as source:
            if api == "v2":
                with Client(source.url) as client:
                    push(client, "acme/web", "latest", INDEX)
            with serve(folder, free_port(), source=source.url) as mirror, Docker(mirror.url) as docker:
                pulled = docker.pull("acme/web", "latest")
                source.stop()
                assert pulled == docker.pull("acme/web", "latest")
                assert "Traceback" not in mirror.log.read_text()
        if api == "v2":
            assert [*INDEX.images[0].layers] == [layer for _, _, layer in pulled]
        for text, payload, layer in pulled if api == "v1" else ():
            stored = v1_trees.FIXTURES / "registry-0.7.1" / "images" / text
            assert ((stored / "json").read_bytes(), (stored / "layer").read_bytes()) == (payload, layer)
