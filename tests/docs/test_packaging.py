"""The distributions for pip."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.support.servers.template import ROOT

SAMPLES = ("docker_registry/sample/config_sample.yml", "docker_registry/sample/gunicorn.py")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A source distribution and a wheel made of it, as they are published."""
    folder = tmp_path_factory.mktemp("distributions")
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", str(folder)], cwd=clone, check=True, capture_output=True
    )
    (source,) = folder.glob("*.tar.gz")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.mark.slow
class TestADistribution:
    def test_contains_the_samples_and_the_licence(self, distributions):
        source, wheel = distributions
        with tarfile.open(source) as archive:
            files = {name.partition("/")[2] for name in archive.getnames()}
        assert {"LICENSE", "CHANGELOG.md", "config/config_sample.yml", "docs/settings.md"} <= files
        files = zipfile.ZipFile(wheel).namelist()
        assert set(SAMPLES) <= set(files)
        assert any(name.endswith("LICENSE") for name in files)
        assert not any(name.startswith("tests/") for name in files)
