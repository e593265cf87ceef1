"""The server as a whole: start, stop and failures."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import requests

from docker_registry.config.sections import Tls
from docker_registry.errors import ConfigError
from docker_registry.logs.setup import start_logging
from docker_registry.server import launch
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, push
from tests.support.processes import free_port, listens
from tests.support.servers.registry import ROOT, Server
from tests.support.timing import wait_until

CONTENT = os.urandom(30_000_000)
DIGEST = digest_of(CONTENT)


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "store", workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """One server for all tests that do not change it."""
    with Server(tmp_path_factory.mktemp("lasting") / "store", workers=2, new_interpreter=True) as server:
        yield server


class TestSigterm:
    def test_stops_an_idle_server_at_once(self, server):
        with requests.Session() as session:
            session.get(f"{server.url}/v2/", timeout=20)  # its connection stays open
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)  # a transfer may take an hour to end
        assert 0 == server.process.returncode

    def test_completes_transfers_and_accepts_no_new_ones(self, server):
        requests.post(f"{server.url}/v2/a/blobs/uploads/?digest={DIGEST}", data=CONTENT, timeout=30)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(f"GET /v2/a/blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = bytearray(connection.recv(1000))  # appending to bytes would copy them each time
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not listens(server.port))
            while block := connection.recv(1_000_000):
                received += block
        assert received.endswith(CONTENT)
        server.process.wait(60)

    def test_completes_an_upload(self, server):
        with Client(server.url) as client:
            start = client.session.post(f"{server.url}/v2/a/blobs/uploads/", timeout=20)
        url = server.url + start.headers["Location"]

        def slowly():
            yield CONTENT[:1000]
            server.process.send_signal(signal.SIGTERM)
            time.sleep(2)
            yield CONTENT[1000:]

        answer = requests.put(url, params={"digest": DIGEST}, data=slowly(), timeout=30)
        assert 201 == answer.status_code
        server.process.wait(60)

    def test_completes_the_search_index(self, tmp_path):
        indexed = tmp_path / "indexed"
        environment = {"SEARCH_BACKEND": "tests.support.slow_index", "INDEXED": str(indexed)}
        with Server(tmp_path / "store", **environment) as server, Client(server.url) as client:
            push(client, "acme/web", "v1", make_image("indexed", layers=1))
        assert ["acme/web"] == indexed.read_text().split()


class TestAWorker:
    def test_stops_by_a_signal_that_arrives_right_after_its_fork(self, tmp_path):
        config = tmp_path / "gunicorn.py"
        config.write_text(
            f"exec(open({str(launch.gunicorn_config())!r}).read())\n"
            "import os, signal\n"
            "def post_fork(server, worker):\n"
            "    if worker.age == 1: signal.raise_signal(signal.SIGTERM)\n"
        )
        with Server(tmp_path / "store", GUNICORN_OPTS=f"--config {config}") as server:
            wait_until(lambda: server.log.read_text().count("Booting worker") == 2)  # the first one has ended
            assert 1 == len(server.worker_pids())


class TestAKilledWorker:
    def test_is_replaced(self, server):
        for worker in server.worker_pids():
            os.kill(worker, signal.SIGKILL)

        def answers():
            with contextlib.suppress(requests.RequestException):
                return 200 == requests.get(f"{server.url}/v2/", timeout=5).status_code

        wait_until(answers)


class TestAWorkerThatCannotStart:
    def test_is_started_again_while_others_serve(self, tmp_path):
        config, failing = tmp_path / "gunicorn.py", tmp_path / "failing"
        config.write_text(
            f"exec(open({str(launch.gunicorn_config())!r}).read())\n"
            "import docker_registry.server.master as master\n"
            "master._RETRY_SECONDS = 0.2\n"
            "def post_fork(server, worker):\n"
            f"    if os.path.exists({str(failing)!r}):\n"
            f"        os.remove({str(failing)!r})\n"
            "        os.environ['SETTINGS_FLAVOR'] = 'nothing'\n"
        )
        options = f"--config {config} --access-logformat 'by %(p)s'"
        with Server(tmp_path / "store", workers=2, GUNICORN_OPTS=options) as server:

            def both_serve():
                assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code
                workers = server.worker_pids()
                return 2 == len(workers) and all(f"by <{worker}>" in server.log.read_text() for worker in workers)

            wait_until(both_serve)
            old = set(server.worker_pids())
            failing.touch()
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: both_serve() and not old & set(server.worker_pids()))
            assert "exited with code 3" in server.log.read_text()


class TestTheMaster:
    def test_imports_modules_with_locks_and_sockets_after_monkey_patching(self):
        program = """
import sys

from docker_registry.server import launch

def witness(event, arguments):
    if event == "import" and arguments[0] in {"flask", "requests", "sqlalchemy", "gunicorn.workers.ggevent"}:
        import gevent.monkey

        assert gevent.monkey.is_module_patched("socket"), arguments[0]
        assert gevent.monkey.is_module_patched("threading"), arguments[0]
        seen.add(arguments[0])

seen = set()
sys.addaudithook(witness)
launch.import_modules()
import docker_registry.app
assert {"flask", "gunicorn.workers.ggevent"} <= seen, seen
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "" == done.stderr

    def test_has_imported_the_modules_that_its_workers_need(self, lasting):
        # Flask imports a shared library, whose presence shows it without asking the process.
        with open(f"/proc/{lasting.process.pid}/maps") as maps:
            assert "markupsafe" in maps.read()


class TestAStart:
    def test_on_a_used_port_is_rejected(self, tmp_path):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            environment = {"REGISTRY_HOST": "127.0.0.1", "REGISTRY_PORT": str(listener.getsockname()[1])}
            program = "import sys; from docker_registry.cli import main; sys.exit(main())"
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env={**os.environ, **environment, "STORAGE_PATH": str(tmp_path / "store")},
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert 2 == done.returncode
        assert ["docker-registry: "] == [line[:17] for line in done.stderr.splitlines()]

    @pytest.mark.parametrize("option", ["--workers", "--worker-connections"])
    def test_without_room_for_a_connection_is_rejected(self, option):
        with pytest.raises(ConfigError, match=option):
            launch.check_options({"GUNICORN_OPTS": f"{option} 0"}, Tls())

    def test_with_an_option_that_only_prints_something_is_rejected(self):
        with pytest.raises(ConfigError, match="--help and --version do not start the server"):
            launch.check_options({"GUNICORN_OPTS": "--version"}, Tls())

    def test_by_gunicorn_itself_serves(self, tmp_path):
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}", "-w", "1"]
        server = Server(tmp_path / "store", command=[*command, "docker_registry.wsgi:application"], port=port)
        with server:
            url = f"{server.url}/v2/a/blobs"
            start = requests.post(f"{url}/uploads/", timeout=20)
            chunks = iter([CONTENT[:1000], CONTENT[1000:]])
            requests.patch(server.url + start.headers["Location"], data=chunks, timeout=30)
            answer = requests.put(server.url + start.headers["Location"], params={"digest": DIGEST}, timeout=30)
            assert 201 == answer.status_code
            assert CONTENT == requests.get(f"{url}/{DIGEST}", timeout=30).content

    def test_by_gunicorn_with_a_wrong_configuration_prints_one_sentence(self, tmp_path):
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{free_port()}"]
        done = subprocess.run(
            [*command, "docker_registry.wsgi:application"],
            cwd=ROOT,
            env={**os.environ, "SETTINGS_FLAVOR": "nothing"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert 0 != done.returncode
        assert 1 == done.stderr.count("docker-registry: ")
        assert "Traceback" not in done.stderr


class TestTheLog:
    @pytest.mark.parametrize(
        ("level", "expected"), [("info", 1), ("warning", 0), pytest.param("error", 0, marks=pytest.mark.slow)]
    )
    def test_contains_messages_of_the_configured_level(self, tmp_path, level, expected):
        with Server(tmp_path / "store", LOGLEVEL=level) as server:
            wait_until(lambda: server.log.read_text().count("abandoned uploads") >= expected)
        assert expected == server.log.read_text().count("abandoned uploads")

    def test_cannot_be_forged_by_a_client(self, lasting):
        forged = '\n127.0.0.1 - - "GET /forged HTTP/1.1" 200'
        for user in (f"me{forged}", "me\r\x1b[2J", "me\u2028\u202e\x85"):
            requests.get(f"{lasting.url}/v2/", auth=(user.encode(), b"x"), timeout=20)
        requests.get(f"{lasting.url}/v2/last", headers={"Referer": b"\x85\x9b2J"}, timeout=20)
        wait_until(lambda: "/v2/last" in lasting.log.read_text())
        # The other worker may write its lines later.
        wait_until(lambda: "me\\n127.0.0.1" in lasting.log.read_text())
        lines = lasting.log.read_text().split("\n")
        assert all(line.isprintable() for line in lines)
        assert not any(line.startswith('127.0.0.1 - - "GET /forged') for line in lines)

    def test_of_errors_cannot_be_forged_by_a_client(self, caplog, monkeypatch):
        caplog.set_level("INFO", "docker_registry")  # and back again, for other tests
        for name in ("handlers", "propagate"):
            monkeypatch.setattr(logging.getLogger("docker_registry"), name, None)
        start_logging("info")
        logger = logging.getLogger("docker_registry.test")
        (handler,) = logging.getLogger("docker_registry").handlers
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, "GET %s", ("/v1/a\nforged\x1b",), None)
        assert handler.filter(record)
        assert "GET /v1/a\\nforged\\x1b" == record.getMessage()

    def test_names_every_request_once(self, lasting):
        requests.get(f"{lasting.url}/v2/once/tags/list", timeout=20)
        line = '"GET /v2/once/tags/list HTTP/1.1" 404'
        wait_until(lambda: line in lasting.log.read_text())  # it is written after the answer
        assert 1 == lasting.log.read_text().count(line)

    def test_names_no_request_if_disabled(self, tmp_path):
        with Server(tmp_path / "store", GUNICORN_ACCESS_LOG_FILE="none") as server:
            for _ in range(3):  # the last ones come from the response cache
                assert requests.get(f"{server.url}/v2/", timeout=20).status_code == 200
            time.sleep(0.3)
        assert "GET /v2/" not in server.log.read_text()
        assert not (ROOT / "none").exists()


class TestAFullDisk:
    @pytest.fixture
    def small(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        place = tmp_path / "small"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        yield place
        subprocess.run(["umount", "-l", place], check=True)

    def test_is_reported_leaves_nothing_and_is_recovered_from(self, small):
        with Server(small / "store") as server:
            start = requests.post(f"{server.url}/v2/a/blobs/uploads/", timeout=20)
            url = server.url + start.headers["Location"]
            for method in ("PATCH", "PUT"):
                answer = requests.request(method, url, params={"digest": DIGEST}, data=CONTENT, timeout=30)
                assert 507 == answer.status_code
                assert "STORAGE_FULL" == answer.json()["errors"][0]["code"]
            assert not any((small / "store/.docker-registry/aside").glob("*/*"))
            fitting = CONTENT[:1_000_000]
            answer = requests.put(url, params={"digest": digest_of(fitting)}, data=fitting, timeout=30)
            assert 201 == answer.status_code


class TestHeadersOfProxies:
    """They change neither the path nor the scheme, from any client."""

    def test_do_not_move_the_path(self, lasting):
        for header in ("SCRIPT_NAME", "Script-Name", "PATH_INFO"):
            answer = requests.get(f"{lasting.url}/v2/a/tags/list", headers={header: "/v2"}, timeout=20)
            assert (404, "NAME_UNKNOWN") == (answer.status_code, answer.json()["errors"][0]["code"])

    def test_may_contradict_each_other(self, lasting):
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off", "X-Forwarded-Protocol": "http"}
        assert 200 == requests.get(f"{lasting.url}/v2/", headers=headers, timeout=20).status_code


class TestTheAddress:
    @pytest.mark.parametrize(
        ("host", "url"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("::", "127.0.0.1"), ("::", "[::1]")]
    )
    def test_may_be_of_ipv6(self, tmp_path, host, url):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        with _Elsewhere(tmp_path / "store", url, REGISTRY_HOST=host) as server:
            assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code

    def test_of_the_options_of_gunicorn_replaces_the_other(self):
        with socket.create_server(("0.0.0.0", 0)) as used:
            environment = {"REGISTRY_PORT": str(used.getsockname()[1]), "GUNICORN_OPTS": "-b unix:/run/a -b [::1]:5000"}
            launch.check_address(environment)
            assert ["unix:/run/a", "[::1]:5000"] == launch.addresses(environment)
            assert launch.is_loopback(environment)
            bound = ["127.0.0.1", "[::1]", "tcp://localhost:80", "0.0.0.0:80"]
            local = [each for each in bound if launch.is_loopback({**environment, "GUNICORN_OPTS": f"-b {each}"})]
            assert bound[:3] == local
            with pytest.raises(ConfigError, match="cannot be opened"):
                launch.check_address({**environment, "GUNICORN_OPTS": "--backlog 10"})

    def test_of_a_name_is_that_of_ipv4(self, monkeypatch):
        found = {socket.AF_INET6: ("::1", 1, 0, 0), socket.AF_INET: ("127.0.0.1", free_port())}

        def look_up(_host, _port, family=0, *_, **__):
            return [(kind, 1, 6, "", place) for kind, place in found.items() if family in (0, kind)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with socket.create_server(found[socket.AF_INET]), pytest.raises(ConfigError, match="in use"):
            launch.check_address({"REGISTRY_HOST": "localhost"})


class _Elsewhere(Server):
    """A server at another address of this machine."""

    def __init__(self, store, host, **environment):
        super().__init__(store, **environment)
        self.url = f"http://{host}:{self.port}"


class TestAnotherUser:
    @pytest.fixture
    def folder(self):
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        with tempfile.TemporaryDirectory(prefix="docker-registry-tests-") as folder:
            os.chmod(folder, 0o755)
            yield Path(folder)

    def test_serves_a_new_store(self, folder):
        # Without search: its library is imported on first use, and may be readable by root only.
        environment = {"GUNICORN_USER": "nobody", "GUNICORN_GROUP": "nogroup", "SEARCH_BACKEND": ""}
        with Server(folder / "new/store", **environment) as server:
            pushed = requests.post(f"{server.url}/v2/a/blobs/uploads/?digest={DIGEST}", data=CONTENT, timeout=30)
            assert 201 == pushed.status_code
            for path in (server.store, *server.store.rglob("*")):
                assert "nobody" == path.owner(), path
            assert {"65534"} <= {owner_of(pid) for pid in server.worker_pids()}

    def test_opens_its_log_again_or_keeps_it(self, folder):
        log, renamed = folder / "logs/errors", folder / "renamed/errors"
        log.parent.mkdir()
        environment = {"GUNICORN_USER": "nobody", "GUNICORN_GROUP": "nogroup", "SEARCH_BACKEND": ""}
        with Server(folder / "new/store", GUNICORN_ERROR_LOG_FILE=str(log), **environment) as server:

            def is_logged_in(file):
                with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                    connection.sendall(b"NOT HTTP\r\n\r\n")
                    assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
                return file.exists() and "Invalid request" in file.read_text()

            log.rename(folder / "errors.1")
            server.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: is_logged_in(log))
            log.parent.rename(renamed.parent)
            server.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: 2 == renamed.read_text().count("cannot be opened again"))  # by master and worker
            assert is_logged_in(renamed)

    def test_that_does_not_exist_is_rejected(self, tmp_path):
        with pytest.raises(RuntimeError, match="docker-registry: GUNICORN_USER"):
            Server(tmp_path / "store", GUNICORN_USER="no-such-user").start()


def owner_of(pid):
    """The user that a process runs as, by number."""
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)[1]


class TestTheSearchDatabase:
    def test_is_beside_the_data_and_readable_by_its_owner_only(self, tmp_path):
        with Server(tmp_path / "store", SQLALCHEMY_INDEX_DATABASE="") as server:
            kind = subprocess.run(["stat", "-f", "-c", "%T", server.store], capture_output=True, text=True).stdout
            if kind.strip() not in ("ext2/ext3", "xfs", "btrfs"):
                pytest.skip("the tests do not run on a disk")
            files = list((server.store / ".docker-registry").glob("search.db*"))
            assert files
            assert {0o600} == {path.stat().st_mode & 0o777 for path in files}


class TestManyTransfersAtOnce:
    def test_all_arrive(self, lasting):
        failed = []

        def transfer(number):
            content = CONTENT[number : number + 5_000_000]
            url = f"{lasting.url}/v2/a/n{number}/blobs"
            pushed = requests.post(f"{url}/uploads/", params={"digest": digest_of(content)}, data=content, timeout=60)
            pulled = requests.get(f"{url}/{digest_of(content)}", timeout=60)
            if (pushed.status_code, pulled.content) != (201, content):
                failed.append(number)

        threads = [threading.Thread(target=transfer, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == failed
