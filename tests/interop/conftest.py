"""
The real clients, each with its own home folder and without the machine's configuration.

Everything runs on loopback over plain HTTP, without a network; images are generated. A daemon that a client needs
runs for the whole session and is stopped by its process id.
"""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest

from tests.support.clients.programs import Tool, missing, require, require_root
from tests.support.clients.v2 import Client
from tests.support.images import make_index, make_tar, write_layout
from tests.support.processes import running
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import Server

_numbers = itertools.count()


@pytest.fixture(scope="session", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids=["1-worker", "2-workers"])
def server(request, tmp_path_factory):
    """The registry that all clients talk to."""
    with Server(tmp_path_factory.mktemp("interop") / "store", workers=request.param) as server:
        yield server


@pytest.fixture
def reader(server):
    """An independent reader, which verifies what the registry serves."""
    with Client(server.url) as client:
        yield client


@pytest.fixture
def name():
    """A repository that no other test uses."""
    return f"lab/n{next(_numbers)}"


@pytest.fixture
def host(server):
    """The registry as the first part of image names."""
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def layouts(tmp_path_factory):
    """Make OCI image layouts on disk."""

    def write(image, tag="v1"):
        folder = tmp_path_factory.mktemp("layout")
        write_layout(folder, image, tag)
        return folder

    return write


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """A signature policy for containers/image: a machine may have none, or a strict one."""
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return path


@pytest.fixture(scope="session")
def skopeo(tmp_path_factory, policy):
    program = require("skopeo", "skopeo")
    home = tmp_path_factory.mktemp("skopeo")
    return Tool([program, f"--policy={policy}"], {"HOME": str(home), "TMPDIR": str(home)})


@pytest.fixture(scope="session")
def containers_environment(tmp_path_factory):
    """The configuration of podman and buildah, and their storage."""
    require_root()
    home = tmp_path_factory.mktemp("containers")
    files = {
        "storage.conf": f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/storage"\nrunroot = "{home}/run"\n',
        "registries.conf": 'unqualified-search-registries = []\nshort-name-mode = "disabled"\n',
        "containers.conf": f"""
            [engine]
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            lock_type = "file"
            tmp_dir = "{home}/libpod"
            """,
    }
    for file, content in files.items():
        (home / file).write_text(content)
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "CONTAINERS_CONF": str(home / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
        "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
    }


@pytest.fixture(scope="session")
def podman(containers_environment):
    return Tool([require("podman", "podman")], containers_environment)


@pytest.fixture(scope="session")
def buildah(containers_environment):
    return Tool([require("buildah", "buildah")], containers_environment)


@contextlib.contextmanager
def run_docker(folder, daemon=None, environment=None, storage="vfs", **settings):
    """
    Run Docker with its own daemon.

    Args:
        daemon: its program; by default Debian's.
        environment: of the daemon.
        storage: its storage driver, or snapshotter.
        settings: of the daemon.
    """
    require_root()
    program, daemon = require("docker", "docker.io"), str(daemon or require("dockerd", "docker.io"))
    (folder / "daemon.json").write_text(json.dumps(settings))
    address = f"unix://{folder}/docker.sock"
    command = [
        daemon, f"--storage-driver={storage}", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
        "--bridge=none",
        f"--config-file={folder}/daemon.json", f"--data-root={folder}/data", f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid", f"--host={address}",
    ]  # fmt: skip
    variables = {"DOCKER_CONFIG": str(folder / "config"), "DOCKER_BUILDKIT": "0"}
    client = Tool([program, f"--host={address}"], variables)

    def is_ready():
        with contextlib.suppress(AssertionError):
            client("version")
            return True
        return False

    with running(command, folder / "log", is_ready, environment):
        yield client


@pytest.fixture(scope="session")
def docker(tmp_path_factory):
    """Docker, with its own daemon."""
    with run_docker(tmp_path_factory.mktemp("docker")) as client:
        yield client


@contextlib.contextmanager
def run_containerd(folder, program=None, daemon=None, environment=None):
    """
    Run containerd with its own daemon.

    Args:
        program: the client; by default Debian's.
        daemon: the daemon; by default Debian's.
        environment: of both.
    """
    require_root()
    program, daemon = str(program or require("ctr", "containerd")), str(daemon or require("containerd", "containerd"))
    (folder / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    command = [
        daemon, f"--config={folder}/config.toml", f"--root={folder}/root", f"--state={folder}/state",
        f"--address={folder}/containerd.sock",
    ]  # fmt: skip
    client = Tool([program, f"--address={folder}/containerd.sock", "--namespace=lab"], environment)

    def is_ready():
        with contextlib.suppress(AssertionError):
            client("version")
            return True
        return False

    with running(command, folder / "log", is_ready, environment):
        yield client


@pytest.fixture(scope="session")
def ctr(tmp_path_factory):
    """containerd, with its own daemon and its client."""
    with run_containerd(tmp_path_factory.mktemp("containerd")) as client:
        yield client


@pytest.fixture
def tree():
    """The files of a new image, as a tar."""
    return make_tar({"file": f"content {next(_numbers)}".encode() * 5000})


@pytest.fixture
def index():
    """A new image for two platforms."""
    return make_index(next(_numbers))


@pytest.fixture(scope="session")
def distribution():
    """Run the peer on a store for the duration of a ``with`` block."""
    program = find_distribution() or missing("distribution is not installed (Debian package docker-registry)")
    return lambda store: serve_distribution(program, store)
