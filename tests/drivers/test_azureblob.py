"""The contract of drivers on a real Azurite, and what is Azure's alone."""

from __future__ import annotations

import pytest

pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")

from docker_registry.drivers.azureblob import AzureBlobDriver
from docker_registry.drivers.testing import DriverSuite
from tests.azurite import run_azurite

KIB = 1024


@pytest.fixture(scope="module")
def azurite():
    with run_azurite() as server:
        yield server


@pytest.fixture
def options(azurite):
    return {**azurite.options(), "storage_path": "/registry", "azure_block_bytes": 256 * KIB}


@pytest.fixture
def driver(options):
    driver = AzureBlobDriver(**options)
    yield driver
    driver.close()


class TestAzureBlobDriver(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = AzureBlobDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, azurite):
        """One whose container is gone."""
        driver = AzureBlobDriver(**options)
        with azurite.connect() as client:
            client.delete_container(options["azure_storage_container"])
        yield driver
        driver.close()
