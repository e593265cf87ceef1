"""Real clients that pull images of Docker Hub through the mirror, configured as docs/mirrors.md says."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.interop.conftest import run_docker
from tests.support import access, v1_trees
from tests.support.clients.go_tools import install
from tests.support.clients.programs import Tool, missing, require
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of, encoded
from tests.support.images import descriptor, make_index, push, read_layout
from tests.support.processes import free_port, stop
from tests.support.servers.distribution import find_distribution, serve_distribution
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


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """helm, and a chart as it packages one."""
    folder = tmp_path_factory.mktemp("helm")
    helm = install("helm", folder)
    helm("create", folder / "chart")
    helm("package", folder / "chart", "--destination", folder)
    return helm, (folder / "chart-0.1.0.tgz").read_bytes()


@contextlib.contextmanager
def open_upstream(kind, folder):
    """Run a registry; yield its URL, the settings of an account there, and what stops it."""
    program = find_distribution() or missing("distribution is not installed (Debian package docker-registry)")
    account, settings = {}, {}
    if "htpasswd" in kind:
        account = {"username": "root", "password": f"{access.PASSWORD}root", "insecure": True}
        users = access.write_users(folder / "users", "root")
        settings = {"auth": {"htpasswd": {"realm": "lab", "path": str(users)}}}
    with serve_distribution(program, folder / "store", settings) as peer:
        yield peer.url, account, lambda: stop(peer.process)


def push_chart(client, content):
    """Push a chart as helm does."""
    config = b'{"name": "chart", "version": "0.1.0"}'
    for blob in (config, content):
        client.push_blob("library/chart", blob)
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(config, "application/vnd.cncf.helm.config.v1+json"),
        "layers": [descriptor(content, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }
    client.put_manifest("library/chart", "0.1.0", encoded(manifest), OCI_MANIFEST)


@pytest.mark.slow
class TestClientsOfAMirrorOfDockerHub:
    @pytest.mark.parametrize("kind", ["distribution", "distribution with htpasswd"])
    def test_pull_with_and_without_the_upstream(
        self, kind, tmp_path_factory, ctr, skopeo, containers_environment, policy, chart
    ):
        folder, port, make = tmp_path_factory.mktemp("mirror"), free_port(), tmp_path_factory.mktemp
        crane, oras = (install(name, make(name)) for name in ("crane", "oras"))
        with open_upstream(kind, make("upstream")) as (url, account, stop_upstream):
            with Client(url) as client:
                client.session.auth = (account["username"], account["password"]) if account else None
                push(client, "library/app", "v1", INDEX)
                push_chart(client, chart[1])
            upstream = {"name": "docker.io", "url": url, **account}
            mirrors = {"registry-mirrors": [f"http://localhost:{port}"]}
            with (
                serve(folder, port, upstreams=[upstream], hosts={"localhost": "docker.io"}) as mirror,
                run_docker(make("docker"), **mirrors) as docker,
            ):
                pulls = (
                    lambda: self.pull_by_docker(docker),
                    lambda: self.pull_by_containerd(ctr, folder, port),
                    lambda: self.pull_by_podman(containers_environment, folder, port),
                    lambda: self.copy_by_skopeo(policy, folder, port, make("copy")),
                    lambda: self.copy_by_path(skopeo, port, make("copy")),
                    lambda: self.pull_by_crane(crane, port, make("copy")),
                    lambda: self.copy_by_oras(oras, port, make("copy")),
                    lambda: self.pull_by_helm(*chart, port, make("copy")),
                )
                for pull in pulls:
                    pull()
                stop_upstream()
                for pull in pulls:
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

    def pull_by_crane(self, crane, port, target):
        crane("pull", "--insecure", "--format=oci", f"127.0.0.1:{port}/{REFERENCE}", target)
        assert INDEX.contents == read_layout(target)

    def copy_by_oras(self, oras, port, target):
        oras("copy", "--from-plain-http", f"127.0.0.1:{port}/{REFERENCE}", "--to-oci-layout", f"{target}:v1")
        assert INDEX.contents == read_layout(target)

    def pull_by_helm(self, helm, content, port, target):
        chart = f"oci://127.0.0.1:{port}/docker.io/library/chart"
        helm("pull", "--plain-http", chart, "--version=0.1.0", "--destination", target)
        assert content == (target / "chart-0.1.0.tgz").read_bytes()


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
