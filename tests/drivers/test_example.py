"""The example driver, installed like one of a third party, found by its name, passes the test suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "contrib" / "example-driver"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the example is installed."""
    site = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in ("setup.py", "docker_registry_driver_sqlite.py"):  # a build writes beside its sources
        (source / file).write_bytes((EXAMPLE / file).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(site), str(source)], check=True)
    return site


@pytest.fixture(scope="module")
def environment(site):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


class TestTheExampleDriver:
    def test_is_found_by_its_name(self, environment):
        program = "from docker_registry import drivers; print(drivers.load('sqlite').__name__)"
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert ("SqliteDriver\n", "") == (done.stdout, done.stderr)

    def test_has_settings_in_the_configuration(self, environment, tmp_path):
        config = tmp_path / "config.yml"
        config.write_text(f"dev: {{storage: sqlite, sqlite_path: {tmp_path}/x.db, sqlite_timeout: 7}}")
        program = "from docker_registry.config.schema import load_config; print(dict(load_config().driver_options))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "DOCKER_REGISTRY_CONFIG": str(config)},
            capture_output=True,
            text=True,
        )
        assert f"{{'sqlite_path': '{tmp_path}/x.db', 'sqlite_timeout': 7}}\n" == done.stdout, done.stderr

    def test_passes_the_suite(self, environment, tmp_path):
        # A separate folder: concurrent runs that clean up a shared one would disturb each other.
        alone = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'pytest'}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *alone, str(EXAMPLE / "tests")],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stdout[-4000:]
