"""Real clients and a registry with users: logging in, tokens, and refusals."""

from __future__ import annotations

import json

import pytest
import requests

from tests.interop.guarded import PLACES, as_root, refused, serve_guarded
from tests.support.clients.v1 import Docker as OldDocker
from tests.support.clients.v1 import done
from tests.support.images import make_image, pull
from tests.support.timing import wait_until
from tests.support.v1_images import make


@pytest.fixture(scope="module", params=PLACES)
def guarded(request, tmp_path_factory):
    """A registry with users that requires tokens or passwords."""
    with serve_guarded(tmp_path_factory.mktemp("guarded"), request.param) as guarded:
        yield guarded


@pytest.fixture
def root(guarded):
    with as_root(guarded) as client:
        yield client


def use_skopeo(skopeo, layouts, guarded, root, tmp_path):
    """Log in, and do what the rules allow."""
    there, image = f"docker://{guarded.host}", make_image("skopeo", layers=2)
    auth, dest, src, one = f"--authfile={tmp_path / 'auth.json'}", *map(guarded.flag, ("dest-", "src-", ""))
    skopeo("copy", src, f"{there}/public/web:v1", f"oci:{tmp_path}/anonymous:v1")
    with refused("unauthorized", "authentication required"):
        skopeo("copy", src, f"{there}/acme/web:v1", f"oci:{tmp_path}/none:v1")
    with refused("invalid username/password", "unauthorized"):
        skopeo("login", auth, one, "-u", "alice", "-p", "wrong", guarded.host)
    skopeo("login", auth, one, "-u", "alice", "-p", "pw-alice", guarded.host)
    skopeo("copy", auth, dest, f"oci:{layouts(image)}:v1", f"{there}/alice/pushed:v1")
    assert image.contents == pull(root, "alice/pushed", "v1")
    skopeo("copy", auth, src, f"{there}/acme/web:v1", f"oci:{tmp_path}/pulled:v1")
    skopeo("copy", auth, src, dest, f"{there}/acme/web:v1", f"{there}/alice/copy:v1")
    skopeo("copy", auth, src, dest, f"{there}/acme/web:v1", f"{there}/alice/skopeo/mounted:v1")
    guarded.await_mount("alice/skopeo/mounted")
    with refused():
        skopeo("copy", auth, dest, f"oci:{layouts(image)}:v1", f"{there}/bob/own:v1")
    with refused():
        skopeo("copy", auth, src, f"{there}/bob/own:v1", f"oci:{tmp_path}/none:v1")
    assert ["v1"] == json.loads(skopeo("list-tags", auth, one, f"{there}/alice/pushed"))["Tags"]
    skopeo("delete", auth, one, f"{there}/alice/pushed:v1")
    assert not root.has_manifest("alice/pushed", "v1")
    skopeo("logout", auth, guarded.host)
    with refused("unauthorized", "authentication required"):
        skopeo("copy", auth, src, f"{there}/acme/web:v1", f"oci:{tmp_path}/none:v1")


class TestSkopeo:
    def test_logs_in_and_does_what_the_rules_allow(self, skopeo, layouts, guarded, root, tmp_path):
        use_skopeo(skopeo, layouts, guarded, root, tmp_path)


class TestPodman:
    def test_logs_in_and_does_what_the_rules_allow(self, podman, guarded, root, tree, tmp_path):
        host, one = guarded.host, guarded.flag()
        auth = f"--authfile={tmp_path / 'auth.json'}"
        podman("pull", one, f"{host}/public/web:v1")
        with refused():
            podman("pull", one, f"{host}/acme/web:v1")
        with refused("invalid username/password", "unauthorized"):
            podman("login", auth, one, "-u", "alice", "-p", "wrong", host)
        podman("login", auth, one, "-u", "alice", "-p", "pw-alice", host)
        image, other = f"{host}/alice/podman:v1", f"{host}/alice/podman/mounted:v1"
        podman("import", "-", image, stdin=tree)
        podman("push", auth, one, image)
        assert ["v1"] == root.tags("alice/podman")
        podman("tag", image, other)
        podman("push", auth, one, other)
        guarded.await_mount("alice/podman/mounted")
        podman("rmi", image, other)
        podman("pull", auth, one, image)
        listing = podman("search", auth, "--tls-verify=false", "--list-tags", f"{host}/alice/podman")
        assert ["NAME", "TAG", f"{host}/alice/podman", "v1"] == listing.split()
        podman("tag", image, f"{host}/bob/x:v1")
        with refused():
            podman("push", auth, one, f"{host}/bob/x:v1")
        with refused():
            podman("pull", auth, one, f"{host}/bob/own:v1")
        podman("logout", auth, host)
        with refused():
            podman("pull", auth, one, f"{host}/acme/web:v1")
        podman("rmi", "-f", image, f"{host}/bob/x:v1", f"{host}/public/web:v1")


def use_docker(docker, guarded, root, tree, name, *, may_be_anonymous):
    """Log in, and do what the rules allow."""
    host = guarded.host
    if may_be_anonymous:
        docker("pull", f"{host}/public/web:v1")
        docker("rmi", f"{host}/public/web:v1")
    with refused(*guarded.docker_refusals):
        docker("pull", f"{host}/acme/web:v1")
    with refused(*guarded.docker_refusals):
        docker("login", "-u", "alice", "-p", "wrong", host)
    docker("login", "-u", "alice", "-p", "pw-alice", host)
    image, other = f"{host}/alice/{name}:v1", f"{host}/alice/{name}/mounted:v1"
    docker("import", "-", image, stdin=tree)
    docker("push", image)
    assert ["v1"] == root.tags(f"alice/{name}")
    docker("tag", image, other)
    docker("push", other)
    guarded.await_mount(f"alice/{name}/mounted")
    docker("rmi", image, other)
    docker("pull", image)
    docker("pull", f"{host}/acme/web:v1")
    docker("tag", image, f"{host}/bob/x:v1")
    with refused(*guarded.docker_refusals):
        docker("push", f"{host}/bob/x:v1")
    with refused(*guarded.docker_refusals):
        docker("pull", f"{host}/bob/own:v1")
    search = ("search", "--format={{.Name}}")  # with a refresh token where the challenge is Bearer
    wait_until(lambda: {"acme/web", "public/web"} == set(docker(*search, f"{host}/web").split()))
    assert "" == docker(*search, f"{host}/own")
    docker("logout", host)
    with refused(*guarded.docker_refusals):
        docker("pull", f"{host}/acme/web:v1")
    docker("rmi", "-f", image, f"{host}/bob/x:v1", f"{host}/acme/web:v1")


class TestDocker:
    def test_logs_in_and_does_what_the_rules_allow(self, docker, guarded, root, tree):
        # After a Basic challenge it pulls nothing without a login.
        use_docker(docker, guarded, root, tree, "docker", may_be_anonymous=guarded.is_bearer)


class TestBuildah:
    def test_logs_in_and_does_what_the_rules_allow(self, buildah, policy, guarded, root, tmp_path):
        host, one = guarded.host, guarded.flag()
        auth, signatures = f"--authfile={tmp_path / 'auth.json'}", f"--signature-policy={policy}"
        buildah("pull", one, signatures, f"{host}/public/web:v1")
        with refused():
            buildah("pull", one, signatures, f"{host}/acme/web:v1")
        with refused("invalid username/password", "unauthorized"):
            buildah("login", auth, one, "-u", "alice", "-p", "wrong", host)
        buildah("login", auth, one, "-u", "alice", "-p", "pw-alice", host)
        (tmp_path / "file").write_text(f"content of {host}")
        container = buildah("from", "scratch")
        buildah("copy", container, tmp_path / "file", "/file")
        image, other = f"{host}/alice/buildah:v1", f"docker://{host}/alice/buildah/mounted:v1"
        buildah("commit", signatures, "--rm", container, image)
        buildah("push", auth, one, signatures, image)
        assert ["v1"] == root.tags("alice/buildah")
        buildah("push", auth, one, signatures, image, other)
        guarded.await_mount("alice/buildah/mounted")
        with refused():
            buildah("push", auth, one, signatures, image, f"docker://{host}/bob/own:v2")
        with refused():
            buildah("pull", auth, one, signatures, f"{host}/bob/own:v1")
        buildah("rmi", image)
        buildah("pull", auth, one, signatures, image)
        buildah("logout", auth, host)
        with refused():
            buildah("pull", auth, one, signatures, f"{host}/acme/web:v1")
        buildah("rmi", image, f"{host}/public/web:v1")


def use_containerd(ctr, guarded, root, tmp_path, name, *options):
    """Do what the rules allow."""
    host, tls = guarded.host, ("--plain-http",)
    if guarded.authority is not None:
        (tmp_path / "hosts" / host).mkdir(parents=True)
        text = f'server = "{guarded.url}"\n[host."{guarded.url}"]\nca = "{guarded.authority}"\n'
        (tmp_path / "hosts" / host / "hosts.toml").write_text(text)
        tls = (f"--hosts-dir={tmp_path / 'hosts'}",)
    pulling = ("images", "pull", *tls, "--snapshotter=native", *options)
    pushing = ("images", "push", *tls, *options)
    alice = ("--user", "alice:pw-alice")
    ctr(*pulling, f"{host}/public/web:v1")
    with refused():
        ctr(*pulling, f"{host}/acme/web:v1")
    with refused():
        ctr(*pulling, "--user", "alice:wrong", f"{host}/acme/web:v1")
    ctr(*pulling, *alice, f"{host}/acme/web:v1")
    with refused():
        ctr(*pulling, *alice, f"{host}/bob/own:v1")
    ctr("images", "tag", f"{host}/acme/web:v1", f"{host}/alice/{name}:v1")
    ctr(*pushing, *alice, f"{host}/alice/{name}:v1")
    assert ["v1"] == root.tags(f"alice/{name}")
    guarded.await_mount(f"alice/{name}")
    ctr("images", "tag", f"{host}/acme/web:v1", f"{host}/bob/{name}:v2")
    with refused():
        ctr(*pushing, *alice, f"{host}/bob/{name}:v2")


class TestContainerd:
    def test_does_what_the_rules_allow(self, ctr, guarded, root, tmp_path):
        use_containerd(ctr, guarded, root, tmp_path, "ctr")


def use_dxf(guarded, tmp_path):
    """Log in, and do what the rules allow."""
    dxf = pytest.importorskip("dxf", reason="python-dxf is not installed (pip install python-dxf)")

    def log_in(client, response):
        client.authenticate("alice", "pw-alice", response=response)

    def opened(name, log_in=log_in):
        return dxf.DXF(guarded.host, name, log_in, tlsverify=str(guarded.authority))

    refusal = (requests.HTTPError, dxf.exceptions.DXFError)
    for not_logged_in in (None, lambda client, answer: client.authenticate(response=answer)):
        assert ["v1"] == opened("public/web", not_logged_in).list_aliases()
        with pytest.raises(refusal):
            opened("acme/web", not_logged_in).list_aliases()
    with pytest.raises(refusal):
        opened("acme/web", lambda client, answer: client.authenticate("alice", "wrong", response=answer)).list_aliases()
    assert opened("acme/web").get_manifest("v1")
    (tmp_path / "file").write_bytes(b"content" * 1000)
    own = opened("alice/dxf")
    digest = own.push_blob(str(tmp_path / "file"))
    own.set_alias("v1", digest)
    assert [["v1"], [digest]] == [own.list_aliases(), own.get_alias("v1")]
    assert b"content" * 1000 == b"".join(own.pull_blob(digest))
    opened("alice/dxf/mounted").mount_blob("alice/dxf", digest)
    guarded.await_mount("alice/dxf/mounted")
    with pytest.raises(refusal):
        opened("bob/own").push_blob(str(tmp_path / "file"))
    with pytest.raises(refusal):
        opened("bob/own").get_alias("v1")
    own.del_alias("v1")
    assert [] == own.list_aliases()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The same behind nginx."""
    with serve_guarded(tmp_path_factory.mktemp("proxied"), "bearer-nginx") as guarded:
        yield guarded


class TestBehindNginxWithTls:
    """Under a name of its own, `localhost`, with a certificate of its own."""

    def test_skopeo_does_what_the_rules_allow(self, skopeo, layouts, proxied, tmp_path):
        with as_root(proxied) as root:
            use_skopeo(skopeo, layouts, proxied, root, tmp_path)

    def test_python_dxf_does_what_the_rules_allow(self, proxied, tmp_path):
        use_dxf(proxied, tmp_path)


@pytest.mark.slow
class TestDxf:
    """It sends passwords by TLS only."""

    @pytest.mark.parametrize("place", ["bearer-tls", "basic-tls", "basic-nginx"])
    def test_does_what_the_rules_allow(self, place, tmp_path):
        with serve_guarded(tmp_path, place) as guarded:
            use_dxf(guarded, tmp_path)


@pytest.mark.slow
class TestTheClientOfApiV1:
    """With its password for every request, as Docker does by TLS, or with the tokens that it gets for it."""

    @pytest.fixture
    def docker(self, guarded):
        with OldDocker(guarded.url) as docker:
            docker.session.trust_env, docker.session.verify = False, str(guarded.authority)
            yield docker

    @pytest.mark.parametrize("has_tokens", [False, True], ids=["basic", "token"])
    def test_does_what_the_rules_allow(self, guarded, root, docker, has_tokens):
        name, image = f"alice/old-{'token' if has_tokens else 'basic'}", make(9200 + has_tokens)
        alice = ("alice", "pw-alice")

        def log_in(method, path, **options):
            """Send the request with which a client begins; the next ones have its token."""
            answer = docker.ask(method, path, auth=alice, **options)
            if has_tokens:
                docker.session.headers["Authorization"] = f"Token {answer.headers['X-Docker-Token']}"
            else:
                docker.session.auth = alice
            return answer

        assert [401, 200] == [docker.get("/users/", auth=(alice[0], each)).status_code for each in ("x", alice[1])]
        assert 200 == docker.get("/repositories/public/web/tags").status_code
        assert 401 == docker.get("/repositories/acme/web/tags").status_code
        listed = json.dumps([{"id": image.text, "Tag": "v1"}])
        done(log_in("PUT", f"/repositories/{name}/", data=listed), 200)
        docker.push_images(image)
        done(docker.put(f"/repositories/{name}/tags/v1", json.dumps(image.text)), 200)
        done(docker.put(f"/repositories/{name}/images", "[]"), 204)
        log_in("GET", f"/repositories/{name}/images")
        assert {"v1": image.text} == docker.get(f"/repositories/{name}/tags").json()
        assert image.layer == docker.get(f"/images/{image.text}/layer").content
        denied = {401} if has_tokens else {403}
        for other in ("bob/own", "bob/new"):
            assert denied == {docker.get(f"/repositories/{other}/tags").status_code}
            assert denied == {docker.put(f"/repositories/{other}/tags/v2", json.dumps(image.text)).status_code}
            refusal = docker.put(f"/repositories/{other}/", "[]", headers={"Authorization": None}, auth=alice)
            assert 403 == refusal.status_code
        assert ["v1"] == root.tags(name)
        docker.session.headers.pop("Authorization", None)
        docker.session.auth = alice
        wait_until(lambda: name in {each["name"] for each in docker.get("/search?q=old").json()["results"]})
        done(docker.ask("DELETE", f"/repositories/{name}/"), 200)
        assert 404 == docker.get(f"/repositories/{name}/tags").status_code
