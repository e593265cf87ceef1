"""The contract of drivers on an emulator of Google Cloud Storage, and what is Google's alone."""

from __future__ import annotations

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

from docker_registry.drivers.gcs import GcsDriver
from docker_registry.drivers.testing import DriverSuite
from tests.gcs_server import run_gcs

KIB = 1024


@pytest.fixture(scope="module")
def gcs():
    with run_gcs() as server:
        yield server


@pytest.fixture
def options(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    return {"gcs_bucket": gcs.make_bucket(), "storage_path": "/registry", "gcs_chunk_bytes": 256 * KIB}


@pytest.fixture
def driver(options):
    driver = GcsDriver(**options)
    yield driver
    driver.close()


class TestGcsDriver(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = GcsDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, gcs):
        """One that has lost every right."""
        driver = GcsDriver(**options)
        gcs.forbid(options["gcs_bucket"])
        yield driver
        driver.close()
