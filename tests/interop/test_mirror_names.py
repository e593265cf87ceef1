"""Names that exist both here and at an upstream: every client gets the image that it means."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.interop.conftest import run_docker
from tests.interop.mirror_clients import (
    ContainerdPuller,
    CranePuller,
    DockerPuller,
    Helm,
    OrasPuller,
    PodmanPuller,
    SkopeoPuller,
    push_chart,
    serve,
    write_hosts,
    write_registries,
)
from tests.support import v1_images, v1_trees
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.processes import free_port
from tests.support.servers.registry import Server
from tests.support.servers.upstream import Upstream
from tests.support.servers.v1_source import serve_tree

#: Both are library/base:v1; the other one is at Docker Hub.
OURS, THEIRS = make_image("ours"), make_image("theirs")

#: A name of this registry, as clusters of kind use one.
ALIAS = "localhost:5001"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names of the image here and at Docker Hub, on a server that mirrors Docker Hub."""
    folder, port = tmp_path_factory.mktemp("mirror"), free_port()
    section = {"hosts": {"localhost": "docker.io"}, "own_names": [ALIAS]}
    with Server(tmp_path_factory.mktemp("hub") / "store") as hub:
        upstream = {"name": "docker.io", "url": hub.url}
        with serve(folder, port, upstreams=[upstream], **section) as mirror:
            for server, image in ((hub, THEIRS), (mirror, OURS)):
                with Client(server.url) as client:
                    push(client, "library/base", "v1", image)
            here = f"127.0.0.1:{port}/library/base:v1"
            there = f"127.0.0.1:{port}/docker.io/library/base:v1"
            yield SimpleNamespace(port=port, here=here, there=there, mirror=mirror, hub=hub)
            assert "Traceback" not in mirror.log.read_text()


@pytest.fixture
def registries(names, tmp_path):
    """registries.conf with the mirror of Docker Hub."""
    host = f"127.0.0.1:{names.port}"
    return write_registries(tmp_path / "registries.conf", f"{host}/docker.io", insecure=[host])


@pytest.mark.slow
class TestANameThatIsHereAndUpstream:
    def test_is_pulled_by_docker(self, names, tmp_path):
        with run_docker(tmp_path, **{"registry-mirrors": [f"http://localhost:{names.port}"]}) as docker:
            for reference, image in (("base:v1", THEIRS), (names.here, OURS), (names.there, THEIRS)):
                DockerPuller(docker).pull(reference, image)

    def test_is_pulled_by_containerd(self, names, ctr, tmp_path):
        for namespace in ("docker.io", "ghcr.io", ALIAS):
            write_hosts(tmp_path, namespace, f"http://127.0.0.1:{names.port}", server="http://127.0.0.1:1")
        containerd = ContainerdPuller(ctr, f"--hosts-dir={tmp_path}")
        containerd.pull("docker.io/library/base:v1", THEIRS)
        containerd.pull(f"{ALIAS}/library/base:v1", OURS)
        with pytest.raises(AssertionError, match=r"127\.0\.0\.1:1"):  # the mirror has no such namespace
            containerd.pull("ghcr.io/library/base:v1", OURS)
        by_name = ContainerdPuller(ctr, "--plain-http")
        by_name.pull(names.here, OURS)
        by_name.pull(names.there, THEIRS)

    def test_is_pulled_by_podman(self, names, containers_environment, registries):
        podman = PodmanPuller(containers_environment, registries)
        for reference, image in (("docker.io/library/base:v1", THEIRS), (names.here, OURS), (names.there, THEIRS)):
            podman.pull(reference, image)

    def test_is_copied_by_skopeo(self, names, policy, registries, tmp_path):
        skopeo = SkopeoPuller(tmp_path, policy, registries)
        for reference, image in (("docker.io/library/base:v1", THEIRS), (names.here, OURS), (names.there, THEIRS)):
            skopeo.pull(reference, image)

    @pytest.mark.parametrize("client", [CranePuller, OrasPuller])
    def test_is_copied_by_name(self, names, client, tmp_path):
        puller = client(tmp_path)
        puller.pull(names.here, OURS)
        puller.pull(names.there, THEIRS)

    def test_is_pulled_by_helm(self, names, tmp_path):
        helm = Helm(tmp_path)
        ours, theirs = helm.make("chart", "ours"), helm.make("chart", "theirs")
        for server, content in ((names.hub, theirs), (names.mirror, ours)):
            with Client(server.url) as client:
                push_chart(client, "charts/chart", content)
        helm.pull(f"127.0.0.1:{names.port}/charts/chart:0.1.0", ours)
        helm.pull(f"127.0.0.1:{names.port}/docker.io/charts/chart:0.1.0", theirs)


@pytest.mark.slow
class TestAnImageOfApiV1ThatIsHereAndAtTheSource:
    def test_is_pulled_from_here(self, tmp_path):
        image = v1_images.make(7)
        with Upstream() as source:
            serve_tree(source, v1_trees.FIXTURES / "registry-0.7.1")
            with serve(tmp_path, source=source.url) as mirror, Docker(mirror.url) as docker:
                docker.push("library/base", "latest", image)
                assert [(image.text, image.payload, image.layer)] == docker.pull("library/base", "latest")
                ((text, _, _),) = docker.pull("base", "latest")
                assert image.text == text
                assert 4 == len(docker.pull("acme/web", "latest"))
