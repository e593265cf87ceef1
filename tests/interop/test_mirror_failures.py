"""Real clients of a mirror whose upstream fails: they go on to the next host, and print its warnings."""

from __future__ import annotations

import os
import re
import subprocess
import time
from types import SimpleNamespace

import pytest
import requests

from tests.interop.conftest import run_docker
from tests.interop.mirror_clients import (
    ContainerdPuller,
    DockerPuller,
    PodmanPuller,
    SkopeoPuller,
    serve,
    write_hosts,
    write_registries,
)
from tests.support.clients import programs
from tests.support.clients.go_tools import install
from tests.support.clients.programs import Tool
from tests.support.images import make_image
from tests.support.processes import find, free_port
from tests.support.servers.upstream import Answer, Upstream

IMAGE = make_image("falls back", layer_bytes=400_000)
NAME = "library/app"
REFERENCE = f"docker.io/{NAME}:v1"

#: The status of a mirror whose upstream does not answer in time.
LATE = 504

#: What clients print about a tag that the upstream cannot confirm.
WARNING = re.compile(r"docker\.io is not reachable; this tag was checked [0-9]+ (second|minute)s? ago")

#: Resolve a reference, the second argument, with the library of containerd.
CONTAINERD = """
package main

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

func main() {
	options := config.HostOptions{HostDir: config.HostDirFromRoot(os.Args[1])}
	hosts := config.ConfigureHosts(context.Background(), options)
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: hosts, WarningHandler: docker.LogWarningHandler{}})
	if _, _, err := resolver.Resolve(context.Background(), os.Args[2]); err != nil {
		panic(err)
	}
}
"""


def build_containerd(folder):
    """Build a client with the library of containerd, as containerd's own programs do not print warnings, as of 2.4."""
    go = find("go") or programs.missing("Go is not installed")
    (folder / "main.go").write_text(CONTAINERD)
    required = "github.com/containerd/containerd/v2 v2.4.2"
    (folder / "go.mod").write_text(f"module client\n\ngo 1.26\n\nrequire {required}\n")
    variables = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    subprocess.run([go, "build", "-o", "client", "."], cwd=folder, env=variables, check=True, timeout=900)
    return Tool([str(folder / "client"), str(folder / "certs.d")])


def answer_late(path, headers):
    """Answer long after the timeout of the mirror."""
    time.sleep(30)


#: What the upstream of the mirror does, by the status of the mirror.
FAULTS = {
    # podman and skopeo wait so long before each of five attempts.
    429: lambda path, headers: Answer(status=429, headers={"Retry-After": "1"}),
    502: lambda path, headers: Answer(status=500),
    503: lambda path, headers: Answer(raw=b""),
    LATE: answer_late,
}


def cut_blobs(path, headers):
    """Send half of each blob, and no other part of it."""
    if "/blobs/" not in path:
        return None
    content = IMAGE.blobs[path.rpartition("/")[2]]
    return Answer(raw=b"") if "range" in headers else Answer(content[: len(content) // 2], announced=len(content))


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def origin():
    """The registry that the mirror mirrors, as its clients reach it."""
    with Upstream() as origin:
        origin.contents[""] = Answer(b"{}")  # podman asks for it first
        origin.add(NAME, "v1", IMAGE)
        yield origin


@pytest.fixture(scope="module")
def clients(tmp_path_factory, port, origin, ctr, containers_environment, policy):
    """Clients that ask the mirror first, and then the origin."""
    folder, make = tmp_path_factory.mktemp("configuration"), tmp_path_factory.mktemp
    write_hosts(folder / "certs.d", "docker.io", f"http://127.0.0.1:{port}", server=origin.url)
    registries = write_registries(
        folder / "registries.conf", f"127.0.0.1:{port}/docker.io", hub=f"127.0.0.1:{origin.port}"
    )
    mirrors = [f"http://localhost:{port}", origin.url]  # dockerd knows no other address of Docker Hub
    with run_docker(make("docker"), **{"registry-mirrors": mirrors, "max-download-attempts": 1}) as docker:
        yield {
            "docker": DockerPuller(docker),
            "containerd": ContainerdPuller(ctr, f"--hosts-dir={folder}/certs.d"),
            "podman": PodmanPuller(containers_environment, registries),
            "skopeo": SkopeoPuller(make("skopeo"), policy, registries),
        }


@pytest.fixture
def mirror(tmp_path, port, request):
    """A mirror of an upstream that fails."""
    is_late = request.node.callspec.params.get("status") == LATE
    with Upstream() as upstream:
        upstream.add(NAME, "v1", IMAGE)
        section = {"name": "docker.io", "url": upstream.url, "timeout": 2 if is_late else 60, "ttl": 0}
        with serve(tmp_path, port, upstreams=[section], hosts={"localhost": "docker.io"}) as server:
            yield SimpleNamespace(upstream=upstream, url=server.url, log=server.log)
            assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
class TestAMirrorWhoseUpstreamFails:
    @pytest.mark.parametrize("client", ["docker", "containerd", "podman", "skopeo"])
    @pytest.mark.parametrize("status", FAULTS)
    def test_lets_clients_go_on_to_the_next_host(self, mirror, origin, clients, client, status):
        mirror.upstream.guard = FAULTS[status]
        answer = requests.get(f"{mirror.url}/v2/docker.io/{NAME}/manifests/v1", timeout=60)
        assert status == answer.status_code
        origin.requests.clear()
        clients[client].pull(REFERENCE, IMAGE)
        assert f"{NAME}/manifests/v1" in {path.partition("?")[0] for path in origin.asked()}

    @pytest.mark.parametrize("client", ["docker", "containerd"])
    def test_lets_clients_go_on_after_a_cut_connection(self, mirror, origin, clients, client):
        mirror.upstream.guard = cut_blobs
        origin.requests.clear()
        clients[client].pull(REFERENCE, IMAGE)
        for registry in (mirror.upstream, origin):
            assert any("/blobs/" in path for path in registry.asked())

    @pytest.mark.parametrize("client", ["podman", "skopeo"])
    def test_cuts_connections_of_clients_that_choose_a_host_by_the_manifest(self, mirror, origin, clients, client):
        mirror.upstream.guard = cut_blobs
        origin.requests.clear()
        with pytest.raises(AssertionError, match=r"blob: .*(503|unexpected EOF)"):
            clients[client].pull(REFERENCE, IMAGE)
        assert not any("/blobs/" in path for path in origin.asked())


@pytest.mark.slow
class TestAMirrorWhoseUpstreamIsAway:
    @pytest.mark.parametrize("client", ["oras", "crane", "regctl", "containerd"])
    def test_lets_clients_print_its_warning(self, mirror, client, port, tmp_path):
        answer = requests.get(f"{mirror.url}/v2/docker.io/{NAME}/manifests/v1", timeout=60)
        assert 200 == answer.status_code
        mirror.upstream.stop()
        here = f"127.0.0.1:{port}/{REFERENCE}"
        if client == "containerd":
            write_hosts(tmp_path / "certs.d", "docker.io", f"http://127.0.0.1:{port}")
            printed = build_containerd(tmp_path).log(REFERENCE)
        else:
            command = {
                "oras": ("manifest", "fetch", "--plain-http", here),
                "crane": ("manifest", "--insecure", here),
                "regctl": ("manifest", "get", f"--host=reg=127.0.0.1:{port},tls=disabled", here),
            }[client]
            printed = install(client, tmp_path).log(*command)
        assert WARNING.search(printed), printed
