"""What the documentation promises is there, and what is there is documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from docker_registry.app import create_app
from docker_registry.cli import COMMANDS
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.server.launch import NUMBERS
from docker_registry.services import build
from docker_registry.settings import settings_of
from tests.support.clients.programs import require
from tests.support.processes import children, find, free_port, running
from tests.support.timing import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
API, OPERATIONS, SETTINGS = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("api", "operations", "settings"))


def routes():
    """Every route, as the documentation writes it."""
    app = create_app(build(Config(storage="memory"), MemoryDriver()))
    return sorted({re.sub(r"<\w+:(\w+)>", r"<\1>", rule.rule) for rule in app.url_map.iter_rules()})


class TestTheDocumentation:
    @pytest.mark.parametrize("route", routes())
    def test_has_every_route(self, route):
        documented = set(re.findall(r"[`, (](/[^\s`?,)]*)", API))
        assert route.rstrip("/") in {path.rstrip("/") for path in documented}

    @pytest.mark.parametrize("command", [command.name for command in COMMANDS])
    def test_has_every_command(self, command):
        assert f"`docker-registry {command}`" in OPERATIONS

    def test_has_every_variable_of_the_server(self):
        text = "".join((ROOT / path).read_text() for path in ("config/gunicorn.py", "docker_registry/server/launch.py"))
        names = {*re.findall(r"[\"']((?:REGISTRY|GUNICORN)_\w+)[\"']", text), *NUMBERS}
        assert {"SETTINGS_FLAVOR", "DOCKER_REGISTRY_CONFIG", "STORAGE_PATH", *names} <= set(
            re.findall(r"`(\w+)`", OPERATIONS)
        )

    @pytest.mark.parametrize("setting", [setting.name for setting in settings_of(Config)])
    def test_leads_to_every_setting(self, setting):
        assert f"`{setting}`" in SETTINGS
        assert "docs/settings.md" in README

    def test_leads_only_to_what_is_there(self):
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTE.md", *(ROOT / "docs").rglob("*.md")):
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
                assert (page.parent / target).exists(), (page.name, target)


class TestTheFirstCommand:
    @pytest.mark.slow
    def test_leads_from_a_clean_clone_to_a_registry(self, tmp_path):
        clone = tmp_path / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (command,) = re.findall(r"```sh\n(python3 -m venv.*)\n```", README)
        port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            "REGISTRY_PORT": str(port),
            "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}",
        }

        def is_ready():
            return 0 == subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/v2/"], capture_output=True).returncode

        shell = ["sh", "-c", f"cd {clone} && exec sh -c '{command}'"]
        with running(shell, tmp_path / "log", is_ready, environment, start_seconds=180):
            assert (clone / "registry-data").is_dir()


class TestTheSamples:
    def test_of_systemd_are_understood_by_it(self, tmp_path):
        systemd = find("systemd-analyze")
        if not systemd:
            pytest.skip("systemd-analyze is not installed")
        unit = tmp_path / "docker-registry.service"
        text = (ROOT / "contrib/systemd/docker-registry.service").read_text()
        unit.write_text(text.replace("/usr/local/bin/docker-registry", "/bin/true"))
        done = subprocess.run([systemd, "verify", unit], capture_output=True, text=True)
        assert "docker-registry.service" not in done.stderr

        done = subprocess.run(
            [systemd, "security", "--offline=true", "--threshold=30", unit], capture_output=True, text=True
        )
        assert 0 == done.returncode, done.stdout[-200:]

    def test_of_supervisor_runs_the_server(self, tmp_path):
        supervisord, port = require("supervisord", "supervisor"), free_port()
        sample = (ROOT / "contrib/supervisor/docker-registry.conf").read_text()
        command = tmp_path / "docker-registry"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from docker_registry.cli import main; main([])"\n')
        command.chmod(0o755)
        for place in ("/usr/local/bin", "/var/lib/docker-registry", "/var/log/docker-registry"):
            sample = sample.replace(place, str(tmp_path))
        sample = sample.replace("user=docker-registry\n", "")
        config = tmp_path / "supervisord.conf"
        config.write_text(f"[supervisord]\nlogfile={tmp_path}/supervisord.log\npidfile={tmp_path}/pid\n{sample}")
        environment = {"REGISTRY_HOST": "127.0.0.1", "REGISTRY_PORT": str(port), "GUNICORN_WORKERS": "1"}

        def answers():
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=60).close()
            except OSError:
                return False
            return True

        with running([supervisord, "-n", "-c", str(config)], tmp_path / "log", answers, environment) as process:
            assert 1 == len(children(process.pid))
            process.terminate()
            process.wait(PATIENCE_SECONDS)
        assert "stopped: docker-registry (exit status 0)" in (tmp_path / "supervisord.log").read_text()
