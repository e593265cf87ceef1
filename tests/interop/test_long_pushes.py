"""Access tokens that expire while a client pushes a large layer."""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import pytest
import requests

from tests.interop.guarded import serve_guarded
from tests.support.access import settings
from tests.support.clients.go_tools import install
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, make_tar, push
from tests.support.servers.registry import Server
from tests.support.servers.truncating_proxy import CuttingProxy

pytestmark = pytest.mark.slow

TOKEN_SECONDS = 60  # the shortest life

#: A layer of two megabytes takes 80 seconds.
BYTES, BYTES_PER_SECOND = 2_000_000, 25_000


class TestATokenThatExpires:
    def test_during_a_long_push_is_replaced_without_starting_again(self, tmp_path):
        with Server(tmp_path / "store", REGISTRY_AUTH_TOKEN_SECONDS=str(TOKEN_SECONDS), **settings(tmp_path)) as server:
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

    def test_during_a_long_push_is_renewed_by_clients(
        self, skopeo, docker, ctr, podman, buildah, policy, layouts, tmp_path
    ):
        dxf = pytest.importorskip("dxf", reason="python-dxf is not installed (pip install python-dxf)")
        image = make_image("slow", layers=1, layer_bytes=BYTES)
        layout, tree = layouts(image), make_tar({"file": random.Random(1).randbytes(BYTES)})
        (tmp_path / "blob").write_bytes(random.Random(2).randbytes(BYTES))
        crane, oras, regctl, helm = (install(name, tmp_path / name) for name in ("crane", "oras", "regctl", "helm"))
        with contextlib.ExitStack() as stack:
            life = {"REGISTRY_AUTH_TOKEN_SECONDS": str(TOKEN_SECONDS)}
            server, tls = (
                stack.enter_context(serve_guarded(tmp_path / each, each, **life)) for each in ("bearer", "bearer-tls")
            )
            slow, slow_tls = (stack.enter_context(CuttingProxy(each.server.port)) for each in (server, tls))
            slow.request_bytes_per_second = slow_tls.request_bytes_per_second = BYTES_PER_SECOND
            roots = [stack.enter_context(Client(each.server.url)) for each in (server, tls)]
            for root, each in zip(roots, (server, tls), strict=True):
                root.session.auth, root.session.verify = ("root", "pw-root"), str(each.authority)
            push(roots[0], "acme/slow", "v1", image)
            host, direct = f"127.0.0.1:{slow.port}", server.host
            crane("auth", "login", host, "-u", "alice", "-p", "pw-alice")
            oras("login", "--plain-http", host, "-u", "alice", "-p", "pw-alice")
            regctl("registry", "set", "--skip-check", "--tls", "disabled", host)
            regctl("registry", "login", host, "-u", "alice", "-p", "pw-alice")
            helm("registry", "login", "--plain-http", host, "-u", "alice", "-p", "pw-alice")
            helm("create", tmp_path / "chart")
            (tmp_path / "chart" / "blob").write_bytes(random.Random(3).randbytes(BYTES))
            helm("package", tmp_path / "chart", "--destination", tmp_path)
            docker("login", "-u", "alice", "-p", "pw-alice", host)
            docker("import", "-", f"{host}/alice/docker:v1", stdin=tree)
            creds = ("--creds=alice:pw-alice", "--tls-verify=false")
            other_tree = make_tar({"file": random.Random(4).randbytes(BYTES)})
            podman("import", "-", f"{host}/alice/podman:v1", stdin=other_tree)
            container = buildah("from", "scratch")
            buildah("copy", container, tmp_path / "blob", "/file")
            buildah("commit", f"--signature-policy={policy}", "--rm", container, f"{host}/alice/buildah:v1")
            alice = ("--plain-http", "--user", "alice:pw-alice")
            ctr("images", "pull", *alice, "--snapshotter=native", f"{direct}/acme/slow:v1")
            ctr("images", "tag", f"{direct}/acme/slow:v1", f"{host}/alice/ctr:v1")

            def push_by_dxf(_):
                def log_in(client, response):
                    client.authenticate("alice", "pw-alice", response=response)

                there = dxf.DXF(f"127.0.0.1:{slow_tls.port}", "alice/dxf", log_in, tlsverify=str(tls.authority))
                there.set_alias("v1", there.push_blob(str(tmp_path / "blob")))

            chart = tmp_path / "chart-0.1.0.tgz"
            to_skopeo = ("--dest-tls-verify=false", "--dest-creds=alice:pw-alice")
            pushes = {
                "skopeo": lambda to: skopeo("copy", *to_skopeo, f"oci:{layout}:v1", f"docker://{to}"),
                "podman": lambda to: podman("push", *creds, to),
                "buildah": lambda to: buildah("push", *creds, f"--signature-policy={policy}", to),
                "docker": lambda to: docker("push", to),
                "ctr": lambda to: ctr("images", "push", *alice, to),
                "crane": lambda to: crane("push", "--insecure", layout, to),
                "oras": lambda to: oras("copy", "--from-oci-layout", "--to-plain-http", f"{layout}:v1", to),
                "regctl": lambda to: regctl("image", "copy", f"ocidir://{layout}:v1", to),
                "helm": lambda _: helm("push", "--plain-http", chart, f"oci://{host}/alice/helm"),
                "dxf": push_by_dxf,
            }

            def seconds_of(client):
                began = time.monotonic()
                pushes[client](f"{host}/alice/{client}:v1")
                return time.monotonic() - began

            with ThreadPoolExecutor(len(pushes)) as threads:
                seconds = dict(zip(pushes, threads.map(seconds_of, pushes), strict=True))
            seconds.pop("ctr")  # it mounts the layer
            assert min(seconds.values()) > TOKEN_SECONDS, seconds
            places = {"helm": ("helm/chart", "0.1.0")}
            for client in pushes:
                name, tag = places.get(client, (client, "v1"))
                assert [tag] == roots[client == "dxf"].tags(f"alice/{name}"), client
