"""A real nginx in front that sends layers and blobs by itself."""

from __future__ import annotations

import pytest
import requests

from tests.support.clients.v1 import Docker, done
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.servers.nginx import running_nginx
from tests.support.servers.registry import Server
from tests.support.v1_images import make

IMAGE = make(1, layer=bytes(range(256)) * 1000)

LOCATION = """
location /_store/ {{
    internal;
    alias {store}/;
    add_header Docker-Content-Digest $upstream_http_docker_content_digest always;
}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("x-accel")
    with Server(folder / "store", NGINX_X_ACCEL_REDIRECT="/_store/") as server:
        yield server


@pytest.fixture(scope="module")
def url(registry, tmp_path_factory):
    """Where nginx listens."""
    folder = tmp_path_factory.mktemp("nginx")
    with running_nginx(folder, [registry.port], LOCATION.format(store=registry.store)) as url:
        yield url


@pytest.fixture(scope="module")
def layer(url):
    """The URL of a layer that was pushed through nginx."""
    with Docker(url) as docker:
        docker.push("lab/x", "v1", IMAGE)
        assert IMAGE.layer == docker.pull("lab/x", "v1")[0][2]
    return f"{url}/v1/images/{IMAGE.text}/layer"


class TestALayer:
    def test_is_sent_by_nginx_from_the_store(self, layer, registry):
        answer = done(requests.get(layer, timeout=20), 200)
        assert IMAGE.layer == answer.content
        assert "public, max-age=31536000" == answer.headers["Cache-Control"]
        assert "X-Accel-Redirect" not in answer.headers

    def test_is_sent_in_part(self, layer):
        size = len(IMAGE.layer)
        answer = requests.get(layer, headers={"Range": f"bytes=1000-{size}"}, timeout=20)
        assert (206, IMAGE.layer[1000:]) == (answer.status_code, answer.content)
        assert f"bytes 1000-{size - 1}/{size}" == answer.headers["Content-Range"]

    def test_leaves_the_registry_as_a_path_only(self, layer, registry):
        answer = requests.get(f"{registry.url}/v1/images/{IMAGE.text}/layer", timeout=20)
        assert (200, b"") == (answer.status_code, answer.content)
        assert answer.headers["X-Accel-Redirect"].startswith("/_store/docker/registry/v2/blobs/sha256/")


class TestABlob:
    def test_is_sent_by_nginx_with_its_digest(self, url):
        image = make_image(3)
        with Client(url) as client:
            push(client, "lab/y", "v1", image)
        for digest, content in image.blobs.items():
            answer = done(requests.get(f"{url}/v2/lab/y/blobs/{digest}", timeout=20), 200)
            assert (content, digest) == (answer.content, answer.headers["Docker-Content-Digest"])


class TestAStoreThatIsNotLocal:
    def test_is_served_by_the_registry_itself(self, tmp_path):
        settings = {"SETTINGS_FLAVOR": "memory", "DOCKER_REGISTRY_CONFIG": str(tmp_path / "config.yml")}
        (tmp_path / "config.yml").write_text("memory: {storage: memory, nginx_x_accel_redirect: /_store}")
        with Server(tmp_path / "store", **settings) as server, Docker(server.url) as docker:
            docker.push("lab/x", "v1", IMAGE)
            assert IMAGE.layer == docker.pull("lab/x", "v1")[0][2]
