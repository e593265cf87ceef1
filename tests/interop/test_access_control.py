"""Real clients and a registry with users: logging in, tokens, and refusals."""

from __future__ import annotations

import contextlib
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import pytest
import requests

from tests.interop.conftest import run_containerd
from tests.support.access import settings
from tests.support.certificates import Authority
from tests.support.clients.go_tools import build, install
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, make_tar, pull, push
from tests.support.processes import free_port
from tests.support.servers.nginx import running_nginx
from tests.support.servers.registry import Server
from tests.support.servers.truncating_proxy import CuttingProxy

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


def use_docker(docker, guarded, root, tree, name, *, may_be_anonymous):
    """Log in, and do what the rules allow."""
    host = f"127.0.0.1:{guarded.port}"
    if may_be_anonymous:
        docker("pull", f"{host}/public/web:v1")
    with refused("denied", "unauthorized", "no basic auth"):
        docker("pull", f"{host}/acme/web:v1")
    with refused("unauthorized"):
        docker("login", "-u", "alice", "-p", "wrong", host)
    docker("login", "-u", "alice", "-p", "pw-alice", host)
    image = f"{host}/alice/{name}:v1"
    docker("import", "-", image, stdin=tree)
    docker("push", image)
    assert ["v1"] == root.tags(f"alice/{name}")
    docker("rmi", image)
    docker("pull", image)
    docker("pull", f"{host}/acme/web:v1")
    docker("tag", image, f"{host}/bob/x:v1")
    with refused("denied", "unauthorized", "403 (forbidden)"):
        docker("push", f"{host}/bob/x:v1")
    docker("logout", host)
    with refused("denied", "unauthorized", "no basic auth"):
        docker("pull", f"{host}/acme/web:v1")


class TestDocker:
    def test_logs_in_and_does_what_the_rules_allow(self, docker, guarded, root, tree):
        is_bearer = guarded.environment["REGISTRY_AUTH_CHALLENGE"] == "bearer"
        use_docker(docker, guarded, root, tree, "docker", may_be_anonymous=is_bearer)  # after Basic it pulls nothing so


class TestBuildah:
    def test_logs_in_and_does_what_the_rules_allow(self, buildah, policy, guarded, root, tmp_path):
        host = f"127.0.0.1:{guarded.port}"
        auth, signatures = f"--authfile={tmp_path / 'auth.json'}", f"--signature-policy={policy}"
        buildah("login", auth, INSECURE, "-u", "alice", "-p", "pw-alice", host)
        (tmp_path / "file").write_text("content")
        container = buildah("from", "scratch")
        buildah("copy", container, tmp_path / "file", "/file")
        buildah("commit", signatures, "--rm", container, f"{host}/alice/buildah:v1")
        buildah("push", auth, INSECURE, signatures, f"{host}/alice/buildah:v1")
        assert ["v1"] == root.tags("alice/buildah")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            buildah("push", auth, INSECURE, signatures, f"{host}/alice/buildah:v1", f"docker://{host}/bob/own:v2")
        buildah("rmi", f"{host}/alice/buildah:v1")
        buildah("pull", auth, INSECURE, signatures, f"{host}/alice/buildah:v1")
        buildah("rmi", f"{host}/alice/buildah:v1")
        buildah("logout", auth, host)


def use_containerd(ctr, guarded, root, name, *options):
    """Do what the rules allow."""
    host, plain = f"127.0.0.1:{guarded.port}", ("--plain-http", "--snapshotter=native", *options)
    alice = ("--user", "alice:pw-alice")
    ctr("images", "pull", *plain, f"{host}/public/web:v1")
    with refused("denied", "unauthorized", "401"):
        ctr("images", "pull", *plain, f"{host}/acme/web:v1")
    ctr("images", "pull", *plain, *alice, f"{host}/acme/web:v1")
    ctr("images", "tag", f"{host}/acme/web:v1", f"{host}/alice/{name}:v1")
    ctr("images", "push", "--plain-http", *options, *alice, f"{host}/alice/{name}:v1")
    assert ["v1"] == root.tags(f"alice/{name}")
    ctr("images", "tag", f"{host}/acme/web:v1", f"{host}/bob/{name}:v2")
    with refused("denied", "unauthorized", "403"):
        ctr("images", "push", "--plain-http", *options, *alice, f"{host}/bob/{name}:v2")


class TestContainerd:
    def test_does_what_the_rules_allow(self, ctr, guarded, root):
        use_containerd(ctr, guarded, root, "ctr")

    @pytest.mark.slow
    def test_2_does_the_same(self, guarded, root, tmp_path):
        with run_containerd(tmp_path, build("ctr", tmp_path), build("containerd", tmp_path)) as ctr:
            use_containerd(ctr, guarded, root, "ctr2", "--local")  # the daemon cannot unpack without more settings


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A registry with users behind nginx: host and port, and the authority of the certificate."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority = Authority(folder)
    certificate, key = authority.issue("nginx")
    tls = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
    variables = {"REGISTRY_EXTERNAL_URL": f"https://localhost:{port}", **settings(folder)}
    with Server(folder / "store", **variables) as server, running_nginx(folder, [server.port], tls):
        with Client(server.url) as root:
            root.session.auth = ("root", "pw-root")
            push(root, "acme/web", "v1", make_image(1))
        yield f"localhost:{port}", authority.file


class TestBehindNginxWithTls:
    """Under a name of its own, `localhost`, with a certificate of its own."""

    def test_skopeo_does_what_the_rules_allow(self, skopeo, proxied, tmp_path):
        host, authority = proxied
        (tmp_path / "ca.crt").write_bytes(authority.read_bytes())
        auth = f"--authfile={tmp_path / 'auth.json'}"
        skopeo("login", auth, f"--cert-dir={tmp_path}", "-u", "alice", "-p", "pw-alice", host)
        certificates = (f"--src-cert-dir={tmp_path}", f"--dest-cert-dir={tmp_path}")
        skopeo("copy", auth, *certificates, f"docker://{host}/acme/web:v1", f"docker://{host}/alice/copy:v1")
        with refused("denied", "unauthorized", "403 (forbidden)"):
            skopeo("copy", auth, *certificates, f"docker://{host}/acme/web:v1", f"docker://{host}/bob/own:v1")

    def test_python_dxf_does_what_the_rules_allow(self, proxied, tmp_path):
        dxf = pytest.importorskip("dxf", reason="python-dxf is not installed (pip install python-dxf)")
        host, authority = proxied

        def log_in(client, response):
            client.authenticate("alice", "pw-alice", response=response)

        def opened(name):
            return dxf.DXF(host, name, log_in, tlsverify=str(authority))

        (tmp_path / "file").write_bytes(b"content" * 1000)
        own = opened("alice/dxf")
        digest = own.push_blob(str(tmp_path / "file"))
        own.set_alias("v1", digest)
        assert [["v1"], [digest]] == [own.list_aliases(), own.get_alias("v1")]
        opened("alice/mounted").mount_blob("alice/dxf", digest)
        with pytest.raises((requests.HTTPError, dxf.exceptions.DXFError)):
            opened("bob/own").push_blob(str(tmp_path / "file"))
        own.del_alias("v1")
        assert [] == own.list_aliases()


@pytest.mark.slow
class TestGoClients:
    """Each logs in, copies or pushes what the rules allow, and is denied the rest."""

    @pytest.fixture
    def host(self, guarded):
        return f"127.0.0.1:{guarded.port}"

    def test_crane(self, host, root, tmp_path):
        crane = install("crane", tmp_path)
        crane("auth", "login", host, "-u", "alice", "-p", "pw-alice")
        crane("copy", "--insecure", f"{host}/acme/web:v1", f"{host}/alice/crane:v1")
        assert ["v1"] == crane("ls", "--insecure", f"{host}/alice/crane").split()
        assert "alice/crane" in crane("catalog", "--insecure", host).split()
        with refused("denied", "unauthorized", "forbidden"):
            crane("copy", "--insecure", f"{host}/acme/web:v1", f"{host}/bob/own:v2")
        crane("delete", "--insecure", f"{host}/alice/crane:v1")
        assert [] == root.tags("alice/crane")

    def test_oras(self, host, tmp_path):
        oras = install("oras", tmp_path)
        (tmp_path / "file").write_text("content")
        oras("login", "--plain-http", host, "-u", "alice", "-p", "pw-alice")
        oras("push", "--plain-http", "--disable-path-validation", f"{host}/alice/oras:v1", tmp_path / "file")
        oras("pull", "--plain-http", "-o", tmp_path / "pulled", "--allow-path-traversal", f"{host}/alice/oras:v1")
        oras("copy", "--from-plain-http", "--to-plain-http", f"{host}/acme/web:v1", f"{host}/alice/oras:v2")
        with refused("denied", "unauthorized", "forbidden"):
            oras("copy", "--from-plain-http", "--to-plain-http", f"{host}/acme/web:v1", f"{host}/bob/own:v2")

    def test_regctl(self, host, tmp_path):
        regctl = install("regctl", tmp_path)
        regctl("registry", "set", "--skip-check", "--tls", "disabled", host)
        regctl("registry", "login", host, "-u", "alice", "-p", "pw-alice")
        regctl("image", "copy", f"{host}/acme/web:v1", f"{host}/alice/regctl:v1")
        assert ["v1"] == regctl("tag", "ls", f"{host}/alice/regctl").split()
        with refused("denied", "unauthorized", "forbidden"):
            regctl("image", "copy", f"{host}/acme/web:v1", f"{host}/bob/own:v2")
        regctl("tag", "delete", f"{host}/alice/regctl:v1")

    def test_helm(self, host, root, tmp_path):
        helm = install("helm", tmp_path)
        helm("create", tmp_path / "chart")
        helm("package", tmp_path / "chart", "--destination", tmp_path)
        package, got = tmp_path / "chart-0.1.0.tgz", tmp_path / "got"
        got.mkdir()
        pull = ("pull", "--plain-http", f"oci://{host}/alice/helm/chart", "--version=0.1.0", "--destination", got)
        with refused("unauthorized", "invalid"):
            helm("registry", "login", "--plain-http", host, "-u", "alice", "-p", "wrong")
        helm("registry", "login", "--plain-http", host, "-u", "alice", "-p", "pw-alice")
        helm("push", "--plain-http", package, f"oci://{host}/alice/helm")
        assert ["0.1.0"] == root.tags("alice/helm/chart")
        helm(*pull)
        assert package.read_bytes() == (got / package.name).read_bytes()
        with refused("denied", "unauthorized", "forbidden"):
            helm("push", "--plain-http", package, f"oci://{host}/bob")
        helm("registry", "logout", host)
        with refused("denied", "unauthorized", "no basic auth", "401"):
            helm(*pull)

    def test_cosign(self, host, root, tmp_path):
        cosign = install("cosign", tmp_path, COSIGN_PASSWORD="")
        image = make_image("cosign")
        push(root, "alice/cosign", "v1", image)
        push(root, "acme/cosign", "v1", image)
        plain = ["--allow-http-registry", "--allow-insecure-registry"]
        sign = ["--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false", "--yes"]
        verify = ["--insecure-ignore-tlog", "--new-bundle-format=false"]
        cosign("generate-key-pair", "--output-key-prefix", tmp_path / "key")
        own, other = (f"{host}/{name}/cosign@{image.digest}" for name in ("alice", "acme"))
        with refused("denied", "unauthorized"):
            cosign("sign", "--key", tmp_path / "key.key", *plain, *sign, own)
        cosign("login", host, "-u", "alice", "-p", "pw-alice")
        cosign("sign", "--key", tmp_path / "key.key", *plain, *sign, own)
        cosign("verify", "--key", tmp_path / "key.pub", *plain, *verify, own)
        with refused("denied", "unauthorized", "forbidden"):
            cosign("sign", "--key", tmp_path / "key.key", *plain, *sign, other)


@pytest.mark.slow
class TestATokenThatExpires:
    def test_during_a_long_push_is_replaced_without_starting_again(self, tmp_path):
        with Server(tmp_path / "store", REGISTRY_AUTH_TOKEN_SECONDS="60", **settings(tmp_path)) as server:
            scope = {"scope": "repository:alice/long:pull,push"}

            def token():
                answer = requests.get(f"{server.url}/v2/token", params=scope, auth=("alice", "pw-alice"), timeout=30)
                return {"Authorization": f"Bearer {answer.json()['token']}"}

            def body():
                for _ in range(70):
                    yield b"x" * 1000
                    time.sleep(1)

            old = token()
            upload = requests.post(f"{server.url}/v2/alice/long/blobs/uploads/", headers=old, timeout=30)
            answer = requests.patch(
                urljoin(server.url, upload.headers["Location"]), data=body(), headers=old, timeout=120
            )
            assert 202 == answer.status_code  # it was valid when the request began
            digest, location = digest_of(b"x" * 70_000), urljoin(server.url, answer.headers["Location"])
            late = requests.put(location, params={"digest": digest}, headers=old, timeout=30)
            assert 401 == late.status_code
            assert 'error="invalid_token"' in late.headers["WWW-Authenticate"]
            assert 201 == requests.put(location, params={"digest": digest}, headers=token(), timeout=30).status_code

    def test_during_a_long_push_is_renewed_by_clients(self, skopeo, docker, ctr, layouts, tmp_path):
        image = make_image("slow", layers=1, layer_bytes=2_000_000)
        layout = layouts(image)
        crane, oras = (install(name, tmp_path / name) for name in ("crane", "oras"))
        with contextlib.ExitStack() as stack:
            variables = {"REGISTRY_AUTH_TOKEN_SECONDS": "60", **settings(tmp_path)}
            server = stack.enter_context(Server(tmp_path / "store", workers=2, **variables))
            slow = stack.enter_context(CuttingProxy(server.port))
            slow.request_bytes_per_second = 25_000  # a layer takes 80 seconds
            root = stack.enter_context(Client(server.url))
            root.session.auth = ("root", "pw-root")
            push(root, "acme/slow", "v1", image)
            host, direct = f"127.0.0.1:{slow.port}", f"127.0.0.1:{server.port}"
            crane("auth", "login", host, "-u", "alice", "-p", "pw-alice")
            oras("login", "--plain-http", host, "-u", "alice", "-p", "pw-alice")
            docker("login", "-u", "alice", "-p", "pw-alice", host)
            tree = make_tar({"file": random.Random(1).randbytes(2_000_000)})
            docker("import", "-", f"{host}/alice/docker:v1", stdin=tree)
            creds, alice = "--dest-creds=alice:pw-alice", ("--plain-http", "--user", "alice:pw-alice")
            ctr("images", "pull", *alice, "--snapshotter=native", f"{direct}/acme/slow:v1")
            ctr("images", "tag", f"{direct}/acme/slow:v1", f"{host}/alice/ctr:v1")
            pushes = {
                "skopeo": lambda to: skopeo("copy", TO, creds, f"oci:{layout}:v1", f"docker://{to}"),
                "docker": lambda to: docker("push", to),
                "ctr": lambda to: ctr("images", "push", *alice, to),
                "crane": lambda to: crane("push", "--insecure", layout, to),
                "oras": lambda to: oras("copy", "--from-oci-layout", "--to-plain-http", f"{layout}:v1", to),
            }

            def seconds_of(client):
                began = time.monotonic()
                pushes[client](f"{host}/alice/{client}:v1")
                return time.monotonic() - began

            with ThreadPoolExecutor(len(pushes)) as threads:
                seconds = dict(zip(pushes, threads.map(seconds_of, pushes), strict=True))
            assert 4 <= sum(each > 70 for each in seconds.values()), seconds  # ctr mounts
            for client in pushes:
                assert ["v1"] == root.tags(f"alice/{client}"), client
