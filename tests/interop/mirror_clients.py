"""
Real clients that pull images through a mirror.

Each pulls an image by its reference, checks that it is the expected one, and forgets it. A pull that fails or brings
another image raises AssertionError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from tests.support.clients.go_tools import install
from tests.support.clients.programs import Tool, require
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of, encoded
from tests.support.images import Image, Index, descriptor, read_layout
from tests.support.servers.registry import Server

#: Docker Hub, which no test reaches.
HUB: Final = "https://registry-1.docker.io"


def serve(folder: Path, port: int | None = None, **mirroring: object) -> Server:
    """Return a server that mirrors."""
    settings = {"storage": "file", "storage_path": str(folder / "store"), "mirroring": mirroring}
    (folder / "config.yml").write_text(json.dumps({"dev": settings}))  # JSON is YAML
    return Server(folder / "store", workers=2, port=port, DOCKER_REGISTRY_CONFIG=str(folder / "config.yml"))


def write_hosts(folder: Path, namespace: str, *mirrors: str, server: str = HUB) -> None:
    """
    Write containerd's configuration of the mirrors of a registry.

    Args:
        folder: as in ``--hosts-dir``.
        namespace: the registry, as in names of images.
        mirrors: URLs.
        server: URL of the registry itself, which is asked last.
    """
    hosts = "".join(f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n' for url in mirrors)
    (folder / namespace).mkdir(parents=True, exist_ok=True)
    (folder / namespace / "hosts.toml").write_text(f'server = "{server}"\n{hosts}')


def write_registries(path: Path, *mirrors: str, insecure: Sequence[str] = (), hub: str = "docker.io") -> Path:
    """
    Write registries.conf with the mirrors of Docker Hub.

    Args:
        mirrors: locations.
        insecure: other registries that speak plain HTTP.
        hub: where Docker Hub is, which is asked last.
    """
    tables = [f'[[registry]]\nprefix = "docker.io"\nlocation = "{hub}"\ninsecure = {"true" if ":" in hub else "false"}']
    tables += [f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = true' for location in mirrors]
    tables += [f'[[registry]]\nlocation = "{location}"\ninsecure = true' for location in insecure]
    path.write_text("\n".join(tables) + "\n")
    return path


class Puller(Protocol):
    """A client."""

    def pull(self, reference: str, image: Image | Index) -> None:
        """Pull an image, check it, and forget it."""
        ...


class DockerPuller:
    """Docker with its daemon."""

    def __init__(self, docker: Tool, *, has_containerd_store: bool = False) -> None:
        """
        Args:
            has_containerd_store: the daemon keeps images in containerd, where the digest of a manifest is their id.
        """
        self._docker = docker
        self._has_containerd_store = has_containerd_store

    def pull(self, reference: str, image: Image | Index) -> None:
        self._docker("pull", reference)
        seen = self._docker("image", "inspect", "--format={{.Id}}", reference)
        self._docker("rmi", reference)
        assert (image.digest if self._has_containerd_store else digest_of(_native(image).config)) == seen


class ContainerdPuller:
    """containerd."""

    def __init__(self, ctr: Tool, *options: str) -> None:
        """
        Args:
            options: of each pull.
        """
        self._ctr = ctr
        self._options = options

    def pull(self, reference: str, image: Image | Index) -> None:
        self._ctr("images", "pull", *self._options, "--snapshotter=native", reference)
        listed = self._ctr("images", "ls", f"name=={reference}")
        wanted = _native(image).contents | {image.digest: image.manifest}
        seen = {digest: self._ctr.raw("content", "get", digest) for digest in wanted if image.digest in listed}
        self._ctr("images", "rm", "--sync", reference)
        assert wanted == seen, listed


class PodmanPuller:
    """podman."""

    def __init__(self, environment: Mapping[str, str], registries: Path, program: str | None = None) -> None:
        """
        Args:
            registries: registries.conf.
            program: by default Debian's.
        """
        environment = {**environment, "CONTAINERS_REGISTRIES_CONF": str(registries)}
        self._podman = Tool([program or require("podman", "podman")], environment)

    def pull(self, reference: str, image: Image | Index) -> None:
        self._podman("pull", reference)
        seen = self._podman("image", "inspect", "--format={{.Id}}", reference)
        self._podman("rmi", reference)
        assert digest_of(_native(image).config) == f"sha256:{seen}"


class CopyingPuller:
    """A client that copies an image into a new folder, an OCI image layout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copies = 0

    def pull(self, reference: str, image: Image | Index) -> None:
        self._copies += 1
        target = self._folder / f"copy-{self._copies}"
        self.copy(reference, target)
        assert image.contents == read_layout(target)

    def copy(self, reference: str, target: Path) -> None:
        """Copy an image with all its platforms."""
        raise NotImplementedError


class SkopeoPuller(CopyingPuller):
    """skopeo."""

    def __init__(
        self,
        folder: Path,
        policy: Path,
        registries: Path,
        program: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            policy: a policy for signatures.
            registries: registries.conf.
            program: by default Debian's.
        """
        super().__init__(folder)
        command = [program or require("skopeo", "skopeo"), f"--policy={policy}", f"--registries-conf={registries}"]
        self._skopeo = Tool(command, environment)

    def copy(self, reference: str, target: Path) -> None:
        self._skopeo("copy", "--all", f"docker://{reference}", f"oci:{target}:v1")


class CranePuller(CopyingPuller):
    """crane."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._crane = install("crane", folder)

    def copy(self, reference: str, target: Path) -> None:
        self._crane("pull", "--insecure", "--format=oci", reference, target)


class OrasPuller(CopyingPuller):
    """oras."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._oras = install("oras", folder)

    def copy(self, reference: str, target: Path) -> None:
        self._oras("copy", "--from-plain-http", reference, "--to-oci-layout", f"{target}:v1")


class Helm:
    """helm, with charts of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._helm = install("helm", folder)
        self._pulls = 0

    def make(self, name: str, description: str) -> bytes:
        """Return a chart as helm packages it."""
        folder = self._folder / description
        folder.mkdir()
        self._helm("create", folder / name)
        (folder / name / "values.yaml").write_text(f"description: {description}\n")
        self._helm("package", folder / name, "--destination", folder)
        return (folder / f"{name}-0.1.0.tgz").read_bytes()

    def pull(self, reference: str, content: bytes) -> None:
        """Pull a chart, and check its content."""
        self._pulls += 1
        target = self._folder / f"pull-{self._pulls}"
        target.mkdir()
        name, _, version = reference.rpartition(":")
        self._helm("pull", "--plain-http", f"oci://{name}", f"--version={version}", "--destination", target)
        assert content == (target / f"{name.rpartition('/')[2]}-{version}.tgz").read_bytes()


def push_chart(client: Client, name: str, content: bytes) -> None:
    """Push a chart as helm does."""
    config = json.dumps({"name": name.rpartition("/")[2], "version": "0.1.0"}).encode()
    for blob in (config, content):
        client.push_blob(name, blob)
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(config, "application/vnd.cncf.helm.config.v1+json"),
        "layers": [descriptor(content, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }
    client.put_manifest(name, "0.1.0", encoded(manifest), OCI_MANIFEST)


def _native(image: Image | Index) -> Image:
    """Return the image that clients on this machine pull."""
    return image if isinstance(image, Image) else image.images[0]
