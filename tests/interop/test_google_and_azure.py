"""Registries on stores of Google and Azure, with a real client."""

from __future__ import annotations

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")

from tests.interop.stores import RedirectSuite, StoreSuite
from tests.support.servers.azurite import KEY, NAME, run_azurite
from tests.support.servers.gcs import make_service_account, run_gcs
from tests.support.servers.registry import Server


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
    """Another registry on the same store, which redirects clients to it."""
    folder = tmp_path_factory.mktemp("redirecting")
    with Server(folder / "store", **environment, STORAGE_REDIRECT="true") as server:
        yield server


class TestARegistryInACloud(StoreSuite):
    pass


class TestARedirect(RedirectSuite):
    pass
