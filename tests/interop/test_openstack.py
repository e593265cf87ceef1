"""A registry on stores of OpenStack, with a real client."""

from __future__ import annotations

import pytest
import requests

pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from tests.interop.stores import StoreSuite
from tests.support.clients.v2 import Client
from tests.support.servers.registry import Server


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


class TestARegistryOnOpenStack(StoreSuite):
    def test_redirects_clients_to_swift_for_its_layers(self, server, name):
        content = name.encode() * 100_000
        with Client(server.url) as client:
            digest = client.push_blob(name, content)
            in_swift = server.environment["SETTINGS_FLAVOR"] == "swift"
            url = f"{server.url}/v2/{name}/blobs/{digest}"
            assert (307 if in_swift else 200) == requests.get(url, allow_redirects=False, timeout=60).status_code
            assert content == client.get_blob(name, digest)
