"""Clients written in Go, built by the tests, and a registry with users: logging in, tokens, and refusals."""

from __future__ import annotations

import json
import os

import pytest

from tests.interop.conftest import run_containerd, run_docker
from tests.interop.guarded import PLACES, as_root, refused, serve_guarded
from tests.interop.test_access_control import use_containerd, use_docker
from tests.support.clients.go_tools import build, install
from tests.support.images import make_image, push

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=PLACES)
def guarded(request, tmp_path_factory):
    """A registry with users that requires tokens or passwords."""
    with serve_guarded(tmp_path_factory.mktemp("guarded"), request.param) as guarded:
        yield guarded


@pytest.fixture
def root(guarded):
    with as_root(guarded) as client:
        yield client


class TestContainerd2:
    def test_does_what_the_rules_allow(self, guarded, root, tmp_path):
        with run_containerd(tmp_path, build("ctr", tmp_path), build("containerd", tmp_path)) as ctr:
            use_containerd(
                ctr, guarded, root, tmp_path, "ctr2", "--local"
            )  # the daemon cannot unpack without more settings


class TestDocker29:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, tree, tmp_path):
        daemon, _ = build("dockerd", tmp_path), build("containerd", tmp_path)
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **guarded.trust}
        with run_docker(tmp_path, daemon, variables, "native") as docker:
            assert docker("version", "--format={{.Server.Version}}")
            use_docker(docker, guarded, root, tree, "docker29", may_be_anonymous=True)


class TestCrane:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, layouts, tmp_path):
        host, plain = guarded.host, guarded.unless_tls("--insecure")
        crane = install("crane", tmp_path, **guarded.trust)
        crane("pull", *plain, f"{host}/public/web:v1", tmp_path / "anonymous.tar")
        with refused():
            crane("manifest", *plain, f"{host}/acme/web:v1")
        crane("auth", "login", host, "-u", "alice", "-p", "wrong")  # it asks the registry later
        with refused():
            crane("manifest", *plain, f"{host}/acme/web:v1")
        crane("auth", "login", host, "-u", "alice", "-p", "pw-alice")
        crane("copy", *plain, f"{host}/acme/web:v1", f"{host}/alice/crane:v1")
        guarded.await_mount("alice/crane")
        crane("push", *plain, layouts(make_image("crane")), f"{host}/alice/crane:v2")
        crane("pull", *plain, f"{host}/alice/crane:v2", tmp_path / "own.tar")
        assert ["v1", "v2"] == crane("ls", *plain, f"{host}/alice/crane").split()
        assert "alice/crane" in crane("catalog", *plain, host).split()
        with refused():
            crane("copy", *plain, f"{host}/acme/web:v1", f"{host}/bob/own:v2")
        with refused():
            crane("pull", *plain, f"{host}/bob/own:v1", tmp_path / "none.tar")
        crane("delete", *plain, f"{host}/alice/crane:v1")
        assert ["v2"] == root.tags("alice/crane")
        crane("auth", "logout", host)
        with refused():
            crane("manifest", *plain, f"{host}/acme/web:v1")


class TestOras:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, tmp_path):
        host, is_plain = guarded.host, str(guarded.authority is None).lower()  # by default, localhost is
        plain, both = (f"--plain-http={is_plain}",), (f"--from-plain-http={is_plain}", f"--to-plain-http={is_plain}")
        oras = install("oras", tmp_path, **guarded.trust)
        (tmp_path / "file").write_text("content")
        oras("manifest", "fetch", *plain, f"{host}/public/web:v1")
        with refused():
            oras("manifest", "fetch", *plain, f"{host}/acme/web:v1")
        with refused():
            oras("login", *plain, host, "-u", "alice", "-p", "wrong")
        oras("login", *plain, host, "-u", "alice", "-p", "pw-alice")
        oras("push", *plain, "--disable-path-validation", f"{host}/alice/oras:v1", tmp_path / "file")
        oras("pull", *plain, "-o", tmp_path / "pulled", "--allow-path-traversal", f"{host}/alice/oras:v1")
        oras("copy", *both, f"{host}/acme/web:v1", f"{host}/alice/oras/mounted:v1")
        guarded.await_mount("alice/oras/mounted")
        assert "v1" == oras("repo", "tags", *plain, f"{host}/alice/oras")
        # It logs in only if it is asked to, and anonymous clients may list what they may pull.
        assert "public/web" in oras("repo", "ls", *plain, host).split()
        with refused():
            oras("copy", *both, f"{host}/acme/web:v1", f"{host}/bob/own:v2")
        with refused():
            oras("manifest", "fetch", *plain, f"{host}/bob/own:v1")
        oras("manifest", "delete", *plain, "--force", f"{host}/alice/oras:v1")
        assert not root.has_manifest("alice/oras", "v1")
        oras("logout", host)
        with refused():
            oras("manifest", "fetch", *plain, f"{host}/acme/web:v1")


class TestRegctl:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, tmp_path):
        host = guarded.host
        regctl = install("regctl", tmp_path, **guarded.trust)
        if guarded.authority is None:
            regctl("registry", "set", "--skip-check", "--tls", "disabled", host)
        regctl("image", "export", f"{host}/public/web:v1", tmp_path / "anonymous.tar")
        with refused():
            regctl("manifest", "get", f"{host}/acme/web:v1")
        with refused():
            regctl("registry", "login", host, "-u", "alice", "-p", "wrong")
        regctl("registry", "login", host, "-u", "alice", "-p", "pw-alice")
        regctl("image", "copy", f"{host}/acme/web:v1", f"{host}/alice/regctl:v1")
        guarded.await_mount("alice/regctl")
        regctl("image", "export", f"{host}/alice/regctl:v1", tmp_path / "own.tar")
        regctl("image", "import", f"{host}/alice/regctl/imported:v1", tmp_path / "own.tar")
        assert ["v1"] == regctl("tag", "ls", f"{host}/alice/regctl").split()
        assert "public/web" in regctl("repo", "ls", host).split()  # without credentials, as oras
        with refused():
            regctl("image", "copy", f"{host}/acme/web:v1", f"{host}/bob/own:v2")
        with refused():
            regctl("manifest", "get", f"{host}/bob/own:v1")
        regctl("tag", "delete", f"{host}/alice/regctl:v1")
        assert [] == root.tags("alice/regctl")
        regctl("registry", "logout", host)
        with refused():
            regctl("manifest", "get", f"{host}/acme/web:v1")


class TestHelm:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, tmp_path):
        host, plain = guarded.host, guarded.unless_tls("--plain-http")
        helm = install("helm", tmp_path, **guarded.trust)
        helm("create", tmp_path / "chart")
        helm("package", tmp_path / "chart", "--destination", tmp_path)
        package, got = tmp_path / "chart-0.1.0.tgz", tmp_path / "got"
        got.mkdir()

        def log_in(user):
            helm("registry", "login", *plain, host, "-u", user, "-p", f"pw-{user}")

        def push_to(repository):
            helm("push", *plain, package, f"oci://{host}/{repository}")

        def pull_from(repository):
            helm("pull", *plain, f"oci://{host}/{repository}/chart", "--version=0.1.0", "--destination", got)
            assert package.read_bytes() == (got / package.name).read_bytes()

        log_in("root")
        push_to("public")
        push_to("bob")
        helm("registry", "logout", host)
        pull_from("public")
        with refused():
            pull_from("bob")
        with refused("unauthorized", "invalid"):
            helm("registry", "login", *plain, host, "-u", "alice", "-p", "wrong")
        log_in("alice")
        push_to("alice/helm")
        assert ["0.1.0"] == root.tags("alice/helm/chart")
        pull_from("alice/helm")
        with refused():
            push_to("bob/other")
        with refused():
            pull_from("bob")
        helm("registry", "logout", host)
        with refused():
            pull_from("alice/helm")


class TestCosign:
    def test_logs_in_and_does_what_the_rules_allow(self, guarded, root, tmp_path):
        host, plain = guarded.host, guarded.unless_tls("--allow-http-registry", "--allow-insecure-registry")
        cosign = install("cosign", tmp_path, COSIGN_PASSWORD="", **guarded.trust)
        image = make_image("cosign")
        references = {name: f"{host}/{name}/cosign@{image.digest}" for name in ("public", "acme", "alice", "bob")}
        for name in references:
            push(root, f"{name}/cosign", "v1", image)
        cosign("generate-key-pair", "--output-key-prefix", tmp_path / "key")

        def sign(name, *options):
            offline = ("--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false", "--yes")
            cosign("sign", "--key", tmp_path / "key.key", *plain, *offline, *options, references[name])

        def verify(name):
            offline = ("--insecure-ignore-tlog", "--new-bundle-format=false")
            cosign("verify", "--key", tmp_path / "key.pub", *plain, *offline, references[name])

        for name in ("public", "bob"):
            sign(name, "--registry-username=root", "--registry-password=pw-root")
        verify("public")
        with refused():
            verify("bob")
        with refused():
            sign("alice")
        cosign("login", host, "-u", "alice", "-p", "wrong")  # it asks the registry later
        with refused():
            sign("alice")
        cosign("login", host, "-u", "alice", "-p", "pw-alice")
        sign("alice")
        tag = f"{image.digest.replace(':', '-')}.sig"
        assert {"v1", tag} == set(root.tags("alice/cosign"))
        assert json.loads(cosign("download", "signature", *plain, references["alice"]).splitlines()[0])
        verify("alice")
        with refused():
            verify("bob")
        with refused():
            sign("acme")  # alice may push v* alone there
        cosign("clean", "--force", "--type=signature", *plain, references["alice"])
        assert ["v1"] == root.tags("alice/cosign")
        with pytest.raises(AssertionError, match="no signatures"):
            verify("alice")
