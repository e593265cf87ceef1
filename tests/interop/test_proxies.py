"""The example configurations of proxies in contrib/, each with the real program in front of a registry."""

from __future__ import annotations

import http.client
import os
import ssl
from base64 import b64encode
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from tests.support.certificates import Authority
from tests.support.clients import programs
from tests.support.clients.v2 import digest_of
from tests.support.images import make_image, make_tar, read_layout, write_layout
from tests.support.servers.proxies import PASSWORD, PROXIES, USER, running_proxy
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

PART = os.urandom(2 * 1024 * 1024)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    return Authority(folder)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("proxied") / "store") as server:
        yield server


@pytest.fixture(params=PROXIES, ids=str)
def proxied(request, tmp_path, registry, authority):
    with running_proxy(request.param, tmp_path, registry.port, authority) as url:
        yield url


@pytest.fixture
def session(authority):
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(authority.file)
        session.auth = (USER, PASSWORD)
        yield session


def stored_bytes(server):
    return sum(path.stat().st_size for path in Path(server.store).rglob("*") if path.is_file())


def send_half(url, location, authority):
    """Send half of a body to a proxy and break the connection."""
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=authority.file)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=60)
    connection.putrequest("PATCH", location)
    connection.putheader("Authorization", f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
    connection.putheader("Content-Length", str(2 * len(PART)))
    connection.endheaders()
    connection.send(PART)
    return connection


class TestAProxy:
    def test_streams_resumes_and_requests_passwords(self, proxied, registry, session, authority):
        # Passwords, except where nothing asks for one.
        assert 401 == requests.get(f"{proxied}/v2/", verify=str(authority.file), timeout=60).status_code
        for path in ("/_ping", "/v1/_ping"):
            assert 200 == requests.get(f"{proxied}{path}", verify=str(authority.file), timeout=60).status_code

        # A chunked body reaches the registry while the client still sends.
        location = session.post(f"{proxied}/v2/team/app/blobs/uploads/", timeout=60).headers["Location"]
        before = stored_bytes(registry)

        def chunks():
            for start in range(0, len(PART), 65536):
                yield PART[start : start + 65536]
            wait_until(lambda: stored_bytes(registry) - before >= len(PART) // 2)
            yield b"end"

        answer = session.patch(urljoin(proxied, location), data=chunks(), timeout=120)
        assert (202, f"0-{len(PART) + 2}") == (answer.status_code, answer.headers["Range"])

        # A broken upload is resumed where the registry stopped receiving.
        location = answer.headers["Location"]
        connection = send_half(proxied, location, authority)
        wait_until(lambda: stored_bytes(registry) - before >= len(PART) * 3 // 2)
        connection.close()

        def received():
            range_ = session.get(urljoin(proxied, location), timeout=60).headers.get("Range", "0-0")
            end = int(range_.partition("-")[2]) + 1
            return end if end > len(PART) + 3 else 0

        offset = wait_until(received)
        content = PART + b"end" + PART + PART
        rest = content[offset:]
        headers = {"Content-Range": f"{offset}-{len(content) - 1}"}
        answer = session.patch(urljoin(proxied, location), data=rest, headers=headers, timeout=60)
        assert 202 == answer.status_code, answer.text
        digest = digest_of(content)
        answer = session.put(f"{urljoin(proxied, answer.headers['Location'])}", params={"digest": digest}, timeout=60)
        assert 201 == answer.status_code, answer.text

        # Ranges, and what HEAD says.
        blob = f"{proxied}/v2/team/app/blobs/{digest}"
        part = session.get(blob, headers={"Range": "bytes=7-1000006"}, timeout=60)
        assert (206, content[7:1000007]) == (part.status_code, part.content)
        head = session.head(blob, headers={"Accept-Encoding": "gzip"}, timeout=60).headers
        assert (str(len(content)), digest) == (head["Content-Length"], head["Docker-Content-Digest"])

        # An encoded slash stays encoded.
        for path in ("/v2/team%2Fapp/tags/list", "/v1/repositories/team%2Fapp/tags"):
            direct, answer = (session.get(f"{url}{path}", timeout=60) for url in (registry.url, proxied))
            assert (direct.status_code, direct.content) == (answer.status_code, answer.content)

    @pytest.mark.slow
    def test_streams_a_chunked_gigabyte(self, proxied, registry, session):
        block, count = os.urandom(2**20), 1024
        location = session.post(f"{proxied}/v2/team/large/blobs/uploads/", timeout=60).headers["Location"]
        before = stored_bytes(registry)
        seen = []

        def chunks():
            for number in range(count):
                yield block
                if number in (count // 4, count // 2, count - 1):
                    # All but what is on its way, in the buffers of sockets and of the proxy.
                    wait_until(lambda number=number: stored_bytes(registry) - before >= (number - 32) * 2**20)
                    seen.append(number)

        answer = session.patch(urljoin(proxied, location), data=chunks(), timeout=300)
        assert (202, f"0-{count * 2**20 - 1}") == (answer.status_code, answer.headers["Range"])
        assert 3 == len(seen)
        assert 204 == session.delete(urljoin(proxied, answer.headers["Location"]), timeout=60).status_code

    @pytest.mark.slow
    def test_serves_docker(self, proxied, docker, tmp_path):
        host = urlsplit(proxied).netloc
        reference = f"{host}/team/docker:1"
        (tmp_path / "tree.tar").write_bytes(make_tar({"file": os.urandom(3 * 2**20)}))
        docker("login", "--username", USER, "--password", PASSWORD, host)
        docker("import", tmp_path / "tree.tar", reference)
        pushed = docker("image", "inspect", "--format={{.Id}}", reference)
        docker("push", reference)
        docker("rmi", reference)
        docker("pull", reference)
        assert pushed == docker("image", "inspect", "--format={{.Id}}", reference)
        docker("rmi", reference)

    @pytest.mark.slow
    def test_serves_skopeo(self, proxied, authority, tmp_path):
        skopeo = programs.Tool([programs.require("skopeo", "skopeo"), "--insecure-policy", "copy"])
        image = make_image("proxied")
        write_layout(tmp_path / "image", image, "1")
        name = f"docker://{urlsplit(proxied).netloc}/team/image:1"
        user = f"{USER}:{PASSWORD}"
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        (certificates / "ca.crt").write_bytes(authority.file.read_bytes())

        skopeo("--dest-cert-dir", certificates, "--dest-creds", user, f"oci:{tmp_path}/image:1", name)
        skopeo("--src-cert-dir", certificates, "--src-creds", user, name, f"oci:{tmp_path}/pulled:1")

        assert image.contents == read_layout(tmp_path / "pulled")


@pytest.mark.slow
class TestNginxWithTls:
    def test_sends_the_files_of_the_store(self, authority, session, tmp_path):
        """The example with its last block, which is a comment."""

        def with_files(text):
            text = text.replace("    # }", "    }")
            for line in (
                "location /_registry/ {",
                "    internal;",
                "    alias",
                "    add_header Docker-Content-Digest",
            ):
                assert f"    # {line}" in text
                text = text.replace(f"    # {line}", f"    {line}")
            return text.replace("/srv/registry/", f"{server.store}/")

        (tmp_path / "nginx").mkdir()
        with (
            Server(tmp_path / "store", NGINX_X_ACCEL_REDIRECT="/_registry") as server,
            running_proxy(PROXIES[0], tmp_path / "nginx", server.port, authority, with_files) as url,
        ):
            digest = digest_of(PART)
            uploads = f"{url}/v2/team/app/blobs/uploads/"
            assert 201 == session.post(f"{uploads}?digest={digest}", data=PART, timeout=60).status_code
            blob = f"{url}/v2/team/app/blobs/{digest}"
            answer = session.get(blob, timeout=60)
            assert (PART, digest) == (answer.content, answer.headers["Docker-Content-Digest"])
            part = session.get(blob, headers={"Range": "bytes=7-1000006"}, timeout=60)
            assert (206, PART[7:1000007]) == (part.status_code, part.content)
            # The registry has sent a path alone.
            direct = requests.get(f"{server.url}/v2/team/app/blobs/{digest}", timeout=60)
            assert (b"", True) == (direct.content, "X-Accel-Redirect" in direct.headers)
