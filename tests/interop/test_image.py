"""The container image: built by buildah on a base of Debian, run, and pushed to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
import requests
import yaml

from docker_registry import __version__
from docker_registry.config.distribution_keys import KEYS
from tests.support.clients.programs import require
from tests.support.clients.v2 import Client
from tests.support.images import make_image, pull, push
from tests.support.processes import free_port, listens, running
from tests.support.servers.registry import Server
from tests.support.servers.seaweedfs import ACCESS_KEY, BUCKET, SECRET_KEY, run_seaweedfs
from tests.support.servers.template import ROOT
from tests.support.servers.upstream import Upstream

ISOLATION = ("--isolation=chroot", "--network=host")
ENTRY_POINT = ("--", "docker-registry-entrypoint")
MAX_BYTES = 120 * 10**6

#: Installing all extras takes a minute on an idle machine.
BUILD_SECONDS = 1800

IMAGE = make_image("contained")
USERS = f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The tree of Debian with Python, in place of python:slim."""
    folder = tmp_path_factory.mktemp("base")
    packages = "--include=ca-certificates,python3,python3-venv"
    command = [require("debootstrap", "debootstrap"), "--variant=minbase", packages, "bookworm", str(folder / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert 0 == done.returncode, done.stdout[-2000:]
    # What the slim images leave out, too.
    for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        subprocess.run(["rm", "-rf", str(folder / "root" / path)], check=True)
    (folder / "root/usr/share/doc").mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
    return folder


@pytest.fixture(scope="module")
def image(buildah, containers_environment, base):
    """The name of the built image."""
    buildah("bud", *ISOLATION, "--tag", "base", base)
    # pip trusts the certificates of this machine.
    mounted = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if os.path.exists(path)]
    command = [
        require("buildah", "buildah"), "bud", *ISOLATION, "--pull-never", "--format=docker",
        "--build-arg=BASE=localhost/base", *mounted, "--tag", "docker-registry", str(ROOT),
    ]  # fmt: skip
    environment = {**os.environ, **containers_environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert 0 == done.returncode, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return "docker-registry"


@pytest.fixture
def container(buildah, image):
    name = buildah("from", image)
    yield name
    buildah("rm", name)


@pytest.fixture
def run(containers_environment, container, tmp_path):
    """Run a server in the container for the duration of a ``with`` block; yields its URL."""

    @contextmanager
    def run(*options, owner=999, command=("docker-registry",), **environment):
        port = free_port()
        volume = tmp_path / "volume"
        volume.mkdir(exist_ok=True)
        os.chown(volume, owner, owner)
        variables = {"REGISTRY_PORT": str(port), "GUNICORN_WORKERS": "1", "REGISTRY_DRAIN_DELAY": "0", **environment}
        arguments = [
            require("buildah", "buildah"), "run", *ISOLATION, f"--volume={volume}:/var/lib/registry",
            *(f"--env={name}={value}" for name, value in variables.items()),
            *options, container, *ENTRY_POINT, *command,
        ]  # fmt: skip
        with running(arguments, tmp_path / f"log-{port}", lambda: listens(port), containers_environment):
            yield f"http://127.0.0.1:{port}"

    return run


def users_of(url):
    """
    The effective users of the processes of a server, found by the port in their environment.

    They are no children of the main thread of buildah, so /proc/PID/task/PID/children does not lead to them.
    """
    variable, found = f"REGISTRY_PORT={url.rpartition(':')[2]}".encode(), set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            is_server = b"docker-registry\0" in command and b"buildah" not in command
            if is_server and variable in (folder / "environ").read_bytes().split(b"\0"):
                status = (folder / "status").read_text()
                found.add(int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[2]))
    return found


def push_and_pull(url):
    with Client(url) as client:
        push(client, "team/app", "v1", IMAGE)
        assert IMAGE.contents == pull(client, "team/app", "v1")


@pytest.mark.slow
class TestTheImage:
    def test_states_how_it_is_run(self, buildah, image, tmp_path):
        config = json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]
        assert "999:999" == config["User"]
        assert {"/var/lib/registry": {}} == config["Volumes"]
        assert {"5000/tcp": {}} == config["ExposedPorts"]
        assert ["CMD", "docker-registry-entrypoint", "healthcheck"] == config["Healthcheck"]["Test"]
        labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
        assert {"title", "description", "licenses", "source", "url", "documentation"} <= labels.keys()
        assert __version__ == labels["version"]
        assert not [entry for entry in config["Env"] if entry.startswith("STORAGE_PATH=")]

        buildah("push", "--compression-format=gzip", image, f"oci:{tmp_path}/layout:1")
        assert MAX_BYTES > sum(path.stat().st_size for path in (tmp_path / "layout/blobs").rglob("*") if path.is_file())

    def test_serves_writes_only_to_its_volume_and_is_healthy(self, buildah, container, run, skopeo, layouts, tmp_path):
        root, marker = Path(buildah("mount", container)), tmp_path / "marker"
        marker.write_text("")
        with run() as url:
            push_and_pull(url)
            name = f"docker://{url.removeprefix('http://')}/team/skopeo:v1"
            skopeo("copy", "--dest-tls-verify=false", f"oci:{layouts(IMAGE)}:v1", name)
            assert IMAGE.digest == json.loads(skopeo("inspect", "--tls-verify=false", name))["Digest"]
            assert {999} == users_of(url)
            probe = [f"--env=REGISTRY_PORT={url.rpartition(':')[2]}", container, *ENTRY_POINT, "healthcheck"]
            buildah("run", *ISOLATION, *probe)
        with pytest.raises(AssertionError, match="refused"):
            buildah("run", *ISOLATION, *probe)
        # Those in /etc and /run are mounts of buildah.
        kept_out = [option for path in ("tmp", "run", "etc") for option in ("-not", "-path", f"./{path}/*")]
        command = ["find", ".", "-newer", str(marker), "-type", "f", *kept_out]
        assert "" == subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout

    @pytest.mark.parametrize("owner", [1234, 0])
    def test_run_by_root_serves_as_the_owner_of_the_volume(self, run, owner, tmp_path):
        with run("--user=0:0", owner=owner) as url:
            push_and_pull(url)
            assert {0, owner} == users_of(url)
        files = [path for path in (tmp_path / "volume").rglob("*") if path.is_file()]
        assert {owner} == {path.stat().st_uid for path in files}

    def test_understands_the_command_file_and_variables_of_registry_2(self, run, tmp_path):
        folder = tmp_path / "volume"
        folder.mkdir()
        (folder / "config.yml").write_text(
            "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry/images}}\n"
        )
        with run(command=("serve", "/var/lib/registry/config.yml")) as url:
            push_and_pull(url)
        assert (folder / "images/docker/registry/v2/repositories/team/app").is_dir()

        (folder / "users").write_text(USERS)
        names = {"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH": "/var/lib/registry/users"}
        with run(REGISTRY_AUTH_HTPASSWD_REALM="x", **names) as url:
            refused = requests.get(f"{url}/v2/", timeout=60)
            assert (401, "Basic") == (refused.status_code, refused.headers["WWW-Authenticate"][:5])
            assert 200 == requests.get(f"{url}/v2/", auth=("alice", "wonderland"), timeout=60).status_code

    def test_serves_a_bucket_by_the_variables_of_0_7(self, run):
        with run_seaweedfs() as store:
            store.connect().list_buckets()
            variables = {
                "SETTINGS_FLAVOR": "s3", "AWS_BUCKET": BUCKET, "AWS_KEY": ACCESS_KEY, "AWS_SECRET": SECRET_KEY,
                "AWS_ENDPOINT_URL": store.endpoint, "AWS_SECURE": "false", "AWS_ENCRYPT": "false",
            }  # fmt: skip
            with run(**variables) as url:
                push_and_pull(url)
            assert store.connect().list_objects_v2(Bucket=BUCKET, Prefix="registry/")["Contents"]

    def test_continues_the_volume_of_a_server_outside(self, run, tmp_path):
        with Server(tmp_path / "volume") as server:
            push_and_pull(server.url)
        subprocess.run(["chown", "-R", "999:999", str(tmp_path / "volume")], check=True)
        with run() as url, Client(url) as client:
            assert ["v1"] == client.tags("team/app")


class TestTheFilesOfTheImage:
    def test_have_the_version_of_the_package(self):
        assert f'org.opencontainers.image.version="{__version__}"' in (ROOT / "Dockerfile").read_text()

    def test_choose_the_file_that_variables_override(self, tmp_path):
        chosen = "/usr/share/docker-registry/distribution.yml"
        script = (ROOT / "contrib/image/entrypoint").read_text()
        entry_point = tmp_path / "entrypoint"
        entry_point.write_text(script.replace("/etc/", f"{tmp_path}/"))  # a machine may have such files

        def run(**variables):
            environment = {"PATH": os.environ["PATH"], "GUNICORN_USER": "x", "SETTINGS_FLAVOR": "local", **variables}
            command = ["sh", str(entry_point), "sh", "-c", "echo ${DOCKER_REGISTRY_CONFIG:-none}"]
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        sample = (ROOT / "config/config_sample.yml").read_text()
        ours = {*re.findall(r"_env:(REGISTRY_\w+)", sample), "REGISTRY_HOST", "REGISTRY_PORT"}
        of_services = {
            f"REGISTRY_HTTP_{name}" for name in ("PORT", "PORT_5000_TCP", "SERVICE_HOST", "SERVICE_PORT_WEB")
        }
        assert "none" == run(**dict.fromkeys(ours | of_services, "x")).stdout.strip()
        theirs = {f"REGISTRY_{key.upper().replace('.', '_')}" for key in KEYS} - {"REGISTRY_VERSION"} - ours
        # One of each section: each takes five processes.
        for name in {name.split("_")[1 : 4 if "_AUTH_" in name else 2][-1]: name for name in sorted(theirs)}.values():
            assert (name, chosen) == (name, run(**{name: "x"}).stdout.strip())
        assert 2 == run(REGISTRY_AUTH="htpasswd", SETTINGS_FLAVOR="s3").returncode
        # Variables that would have no effect beside them.
        flavors = yaml.safe_load(sample)
        plain = {*re.findall(r"_env:(\w+)", f"{flavors['common']}{flavors['local']}")} - ours
        refused = run(REGISTRY_HTTP_SECRET="x", **dict.fromkeys(plain, "x"))
        assert (2, "") == (refused.returncode, refused.stdout)
        assert {"REGISTRY_HTTP_SECRET", *plain} == set(re.findall("[A-Z0-9_]{7,}", refused.stderr))
        assert 2 == run(REGISTRY_HTTP_SECRET="x", STORAGE_PATH="/data").returncode
        assert chosen == run(REGISTRY_HTTP_SECRET="x", STORAGE_PATH="", SMTP_PORT="tcp://10.0.0.1:25").stdout.strip()
        assert "mine.yml" == run(REGISTRY_AUTH="x", DOCKER_REGISTRY_CONFIG="mine.yml").stdout.strip()

    def test_check_the_health_at_the_port_that_a_file_names(self, tmp_path):
        program = re.search(r"<<'PYTHON'\n(.*?)\nPYTHON", (ROOT / "contrib/image/entrypoint").read_text(), re.DOTALL)[1]
        with Upstream() as server:
            config = tmp_path / "config.yml"
            config.write_text(f"version: 0.1\nstorage: {{inmemory: {{}}}}\nhttp: {{addr: ':{server.port}'}}\n")
            environment = {**os.environ, "DOCKER_REGISTRY_CONFIG": str(config)}
            for given in ({}, {"REGISTRY_PORT": "tcp://10.0.0.1:80"}, {"REGISTRY_PORT": str(server.port)}):
                subprocess.run([sys.executable, "-c", program], env=environment | given, check=True)
        assert 1 == subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode
