"""The console script: what it prints, where, and with which status."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from docker_registry import __version__, housekeeping, services
from docker_registry.auth.tokens import signing_keys
from docker_registry.auth.tokens.signing_keys import SigningKey
from docker_registry.cli import main
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.logs.audit import record_command
from tests.support.processes import find, free_port
from tests.support.servers.template import run_command

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "import sys; from docker_registry.cli import main; sys.exit(main())"


@pytest.fixture
def run(tmp_path):
    listening = {"REGISTRY_HOST": "127.0.0.1", "REGISTRY_PORT": str(free_port())}

    def run(*arguments, new_interpreter=False, prefix=(), **environment):
        environment = {"STORAGE_PATH": str(tmp_path / "store"), **listening, **environment}
        if not (new_interpreter or prefix):
            return run_command(*arguments, **environment)
        return subprocess.run(
            [*prefix, sys.executable, "-c", PROGRAM, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def sentence(done):
    """The message of a failed command: one line, and no traceback."""
    assert 2 == done.returncode, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("docker-registry: ")
    return line


def stored(store):
    """The files of a store, without the driver's own folder."""
    return sorted(path for path in store.rglob("*") if ".docker-registry" not in path.parts)


class TestACommand:
    def test_prints_the_version(self, run):
        assert f"docker-registry {__version__}\n" == run("--version", new_interpreter=True).stdout

    def test_prints_the_list_of_commands(self, run):
        for name in ("serve", "check", "config"):
            assert name in run("--help").stdout

    def test_that_does_not_exist_is_rejected(self, run):
        assert 2 == run("dance").returncode

    def test_probes_the_store(self, run, tmp_path):
        assert 0 == run("check", new_interpreter=True).returncode
        before = stored(tmp_path / "store")
        done = run("check")
        assert (0, "") == (done.returncode, done.stderr)
        assert "did you mean REGISTRY_AUTH_HTPASSWD?" in run("check", REGISTRY_AUTH_HTPASWD="users").stderr
        assert "storage file" in done.stdout
        assert before == stored(tmp_path / "store")

    def test_prints_the_configuration(self, run, tmp_path):
        done = run("config")
        assert f"storage_path: {tmp_path / 'store'}" in done.stdout
        (tmp_path / "own.yml").write_text("dev: {storage: memory}")
        assert "storage: memory" in run("config", str(tmp_path / "own.yml")).stdout
        assert "CONFIG" in sentence(run("config", "--schema", "own.yml"))

    @pytest.mark.parametrize(
        ("output", "unbuffered", "said"),
        [("| true", "", ""), ("> /dev/full", "", "No space left"), ("> /dev/full", "1", "No space left")],
    )
    def test_explains_output_that_cannot_be_written(self, tmp_path, output, unbuffered, said):
        script = f'set -o pipefail; {sys.executable} -c "{PROGRAM}" config {output}'
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "STORAGE_PATH": str(tmp_path / "store")}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode in (1, 2), said in done.stderr) == (True, True), done.stderr
        assert len(done.stderr.splitlines()) <= 1, done.stderr

    def test_masks_secrets(self, run, tmp_path):
        config = tmp_path / "config.yml"
        config.write_text("dev: {cache: {host: redis, password: hunter2}}")
        done = run("config", DOCKER_REGISTRY_CONFIG=str(config))
        assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["serve"], ["check"], []])
class TestAFailedStart:
    def test_reports_an_unknown_setting(self, run, tmp_path, command):
        config = tmp_path / "config.yml"
        config.write_text("dev: {storge: file}")
        line = sentence(run(*command, DOCKER_REGISTRY_CONFIG=str(config)))
        assert (True, True) == (str(config) in line, "storage" in line)

    def test_reports_settings_that_exclude_each_other(self, run, command):
        assert "standalone: false" in sentence(run(*command, STANDALONE="false"))

    def test_reports_a_missing_file(self, run, command):
        for path in ("no.yml", "~unknown/no.yml"):
            assert path in sentence(run(*command, DOCKER_REGISTRY_CONFIG=path))

    def test_reports_an_unknown_flavor(self, run, command):
        assert "dev" in sentence(run(*command, SETTINGS_FLAVOR="devv"))

    def test_reports_a_driver_that_is_not_installed(self, run, command):
        assert "docker-registry-driver-oss" in sentence(run(*command, SETTINGS_FLAVOR="oss"))

    def test_reports_a_store_that_is_not_a_folder(self, run, tmp_path, command):
        (tmp_path / "file").write_bytes(b"")
        assert "cannot be used" in sentence(run(*command, STORAGE_PATH=str(tmp_path / "file")))

    def test_reports_a_store_without_write_permission(self, run, tmp_path, command):
        if os.geteuid() != 0 or not find("setpriv"):
            pytest.skip("a store of another user needs root, and setpriv to lay its powers down")
        store = tmp_path / "store"
        store.mkdir(mode=0o755)
        os.chown(store, 65534, 65534)
        # Still root, so that this Python can be read, but without the capability to override permissions.
        powerless = [find("setpriv"), "--bounding-set=-dac_override,-dac_read_search,-fowner"]
        assert "Permission denied; the store must belong to" in sentence(run(*command, prefix=powerless))


class TestACommandOfRoot:
    @pytest.mark.skipif(os.geteuid() != 0 or not find("unshare"), reason="only root may mount a file system")
    def test_reports_a_store_that_is_mounted_read_only(self, run, tmp_path):
        mount = ["sh", "-c", f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec "$@"', "sh"]
        line = sentence(run("check", prefix=["unshare", "--mount", *mount]))
        assert "Read-only file system" in line

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as the owner of a store")
    def test_creates_files_as_the_user_of_the_server(self, run, tmp_path):
        store, new, private = tmp_path / "store", tmp_path / "new", tmp_path / "private"
        store.mkdir()
        os.chown(store, 65534, 65534)
        private.mkdir(mode=0o700)
        users = {"REGISTRY_AUTH_HTPASSWD": str(private / "users")}
        workers = {"STORAGE_PATH": str(new), "GUNICORN_USER": "65534", "GUNICORN_GROUP": "65534"}
        add_user = f"import sys, io; sys.stdin = io.StringIO('secret'); {PROGRAM}"
        adding = [sys.executable, "-c", add_user, "user", "add", "alice"]
        subprocess.run(adding, cwd=ROOT, env={**os.environ, **users, "STORAGE_PATH": str(store)}, check=True)
        robot, backup = ["robot", "add", "ci", "--scope", "acme/**:pull"], ["backup", str(private / "backup")]
        for command, environment in ((["check"], {}), (robot, {}), (backup, {}), (robot, workers)):
            done = run(*command, **users, **environment)
            assert 0 == done.returncode, done.stderr
        created = [store, *store.rglob("*"), new, *new.rglob("*"), private / "users"]
        assert [] == [path for path in created if path.stat().st_uid != 65534]
        os.chown(private / "users", 0, 4)
        adding[-1] = "bob"
        subprocess.run(adding, cwd=ROOT, env={**os.environ, **users, "STORAGE_PATH": str(store)}, check=True)
        assert (0, 4) == ((private / "users").stat().st_uid, (private / "users").stat().st_gid)


class TestTheEnvironment:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("REGISTRY_PORT", "x"),
            ("REGISTRY_PORT", "0"),
            ("REGISTRY_PORT", "70000"),
            ("GUNICORN_WORKERS", "0"),
            ("GUNICORN_WORKERS", "-1"),
            ("GUNICORN_GRACEFUL_TIMEOUT", "1.5"),
            ("GUNICORN_SILENT_TIMEOUT", "soon"),
            ("GUNICORN_OPTS", "'"),
            ("GUNICORN_OPTS", "--wrokers 3"),
            ("GUNICORN_OPTS", "--workers many"),
            ("GUNICORN_OPTS", "--bind 127.0.0.1:many"),
            ("GUNICORN_OPTS", "--bind 127.0.0.1:65536"),
            ("GUNICORN_USER", "no-such-user"),
            ("GUNICORN_ACCESS_LOG_FILE", "/nowhere/access.log"),
            ("GUNICORN_ERROR_LOG_FILE", "/"),
            ("GUNICORN_ERROR_LOG_FILE", f"/{'a' * 256}/error.log"),
        ],
    )
    def test_must_be_valid(self, run, name, value):
        assert name in sentence(run("serve", **{name: value}))

    def test_must_name_a_user_that_the_process_can_become(self, run):
        if os.geteuid() != 0 or not find("setpriv"):
            pytest.skip("only root may switch to another user, and setpriv drops its capabilities")
        powerless = [find("setpriv"), "--bounding-set=-setuid,-setgid"]
        line = sentence(run("check", prefix=powerless, GUNICORN_USER="65534", GUNICORN_GROUP="65534"))
        assert "GUNICORN_USER, GUNICORN_GROUP: cannot switch to user 65534" in line

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("REGISTRY_PORT", "99999"),
            ("GUNICORN_WORKERS", "0"),
            ("GUNICORN_OPTS", "--wrokers 3"),
            ("GUNICORN_ERROR_LOG_FILE", "/nowhere/error.log"),
        ],
    )
    def test_is_checked_without_serving(self, run, name, value):
        assert name in sentence(run("check", **{name: value}))

    @pytest.mark.parametrize("command", ["serve", "check"])
    def test_must_name_an_address_of_this_machine(self, run, command):
        for host in ("192.0.2.1", "a..b"):
            assert f"{host} port" in sentence(run(command, REGISTRY_HOST=host))

    def test_may_be_checked_beside_the_server_that_uses_it(self, run):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            assert 0 == run("check", REGISTRY_PORT=port).returncode
            assert "Address already in use. REGISTRY_PORT chooses" in sentence(run("serve", REGISTRY_PORT=port))

    def test_of_kubernetes_is_not_mistaken_for_a_port(self):
        from docker_registry.server.launch import number

        assert 5000 == number({"REGISTRY_PORT": "tcp://10.0.0.1:5000"}, "REGISTRY_PORT", 5000)


class TestTheCheckBeforeAReload:
    """It runs in a fork of gunicorn's master, which must end even if its output cannot be written."""

    def test_ends_its_process_within_a_time_and_prints_unexpected_errors(self):
        program = """
import os, sys
from docker_registry.cli.serve import _check_in_child

sys.stdout = None
statuses = [_check_in_child(lambda: 1 // 0), _check_in_child(lambda: os.kill(os.getpid(), 9))]
statuses.append(_check_in_child(lambda: os.read(os.pipe()[0], 1), 1))
sys.stdout = open("/dev/full", "w")
statuses.append(_check_in_child(lambda: print("summary") or 0))
os.write(2, f"returned {statuses}".encode())
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert 1 == done.stderr.count("ZeroDivisionError: ")
        assert "docker-registry: the check was ended by a signal: Killed" in done.stderr.splitlines()
        assert "docker-registry: the check did not end within 1 s" in done.stderr.splitlines()
        assert "returned [2, 2, 2, 0]" == done.stderr.splitlines()[-1]
        assert 1 == done.stderr.count("returned")


class TestAChangeWithoutARequest:
    def test_by_a_command_is_audited(self, run, tmp_path):
        audit = tmp_path / "audit.log"
        environment = {"STORAGE_PATH": str(tmp_path / "store"), "SEARCH_BACKEND": "", "REGISTRY_AUDIT_LOG": str(audit)}
        assert 0 == run("readonly", "on", "--why", "a move", **environment).returncode
        assert 0 == run("readonly", "status", **environment).returncode
        (line,) = [json.loads(line) for line in audit.read_text().splitlines()]
        assert ("change", "system", "cli", getpass.getuser()) == tuple(
            line[name] for name in ("event", "principal", "reason", "operator")
        )
        assert "docker-registry readonly on --why 'a move'" == line["message"]
        done = run("readonly", "off", **{**environment, "REGISTRY_AUDIT_LOG": str(tmp_path)})
        assert (0, "writes are allowed\n") == (done.returncode, done.stdout)
        assert f"audit_log: {tmp_path} cannot be written: Is a directory" in done.stderr

    def test_by_a_user_without_a_name_is_audited(self, tmp_path, monkeypatch):
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.getuid", lambda: 4_294_967_000)  # as in containers that run with any number
        record_command(str(tmp_path / "audit.log"), "docker-registry readonly on")
        assert "4294967000" == json.loads((tmp_path / "audit.log").read_text())["operator"]

    def test_by_an_interrupted_command_is_audited(self, tmp_path, monkeypatch):
        audit = tmp_path / "audit.log"
        environment = {"STORAGE_PATH": str(tmp_path / "store"), "SEARCH_BACKEND": "", "REGISTRY_AUDIT_LOG": str(audit)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", buffering=1) as broken_pipe:
            monkeypatch.setattr(sys, "stdout", broken_pipe)
            assert 1 == main(["readonly", "on", "--why", "x"])
        (line,) = audit.read_text().splitlines()
        assert "docker-registry readonly on --why x (failed or interrupted)" == json.loads(line)["message"]

    def test_by_housekeeping_is_audited(self, tmp_path):
        audit = tmp_path / "audit.log"
        users, driver = tmp_path / "users", MemoryDriver()
        users.touch()
        config = Config(storage="memory", audit_log=str(audit), upload_ttl=-1, auth=Auth(htpasswd=users))
        key = {"keys": [SigningKey.generate("ES256", created=0).to_json()]}
        driver.put_content(signing_keys.PATH, json.dumps(key).encode())
        with services.build(config, driver) as built:
            housekeeping._purge(built)
            built.registry.uploads.start(None)
            housekeeping._purge(built)
            for _ in range(2):
                housekeeping._maintain_tokens(built)
            built.audit.close()
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        assert [("change", "system", "gc")] * 2 == [
            (line["event"], line["principal"], line["reason"]) for line in lines
        ]
        message = "deleted 1 abandoned uploads, added 0 repositories written by other software to the catalog"
        assert message == lines[0]["message"]
        assert "replaced the key that signs access tokens" == lines[1]["message"]
