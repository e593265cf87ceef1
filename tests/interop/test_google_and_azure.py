"""Registries whose stores are Google's and Azure's, and a real client before them."""

from __future__ import annotations

import pytest
import requests

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")

from tests.azurite import KEY, NAME, run_azurite
from tests.client import Client
from tests.gcs_server import make_service_account, run_gcs
from tests.images import make_image, pull, read_layout
from tests.server import Server

TO = "--dest-tls-verify=false"
FROM = "--src-tls-verify=false"


@pytest.fixture(scope="module")
def gcs(tmp_path_factory):
    with run_gcs() as server:
        key = make_service_account(tmp_path_factory.mktemp("account"))
        yield {
            "SETTINGS_FLAVOR": "gcs",
            "STORAGE_PATH": "/registry",
            "STORAGE_EMULATOR_HOST": server.endpoint,
            "GCS_BUCKET": server.make_bucket(),
            "GCS_CREDENTIALS_FILE": str(key),
        }


@pytest.fixture(scope="module")
def azureblob():
    with run_azurite() as server:
        yield {
            "SETTINGS_FLAVOR": "azureblob",
            "STORAGE_PATH": "",
            "AZURE_STORAGE_ACCOUNT_NAME": NAME,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_CONTAINER": server.make_container(),
            "AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint,
            "AZURE_USE_HTTPS": "false",
        }


@pytest.fixture(scope="module", params=["gcs", "azureblob"])
def environment(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def server(environment, tmp_path_factory):
    """Two workers on one store."""
    with Server(tmp_path_factory.mktemp("cloud") / "store", workers=2, **environment) as server:
        yield server


@pytest.fixture(scope="module")
def redirecting(environment, tmp_path_factory):
    """Another registry on the same store, which sends clients to it."""
    folder = tmp_path_factory.mktemp("redirecting")
    with Server(folder / "store", **environment, STORAGE_REDIRECT="true") as server:
        yield server


class TestARegistryInACloud:
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

    def test_takes_a_layer_of_many_chunks(self, server, name):
        content = bytes(range(256)) * 4096 * 40  # 40 MiB
        with Client(server.url) as client:
            digest = client.push_blob(name, content)
            assert content == client.get_blob(name, digest)


class TestARedirect:
    def test_leads_skopeo_to_the_store(self, skopeo, layouts, redirecting, name, tmp_path):
        image, place = make_image(name, layers=2), f"127.0.0.1:{redirecting.port}/{name}:v1"
        skopeo("copy", TO, f"oci:{layouts(image)}:v1", f"docker://{place}")
        skopeo("copy", FROM, f"docker://{place}", f"oci:{tmp_path}/pulled:v1")
        assert image.contents == read_layout(tmp_path / "pulled")

    def test_is_a_signed_url_of_the_store(self, redirecting, name):
        content = bytes(range(256)) * 4096
        with Client(redirecting.url) as client:
            digest = client.push_blob(name, content)
        url = f"{redirecting.url}/v2/{name}/blobs/{digest}"
        answer = requests.get(url, allow_redirects=False, timeout=20)
        assert 307 == answer.status_code
        assert content == requests.get(answer.headers["Location"], timeout=20).content
