"""
Two registries, as on two hosts, on one bucket, one Redis and one PostgreSQL; any of them may receive a request.

nginx distributes requests in turn, so that each upload is begun by one of them and finished by the other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time

import pytest

from tests.interop.test_store_faults import environment
from tests.interop.unions import read_files, union
from tests.support.clients.v1 import Docker as OldDocker
from tests.support.clients.v2 import WAYS, Client
from tests.support.images import make_image, make_tar, named_blobs, pull, push
from tests.support.servers.databases_and_stores import postgresql
from tests.support.servers.nginx import running_nginx
from tests.support.servers.redis import redis_server
from tests.support.servers.registry import Server
from tests.support.timing import wait_until
from tests.support.v1_images import chain

__all__ = ["postgresql", "redis_server"]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def hosts(seaweedfs, redis_server, postgresql, tmp_path_factory):
    """Two registries that do not know each other."""
    folder = tmp_path_factory.mktemp("hosts")
    shared = {
        **environment(seaweedfs.port, f"/{folder.name}"),
        **redis_server.environment,
        **redis_server.cache_environment,
        "SEARCH_BACKEND": "sqlalchemy",
        "SQLALCHEMY_INDEX_DATABASE": postgresql.create_database(),
    }
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Server(folder / str(number) / "store", **shared)) for number in range(2)]


@pytest.fixture(scope="module")
def port(hosts, tmp_path_factory):
    """The URL of nginx, which distributes requests in turn."""
    with running_nginx(tmp_path_factory.mktemp("nginx"), [host.port for host in hosts]) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def client(port):
    with Client(f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def name():
    return f"lab/m{next(_numbers)}"


class TestTwoHosts:
    @pytest.mark.parametrize("way", sorted(WAYS))
    def test_continue_uploads_of_each_other(self, client, name, way):
        image = make_image(name, layer_bytes=300_000)
        push(client, name, "v1", image, way)
        for _ in range(2):  # one response of each
            assert image.contents == pull(client, name, "v1")

    def test_announce_the_minimum_chunk_size_of_the_store(self, client, name):
        answer = client.request("POST", f"/v2/{name}/blobs/uploads/", 202)
        assert 5 * 1024 * 1024 == int(answer.headers["OCI-Chunk-Min-Length"])

    def test_see_each_others_tags_at_once(self, hosts, name):
        with contextlib.ExitStack() as stack:
            first, second = (stack.enter_context(Client(host.url)) for host in hosts)
            for number in range(5):
                image = make_image(f"{name} {number}", layers=1, layer_bytes=100)
                push(first, name, "v1", image)
                self.is_seen(
                    hosts, lambda image=image, host=second: image.manifest == host.get_manifest(name, "v1").payload
                )
                self.is_seen(hosts, lambda host=second: ["v1"] == host.tags(name))
                first, second = second, first
            first.delete_manifest(name, "v1")
            self.is_seen(hosts, lambda: [] == second.tags(name))
            self.is_seen(hosts, lambda: not second.has_manifest(name, "v1"))

    def is_seen(self, hosts, is_so):
        """A change is visible at once, or within a minute if a host lost Redis on a busy machine."""
        deadline = time.monotonic() + 70
        while not is_so():
            assert any("is unavailable" in host.log.read_text() for host in hosts)
            assert time.monotonic() < deadline
            time.sleep(1)

    def test_serve_skopeo(self, client, skopeo, layouts, port, name, tmp_path):
        image = make_image(name, layer_bytes=300_000)
        target = f"docker://127.0.0.1:{port}/{name}:v1"
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", target)
        skopeo("copy", "--src-tls-verify=false", target, f"dir:{tmp_path}/pulled")
        assert image.contents == pull(client, name, "v1")

    def test_serve_docker(self, docker, client, port, name):
        reference, tree = f"127.0.0.1:{port}/{name}:v1", make_tar({"file": name.encode() * 5000})
        docker("import", "-", reference, stdin=tree)
        docker("push", reference)
        before = docker("image", "inspect", "--format={{.Id}}", reference)
        docker("rmi", reference)
        docker("pull", reference)
        assert before == docker("image", "inspect", "--format={{.Id}}", reference)
        layers = [client.get_blob(name, entry["digest"]) for entry in named_blobs(client.get_manifest(name, "v1"))[1:]]
        assert read_files(tree) == union(layers)
        docker("rmi", reference)

    def test_serve_old_docker(self, client, port, name):
        images = chain(3, 50_000 + next(_numbers) * 10)
        with OldDocker(f"http://127.0.0.1:{port}") as old:
            old.push(name, "v1", *images)
            assert [image.layer for image in images] == [layer for _, _, layer in old.pull(name, "v1")]
        layers = json.loads(client.get_manifest(name, "v1").payload)["layers"]
        assert [image.layer for image in images] == [client.get_blob(name, layer["digest"]) for layer in layers]

    def test_search_repositories_of_each_other(self, hosts, name):
        with Client(hosts[0].url) as client:
            push(client, name, "v1", make_image(name, layers=1, layer_bytes=100))
        with OldDocker(hosts[1].url) as old:
            found = wait_until(lambda: old.get("/search", params={"q": name}).json()["results"])
        assert [name] == [each["name"] for each in found]
