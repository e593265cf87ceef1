"""Real clients that pull images of Docker Hub through the mirror, configured as docs/mirrors.md says."""

from __future__ import annotations

import contextlib

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
from tests.support import access, v1_trees
from tests.support.clients.programs import missing
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.images import make_index, push
from tests.support.processes import free_port, stop
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import Server

INDEX = make_index("clients")

#: What clients call the image.
REFERENCE = "docker.io/library/app:v1"

#: An account of an upstream that only it may pull from.
ACCOUNT = {"username": "root", "password": f"{access.PASSWORD}root", "insecure": True}


@contextlib.contextmanager
def open_upstream(kind, folder):
    """Run a registry; yield its URL, the settings of an account there, and what stops it."""
    if kind == "ours with tokens":
        with Server(folder / "store", REGISTRY_AUTH_CHALLENGE="bearer", **access.settings(folder)) as server:
            yield server.url, ACCOUNT, server.stop
        return
    program = find_distribution() or missing("distribution is not installed (Debian package docker-registry)")
    settings = {}
    if kind == "distribution with htpasswd":
        users = access.write_users(folder / "users", "root")
        settings = {"auth": {"htpasswd": {"realm": "lab", "path": str(users)}}}
    with serve_distribution(program, folder / "store", settings) as peer:
        yield peer.url, ACCOUNT if settings else {}, lambda: stop(peer.process)


def log_in(client, account):
    """Show a client's account with its requests, if there is one."""
    if account:
        client.session.auth = (account["username"], account["password"])


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def chart(helm):
    return helm.make("chart", "a chart")


@pytest.mark.slow
class TestClientsOfAMirrorOfDockerHub:
    @pytest.mark.parametrize("kind", ["distribution", "distribution with htpasswd", "ours with tokens"])
    def test_pull_with_and_without_the_upstream(
        self, kind, tmp_path_factory, ctr, containers_environment, policy, helm, chart
    ):
        folder, port, make = tmp_path_factory.mktemp("mirror"), free_port(), tmp_path_factory.mktemp
        by_name = f"127.0.0.1:{port}/{REFERENCE}"
        write_hosts(folder / "certs.d", "docker.io", f"http://127.0.0.1:{port}")
        location, insecure = f"127.0.0.1:{port}/docker.io", [f"127.0.0.1:{port}"]
        registries = write_registries(folder / "registries.conf", location, insecure=insecure)
        skopeo = SkopeoPuller(make("skopeo"), policy, registries)
        crane, oras = CranePuller(make("crane")), OrasPuller(make("oras"))
        containerd = ContainerdPuller(ctr, f"--hosts-dir={folder}/certs.d")
        podman = PodmanPuller(containers_environment, registries)
        with open_upstream(kind, make("upstream")) as (url, account, stop_upstream):
            with Client(url) as client:
                log_in(client, account)
                push(client, "library/app", "v1", INDEX)
                push_chart(client, "library/chart", chart)
            upstream = {"name": "docker.io", "url": url, **account}
            mirrors = {"registry-mirrors": [f"http://localhost:{port}"]}
            with (
                serve(folder, port, upstreams=[upstream], hosts={"localhost": "docker.io"}) as mirror,
                run_docker(make("docker"), **mirrors) as docker,
            ):
                for is_running in (True, False):
                    if not is_running:
                        stop_upstream()
                    DockerPuller(docker).pull("app:v1", INDEX)
                    containerd.pull(REFERENCE, INDEX)
                    podman.pull(REFERENCE, INDEX)
                    skopeo.pull(REFERENCE, INDEX)
                    for client in (skopeo, crane, oras):
                        client.pull(by_name, INDEX)
                    helm.pull(f"127.0.0.1:{port}/docker.io/library/chart:0.1.0", chart)
                assert "Traceback" not in mirror.log.read_text()


@pytest.mark.slow
class TestAClientOfApiV1:
    @pytest.mark.parametrize("account", [{}, ACCOUNT], ids=["open", "with tokens"])
    @pytest.mark.parametrize("api", ["v1", "v2"])
    def test_pulls_from_another_registry_with_and_without_it(self, tmp_path, api, account):
        tree = v1_trees.copy("registry-0.7.1", tmp_path / "source")
        folder = tmp_path / "mirror"
        folder.mkdir()
        variables = {"REGISTRY_V1": "true" if api == "v1" else "false"}
        if account:
            variables |= {"REGISTRY_AUTH_CHALLENGE": "bearer", **access.settings(tmp_path / "access")}
        with Server(tree, workers=2, **variables) as source:
            if api == "v2":
                with Client(source.url) as client:
                    log_in(client, account)
                    push(client, "acme/web", "latest", INDEX)
            upstreams = [{"name": "source.example", "url": source.url, **account}] if account else []
            with serve(folder, source=source.url, upstreams=upstreams) as mirror, Docker(mirror.url) as docker:
                pulled = docker.pull("acme/web", "latest")
                source.stop()
                assert pulled == docker.pull("acme/web", "latest")
                assert "Traceback" not in mirror.log.read_text()
        if api == "v2":
            assert [*INDEX.images[0].layers] == [layer for _, _, layer in pulled]
        for text, payload, layer in pulled if api == "v1" else ():
            stored = v1_trees.FIXTURES / "registry-0.7.1" / "images" / text
            assert ((stored / "json").read_bytes(), (stored / "layer").read_bytes()) == (payload, layer)
