"""A registry whose store is OpenStack's, and a real client before it."""

from __future__ import annotations

import pytest
import requests

pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from tests.client import Client
from tests.glance_server import glance_server
from tests.images import make_image, pull, read_layout
from tests.server import Server
from tests.swift_server import swift_server

__all__ = ["glance_server", "swift_server"]

TO = "--dest-tls-verify=false"
FROM = "--src-tls-verify=false"


@pytest.fixture(scope="module", params=["swift", "glance", "glance-swift"])
def server(request, tmp_path_factory):
    """Two workers on one store."""
    environment = {"SETTINGS_FLAVOR": request.param, "STORAGE_REDIRECT": "true", "OS_TEMP_URL_KEY": "k3y"}
    if "swift" in request.param:
        options = request.getfixturevalue("swift_server").options
        environment |= {
            "STORAGE_PATH": "/registry",
            "OS_AUTH_URL": options["swift_authurl"],
            "OS_CONTAINER": options["swift_container"],
            "OS_USERNAME": options["swift_user"],
            "OS_PASSWORD": options["swift_password"],
        }
    if "glance" in request.param:
        environment["OS_GLANCE_URL"] = request.getfixturevalue("glance_server").url
    with Server(tmp_path_factory.mktemp("openstack") / "store", workers=2, **environment) as server:
        yield server


class TestARegistryOnOpenStack:
    def test_sends_clients_to_swift_where_it_has_the_layer(self, server, name):
        content = name.encode() * 100_000
        with Client(server.url) as client:
            digest = client.push_blob(name, content)
            in_swift = server.environment["SETTINGS_FLAVOR"] == "swift"
            url = f"{server.url}/v2/{name}/blobs/{digest}"
            assert (307 if in_swift else 200) == requests.get(url, allow_redirects=False, timeout=60).status_code
            assert content == client.get_blob(name, digest)

    def test_takes_and_gives_an_image_byte_for_byte(self, skopeo, layouts, host, name, reader, tmp_path):
        image = make_image(name, layers=3)
        skopeo("copy", TO, f"oci:{layouts(image)}:v1", f"docker://{host}/{name}:v1")
        assert image.contents == pull(reader, name, "v1")
        skopeo("copy", FROM, f"docker://{host}/{name}:v1", f"oci:{tmp_path}/pulled:v1")
        assert image.contents == read_layout(tmp_path / "pulled")

    def test_copies_between_repositories(self, skopeo, layouts, host, name, index, reader):
        skopeo("copy", "--all", TO, f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        skopeo("copy", "--all", FROM, TO, f"docker://{host}/{name}:v1", f"docker://{host}/{name}/copy:v1")
        assert index.contents == pull(reader, f"{name}/copy", "v1")

    def test_takes_a_layer_of_many_segments(self, server, name):
        content = bytes(range(256)) * 4096 * 40  # 40 MiB
        with Client(server.url) as client:
            digest = client.push_blob(name, content)
            assert content == client.get_blob(name, digest)
