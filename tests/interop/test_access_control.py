"""Real clients and a registry with users: logging in, tokens, and refusals."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.support.access import settings
from tests.support.clients.v2 import Client
from tests.support.images import make_image, pull, push
from tests.support.servers.registry import Server

TO, FROM = "--dest-tls-verify=false", "--src-tls-verify=false"
INSECURE = "--tls-verify=false"


@pytest.fixture(scope="module", params=["bearer", "basic"])
def guarded(request, tmp_path_factory):
    """A registry with users that requires tokens or passwords."""
    folder = tmp_path_factory.mktemp("guarded")
    variables = {"REGISTRY_AUTH_CHALLENGE": request.param, **settings(folder)}
    with Server(folder / "store", workers=2, **variables) as server, Client(server.url) as root:
        root.session.auth = ("root", "pw-root")
        for name in ("public/web", "acme/web", "bob/own"):
            push(root, name, "v1", make_image(1))
        yield server


@pytest.fixture
def root(guarded):
    with Client(guarded.url) as client:
        client.session.auth = ("root", "pw-root")
        yield client


@contextlib.contextmanager
def refused(*words):
    """The client fails, and its message contains one of these words."""
    with pytest.raises(AssertionError) as raised:
        yield
    said = str(raised.value).lower()
    assert any(word in said for word in words), said


class TestSkopeo:
    def test_logs_in_and_does_what_the_rules_allow(self, skopeo, layouts, guarded, root, tmp_path):
        host, image = f"127.0.0.1:{guarded.port}", make_image("skopeo", layers=2)
        auth = f"--authfile={tmp_path / 'auth.json'}"
        skopeo("copy", FROM, f"docker://{host}/public/web:v1", f"oci:{tmp_path}/anonymous:v1")
        with refused("unauthorized", "authentication required"):
            skopeo("copy", FROM, f"docker://{host}/acme/web:v1", f"oci:{tmp_path}/denied:v1")
        with refused("invalid username/password", "unauthorized"):
            skopeo("login", auth, INSECURE, "-u", "alice", "-p", "wrong", host)
        skopeo("login", auth, INSECURE, "-u", "alice", "-p", "pw-alice", host)
        skopeo("copy", auth, TO, f"oci:{layouts(image)}:v1", f"docker://{host}/alice/pushed:v1")
        assert image.contents == pull(root, "alice/pushed", "v1")
        skopeo("copy", auth, FROM, f"docker://{host}/acme/web:v1", f"oci:{tmp_path}/pulled:v1")
        skopeo("copy", auth, FROM, TO, f"docker://{host}/acme/web:v1", f"docker://{host}/alice/copy:v1")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            skopeo("copy", auth, TO, f"oci:{layouts(image)}:v1", f"docker://{host}/bob/own:v1")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            skopeo("copy", auth, FROM, f"docker://{host}/bob/own:v1", f"oci:{tmp_path}/denied:v1")
        assert ["v1"] == json.loads(skopeo("list-tags", auth, INSECURE, f"docker://{host}/alice/pushed"))["Tags"]
        skopeo("delete", auth, INSECURE, f"docker://{host}/alice/pushed:v1")
        assert not root.has_manifest("alice/pushed", "v1")
        skopeo("logout", auth, host)


class TestPodman:
    def test_logs_in_and_does_what_the_rules_allow(self, podman, guarded, root, tree, tmp_path):
        host = f"127.0.0.1:{guarded.port}"
        auth = f"--authfile={tmp_path / 'auth.json'}"
        with refused("invalid username/password", "unauthorized"):
            podman("login", auth, INSECURE, "-u", "bob", "-p", "wrong", host)
        podman("login", auth, INSECURE, "-u", "bob", "-p", "pw-bob", host)
        image = f"{host}/bob/podman:v1"
        podman("import", "-", image, stdin=tree)
        podman("push", auth, INSECURE, image)
        assert ["v1"] == root.tags("bob/podman")
        podman("rmi", image)
        podman("pull", auth, INSECURE, image)
        podman("tag", image, f"{host}/alice/x:v1")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            podman("push", auth, INSECURE, f"{host}/alice/x:v1")
        podman("rmi", "-f", image, f"{host}/alice/x:v1")


class TestDocker:
    def test_logs_in_and_does_what_the_rules_allow(self, docker, guarded, root, tree):
        host = f"127.0.0.1:{guarded.port}"
        if guarded.environment["REGISTRY_AUTH_CHALLENGE"] == "bearer":  # after Basic it pulls nothing anonymously
            docker("pull", f"{host}/public/web:v1")
        with refused("denied", "unauthorized", "no basic auth"):
            docker("pull", f"{host}/acme/web:v1")
        with refused("unauthorized"):
            docker("login", "-u", "alice", "-p", "wrong", host)
        docker("login", "-u", "alice", "-p", "pw-alice", host)
        image = f"{host}/alice/docker:v1"
        docker("import", "-", image, stdin=tree)
        docker("push", image)
        assert ["v1"] == root.tags("alice/docker")
        docker("rmi", image)
        docker("pull", image)
        docker("pull", f"{host}/acme/web:v1")
        docker("tag", image, f"{host}/bob/x:v1")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            docker("push", f"{host}/bob/x:v1")
        docker("logout", host)
        with refused("denied", "unauthorized", "no basic auth"):
            docker("pull", f"{host}/acme/web:v1")
