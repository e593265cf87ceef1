"""The snippets of docs/mirrors.md for clients: real clients use them word for word."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from pathlib import Path

import pytest

from tests.interop.conftest import run_containerd, run_docker
from tests.interop.mirror_clients import ContainerdPuller, DockerPuller, PodmanPuller, SkopeoPuller
from tests.support.certificates import Authority
from tests.support.clients.go_tools import build
from tests.support.clients.programs import Tool, require, require_root
from tests.support.clients.v2 import digest_of
from tests.support.images import make_image, read_layout
from tests.support.processes import running
from tests.support.servers.registry import START_SECONDS, TlsServer
from tests.support.servers.template import ROOT
from tests.support.servers.upstream import Upstream
from tests.support.timing import wait_until

IMAGE = make_image("configured")
REFERENCE = "docker.io/library/app:v1"

#: The names of the mirror in the page.
HOSTS = ("registry.example", "hub.example.com")

PAGE = (ROOT / "docs" / "mirrors.md").read_text()


def snippet(section, language):
    """Return the first code of a section."""
    text = PAGE.partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


class SecureServer(TlsServer):
    """A server on the usual port of another loopback address."""

    def _wait(self):
        def is_ready():
            with contextlib.suppress(OSError):
                socket.create_connection((self.environment["REGISTRY_HOST"], self.port), 1).close()
                return True
            return self.process.poll() is not None

        wait_until(is_ready, self.log.read_text, START_SECONDS)


class Network:
    """
    What clients find under the names in the page.

    Attributes:
        variables: let clients trust the certificate of the mirror.
    """

    def __init__(self, folder, address, authority):
        self._folder = folder
        self.variables = {"SSL_CERT_FILE": str(authority.file)}
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {' '.join(HOSTS)}\n")

    def program(self, path):
        """Return a program that runs another one in a mount namespace in which the names have the address."""
        script = self._folder / Path(path).name
        mount = f"mount --bind {self._folder}/hosts /etc/hosts"
        script.write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{mount} && exec {path} "$@"\' sh "$@"\n')
        script.chmod(0o755)
        return str(script)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A mirror of Docker Hub under the names in the page."""
    require_root()
    folder = tmp_path_factory.mktemp("network")
    authority = Authority(folder)
    certificate, key = authority.issue(HOSTS[0], others=HOSTS[1:])
    address = f"127.27.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    with Upstream() as upstream:
        upstream.add("library/app", "v1", IMAGE)
        section = {"upstreams": [{"name": "docker.io", "url": upstream.url}], "hosts": {HOSTS[1]: "docker.io"}}
        config = {"storage": "file", "storage_path": str(folder / "store"), "mirroring": section}
        config["tls"] = {"certificate": str(certificate), "key": str(key)}
        (folder / "config.yml").write_text(json.dumps({"dev": config}))  # JSON is YAML
        variables = {"DOCKER_REGISTRY_CONFIG": str(folder / "config.yml"), "REGISTRY_HOST": address}
        with SecureServer(folder / "store", port=443, **variables) as server:
            yield Network(folder, address, authority)
            assert "Traceback" not in server.log.read_text()


@pytest.fixture
def hosts(tmp_path):
    """containerd's folder of configurations."""
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text(snippet("containerd and k3s", "toml"))
    return tmp_path


@pytest.fixture
def registries(tmp_path):
    path = tmp_path / "registries.conf"
    path.write_text(snippet("podman, buildah, skopeo and CRI-O", "toml"))
    return path


@pytest.mark.slow
class TestTheSnippets:
    def test_configure_docker(self, network, tmp_path):
        settings = json.loads(re.search(r"`(\{\"registry-mirrors\".*?\})`", PAGE)[1])
        daemon = network.program(require("dockerd", "docker.io"))
        with run_docker(tmp_path, daemon, network.variables, **settings) as docker:
            DockerPuller(docker).pull("app:v1", IMAGE)

    def test_configure_docker_with_the_containerd_store(self, network, tmp_path):
        settings = json.loads(re.search(r"`(\{\"registry-mirrors\".*?\})`", PAGE)[1])
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_MIN_API_VERSION": "1.40"}
        build("containerd", tmp_path)
        daemon = network.program(build("dockerd", tmp_path))
        with run_docker(tmp_path, daemon, {**network.variables, **variables}, "native", **settings) as docker:
            DockerPuller(docker, has_containerd_store=True).pull("app:v1", IMAGE)

    @pytest.mark.parametrize("version", ["of Debian", "current"])
    def test_configure_containerd(self, network, hosts, version, tmp_path):
        is_current = version == "current"
        client = build("ctr", tmp_path) if is_current else require("ctr", "containerd")
        daemon = build("containerd", tmp_path) if is_current else None
        with run_containerd(tmp_path, network.program(client), daemon, network.variables) as ctr:
            # The daemon of the current version pulls itself, unless it is told not to.
            options = (f"--hosts-dir={hosts}", *(("--local",) if is_current else ()))
            ContainerdPuller(ctr, *options).pull(REFERENCE, IMAGE)

    def test_configure_podman(self, network, containers_environment, registries):
        environment = {**containers_environment, **network.variables}
        PodmanPuller(environment, registries, network.program(require("podman", "podman"))).pull(REFERENCE, IMAGE)

    def test_configure_skopeo(self, network, policy, registries, tmp_path):
        program = network.program(require("skopeo", "skopeo"))
        SkopeoPuller(tmp_path, policy, registries, program, network.variables).pull(REFERENCE, IMAGE)

    def test_configure_buildkit(self, network, tmp_path):
        (tmp_path / "buildkitd.toml").write_text(snippet("BuildKit", "toml"))
        address = f"unix://{tmp_path}/buildkitd.sock"
        daemon = [network.program(build("buildkitd", tmp_path)), f"--config={tmp_path}/buildkitd.toml"]
        daemon += [f"--root={tmp_path}/root", f"--addr={address}", "--oci-worker-snapshotter=native"]
        client = Tool([str(build("buildctl", tmp_path)), f"--addr={address}"], {})
        (tmp_path / "context").mkdir()
        (tmp_path / "context" / "Dockerfile").write_text(f"FROM {REFERENCE}\n")
        with running(daemon, tmp_path / "log", (tmp_path / "buildkitd.sock").exists, network.variables):
            folder, target = tmp_path / "context", tmp_path / "built"
            options = ["--frontend=dockerfile.v0", f"--local=context={folder}", f"--local=dockerfile={folder}"]
            client("build", *options, f"--output=type=oci,tar=false,dest={target}")
        assert {digest_of(layer) for layer in IMAGE.layers} <= read_layout(target).keys()
