"""The distributions for pip."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.clients import programs
from tests.support.processes import find, free_port, listens, running
from tests.support.servers.template import ROOT

SAMPLES = tuple(f"docker_registry/sample/{name}" for name in ("config_sample.yml", "distribution.yml", "gunicorn.py"))


TOP_LEVEL = """
    .ci .dockerignore .gitignore CHANGELOG.md CONTRIBUTE.md Dockerfile LICENSE MANIFEST.in README.md config contrib
    docker_registry docs pyproject.toml requirements.txt setup.py tests
"""


class TestTheRepository:
    def test_has_no_files_that_tests_left(self):
        """Commands create files in the current folder if their arguments are taken for paths, stores in fixtures."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
        paths = listed.stdout.rstrip("\0").split("\0")
        assert set(TOP_LEVEL.split()) == {path.partition("/")[0] for path in paths}
        assert [] == [path for path in paths if "/.docker-registry/" in path]


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

    @pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
    def test_runs_in_a_clean_environment(self, version, distributions, tmp_path):
        python = interpreter(version) or programs.missing(f"Python {version} is not installed")
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        for distribution in distributions:
            folder = tmp_path / distribution.suffix.strip(".")
            commands = ([python, "-m", "venv", folder], [folder / "bin/pip", "install", "--quiet", distribution])
            for command in commands:
                done = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path)
                assert 0 == done.returncode, done.stderr[-2000:]
            (package,) = folder.glob("lib/python3.*/site-packages/docker_registry")
            assert all((package.parent / sample).is_file() for sample in SAMPLES)
            assert list(package.parent.glob("docker_registry-*.dist-info/**/LICENSE"))

            work, port = tmp_path / f"work-{folder.name}", free_port()
            work.mkdir()
            environment = {"REGISTRY_PORT": str(port), "REGISTRY_HOST": "127.0.0.1", "GUNICORN_WORKERS": "1"}
            command = ["env", "-C", str(work), "-u", "PYTHONPATH", str(folder / "bin/docker-registry")]
            with running(command, work / "log", lambda port=port: listens(port), environment):
                assert (work / "registry-data").is_dir()
            assert f"{package}/sample/config_sample.yml" in (work / "log").read_text()


def interpreter(version):
    """Return the path of a Python; pyenv keeps its own outside the search path."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    return next(iter(sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)), None) or find(
        f"python{version}"
    )
