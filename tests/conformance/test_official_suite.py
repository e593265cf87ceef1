"""
The OCI Distribution Specification's own suite, all of it, against a real server with two workers.

The suite is a Go program; it is installed as a Go module at the version below.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from tests.support.servers.registry import Server

MODULE = "github.com/opencontainers/distribution-spec/conformance"
VERSION = "v0.0.0-20260831232431-97274622c111"

#: What a version of the specification does not demand yet, and we do all the same.
SWITCHES = {
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_API_BLOBS_MOUNT_ANONYMOUS": "true",
    "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
    "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_TAG_PARAM": "true",
    "OCI_API_REFERRER": "true",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The program, installed once and kept in Go's own cache between runs."""
    if not shutil.which("go"):
        pytest.skip("the specification's suite needs Go, which is not installed")
    folder = tmp_path_factory.mktemp("suite")
    subprocess.run(["go", "install", f"{MODULE}@{VERSION}"], env={**os.environ, "GOBIN": str(folder)}, check=True)
    return folder / "conformance"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("conformance") / "store", workers=2) as server:
        yield server


@pytest.mark.parametrize("version", ["1.0", "1.1", "dev"])
class TestTheOfficialSuite:
    def test_passes_whole(self, suite, server, tmp_path, version):
        repository = f"conformance/v{version.replace('.', '-')}"
        environment = {
            **os.environ,
            **SWITCHES,
            "OCI_REGISTRY": f"127.0.0.1:{server.port}",
            "OCI_TLS": "disabled",
            "OCI_REPO1": f"{repository}/one",
            "OCI_REPO2": f"{repository}/two",
            "OCI_VERSION": version,
            "OCI_RESULTS_DIR": str(tmp_path),
        }
        done = subprocess.run([suite], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        report = ElementTree.parse(tmp_path / "junit.xml").getroot()
        cases = list(report.iter("testcase"))
        bad = [case.get("name") for case in cases if case.get("status") not in ("passed", "disabled", "skipped")]
        skipped = [case.get("name") for case in cases if case.get("status") == "skipped"]
        print(f"OCI {version}: {len(cases)} cases, {len(bad)} failed, {len(skipped)} skipped")
        assert ([], []) == (bad, skipped), done.stdout[-4000:]
        assert len(cases) > 500
