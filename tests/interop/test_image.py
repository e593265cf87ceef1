"""The container image: built by buildah on a base of Debian, run, and pushed to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bcrypt
import pytest
import requests

from docker_registry import __version__
from docker_registry.config.distribution_keys import KEYS
from tests.support.clients.programs import require
from tests.support.clients.v2 import Client
from tests.support.images import make_image, pull, push
from tests.support.processes import children, free_port, listens, running
from tests.support.servers.registry import Server
from tests.support.servers.seaweedfs import ACCESS_KEY, BUCKET, SECRET_KEY, run_seaweedfs
from tests.support.servers.template import ROOT

ISOLATION = ("--isolation=chroot", "--network=host")
ENTRY_POINT = ("--", "docker-registry-entrypoint")
MAX_BYTES = 120 * 10**6

#: Installing all extras takes a minute on an idle machine.
BUILD_SECONDS = 1800

#: Runs a command as the first process of a container whose root is read-only, but for its volume and /tmp.
READ_ONLY = """
root=$1 volume=$2; shift 2
mount --bind "$root" "$root"
mount --bind "$volume" "$root/var/lib/registry"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
for folder in / /etc /opt/docker-registry /usr/share/docker-registry /var/lib; do
    ! touch "$root$folder/written" 2> /dev/null || exit 9
done
exec chroot --userspec=999:999 "$root" "$@"
"""

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

    def test_serves_with_a_read_only_root_at_another_address(self, buildah, image, container, tmp_path):
        root, volume, port = Path(buildah("mount", container).strip()), tmp_path / "volume", free_port()
        volume.mkdir()
        os.chown(volume, 999, 999)
        (volume / "config.yml").write_text(
            "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\n"
            f"http: {{addr: '127.0.0.2:{port}'}}\n"
        )
        environment = json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]["Env"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        within = ["env", "--ignore-environment", "--chdir=/var/lib/registry", path, *environment, *ENTRY_POINT[1:]]
        command = [
            "unshare", "--mount", "--pid", "--fork", "--kill-child=TERM", "--propagation=private",
            "sh", "-euc", READ_ONLY, "sh", str(root), str(volume),
            *within, "serve", "/var/lib/registry/config.yml",
        ]  # fmt: skip

        def is_ready():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.2", port)) == 0

        with running(command, tmp_path / "log", is_ready) as process:
            push_and_pull(f"http://127.0.0.2:{port}")
            (first,) = children(process.pid)
            # As by `docker exec`: the server's command line leads to the address.
            inside = ["nsenter", f"--target={first}", "--mount", "--pid", "--root", "--setgid=999", "--setuid=999"]
            subprocess.run([*inside, *within, "healthcheck"], check=True, timeout=60)
            os.kill(first, signal.SIGSTOP)  # the workers continue
            for worker in children(first):
                os.kill(worker, signal.SIGSTOP)
            assert 0 != subprocess.run([*inside, *within, "healthcheck"], capture_output=True, timeout=60).returncode
            for stopped in (*children(first), first):
                os.kill(stopped, signal.SIGCONT)

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
        chosen = "distribution.yml"
        script = (ROOT / "contrib/image/entrypoint").read_text()
        entry_point = tmp_path / "entrypoint"
        entry_point.write_text(script.replace("/etc/", f"{tmp_path}/"))  # a machine may have such files

        def run(**variables):
            environment = {"PATH": os.environ["PATH"], "GUNICORN_USER": "x", "SETTINGS_FLAVOR": "local", **variables}
            command = ["sh", str(entry_point), "sh", "-c", "echo ${DOCKER_REGISTRY_CONFIG:-none}"]
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        sample = (ROOT / "config/config_sample.yml").read_text()
        ours = {*re.findall(r"_env:(\w+)", sample), "REGISTRY_HOST", "REGISTRY_PORT"}
        of_services = {
            f"REGISTRY_HTTP_{name}" for name in ("PORT", "PORT_5000_TCP", "SERVICE_HOST", "SERVICE_PORT_WEB")
        }
        assert "none" == run(**dict.fromkeys(ours | of_services, "x")).stdout.strip()
        theirs = {f"REGISTRY_{key.upper().replace('.', '_')}" for key in KEYS} - {"REGISTRY_VERSION"} - ours
        # One of each section: each takes five processes.
        for name in {name.split("_")[1 : 4 if "_AUTH_" in name else 2][-1]: name for name in sorted(theirs)}.values():
            assert (name, chosen) == (name, run(**{name: "x"}).stdout.strip())
        refused = run(REGISTRY_AUTH="htpasswd", SETTINGS_FLAVOR="s3")
        assert (2, "") == (refused.returncode, refused.stdout)
        assert "SETTINGS_FLAVOR=s3 has no effect beside variables of registry:2 (REGISTRY_AUTH)" in refused.stderr
        assert "mine.yml" == run(REGISTRY_AUTH="x", DOCKER_REGISTRY_CONFIG="mine.yml").stdout.strip()

    @pytest.mark.parametrize("file", ["docker/registry/config.yml", "distribution/config.yml"])
    def test_stand_in_for_the_file_of_the_image_registry_2(self, file, tmp_path):
        entry_point, mounted = tmp_path / "entrypoint", tmp_path / file
        script = (ROOT / "contrib/image/entrypoint").read_text()
        entry_point.write_text(script.replace("/etc/", f"{tmp_path}/"))
        (tmp_path / "registry").write_text('#!/bin/sh\necho "${DOCKER_REGISTRY_CONFIG:-none} $*"\n')
        (tmp_path / "registry").chmod(0o755)

        def started(*command):
            environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GUNICORN_USER": "x"}
            return subprocess.run(["sh", entry_point, *command], env=environment, capture_output=True, text=True).stdout

        assert {"distribution.yml serve\n"} == {started(str(mounted)), started("registry", "serve", str(mounted))}
        mounted.parent.mkdir(parents=True)
        mounted.touch()
        assert f"{mounted} serve {mounted}\n" == started("serve", str(mounted))

    def test_check_the_health_where_the_configuration_has_the_server(self, tmp_path):
        def status(**variables):
            check = [sys.executable, ROOT / "contrib/image/healthcheck.py"]
            return subprocess.run(check, env={**os.environ, **variables}, capture_output=True, timeout=60).returncode

        class Alive(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/livez" else 500)
                self.end_headers()

            def log_message(self, *_):
                pass

        with ThreadingHTTPServer(("127.0.0.2", 0), Alive) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            address = f"127.0.0.2:{server.server_port}"
            config = tmp_path / "config.yml"
            config.write_text(f"version: 0.1\nstorage: {{inmemory: {{}}}}\nhttp: {{addr: '{address}'}}\n")
            host, port = {"REGISTRY_HOST": "127.0.0.2"}, {"REGISTRY_PORT": str(server.server_port)}
            for given in (
                {**host, **port},
                {"DOCKER_REGISTRY_CONFIG": str(config), "REGISTRY_PORT": "tcp://10.0.0.1:80"},
                {"GUNICORN_OPTS": f"--workers 1 --bind {address}"},
            ):
                assert (given, 0) == (given, status(**given))
            assert 1 == status(REGISTRY_HOST="127.0.0.3", **port)
            server.shutdown()
