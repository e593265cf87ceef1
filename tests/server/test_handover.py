"""A server whose socket another process keeps open, so that a restart with new code fails no request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from docker_registry.errors import ConfigError
from docker_registry.server import inherited_sockets, launch
from tests.support.servers.registry import COMMAND, Server
from tests.support.timing import wait_until

MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}

#: Runs a command as systemd does: descriptor 3 is the socket.
ACTIVATED = (
    "import os, sys; os.dup2(int(os.environ['SOCKET']), 3); "
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])"
)


class ActivatedServer(Server):
    """A server that is given a socket by the test."""

    def __init__(self, store, listener):
        command = (sys.executable, "-c", ACTIVATED, *COMMAND)
        super().__init__(store, command=command, port=listener.getsockname()[1], SOCKET=str(listener.fileno()))
        self.environment["REGISTRY_PORT"] = "1"  # not used: the socket decides
        self.listener = listener

    def _start(self, environment, log):
        return subprocess.Popen(
            self.command,
            cwd=self.root,
            env=environment,
            stdout=log,
            stderr=log,
            pass_fds=[self.listener.fileno()],
            start_new_session=True,
        )


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener


class TestAServerStartedBySystemd:
    def test_answers_requests_that_arrive_during_a_restart(self, tmp_path, listener):
        with ActivatedServer(tmp_path / "store", listener) as server:
            url = f"{server.url}/v2/acme/web/manifests/v1"
            assert 201 == requests.put(url, data=MANIFEST, headers=TYPE, timeout=60).status_code
            server.stop()
            statuses = []
            waiting = threading.Thread(target=lambda: statuses.append(requests.get(url, timeout=120).status_code))
            waiting.start()
            server.start()
            waiting.join(120)
            assert [200] == statuses


class TestASuccessor:
    """SIGUSR2 starts a second master on the same sockets; SIGTERM then ends the first."""

    def test_takes_over_without_a_failed_request(self, tmp_path):
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(60)
        server = Server(tmp_path / "store", new_interpreter=True, NOTIFY_SOCKET=str(tmp_path / "notify"))
        with notified, server:
            old, successor = server.process, 0
            failures, done, over = [], [], threading.Event()
            url = f"{server.url}/v2/acme/web/manifests/v"

            def act():
                with requests.Session() as session:
                    for number in range(1_000_000):
                        if over.is_set():
                            return
                        try:
                            put = session.put(f"{url}{number % 20}", data=MANIFEST, headers=TYPE, timeout=60)
                            get = session.get(f"{url}{number % 20}", timeout=60)
                            assert (201, 200) == (put.status_code, get.status_code)
                            done.append(number)
                        except (requests.RequestException, AssertionError) as error:
                            failures.append(repr(error))

            clients = [threading.Thread(target=act) for _ in range(2)]
            for client in clients:
                client.start()
            try:
                wait_until(lambda: len(done) > 10)
                old.send_signal(signal.SIGUSR2)
                successor = wait_until(lambda: next(iter(masters(old.pid)), 0))
                wait_until(lambda: children(successor))
                count = len(done)
                wait_until(lambda: len(done) > count + 20)  # both serve now
                old.send_signal(signal.SIGTERM)
                old.wait(120)
                count = len(done)
                wait_until(lambda: len(done) > count + 20)
            finally:
                over.set()
                for client in clients:
                    client.join(60)
                if successor:
                    os.kill(successor, signal.SIGTERM)
                    wait_until(lambda: not Path(f"/proc/{successor}").exists() or is_zombie(successor))
            assert [] == failures
            messages = [notified.recv(4096).decode() for _ in range(3)]
            assert "READY=1" in messages[0]  # Type=notify
            assert f"MAINPID={successor}" in messages


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def masters(pid):
    """Return the children of a master that are no workers: they have run the command anew."""
    return [
        child for child in children(pid) if children(child) and b"-c" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def is_zombie(pid):
    return "Z" == Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class TestAnInheritedSocket:
    def environment(self, **values):
        return {"LISTEN_PID": str(os.getpid()), **values}

    def test_of_another_process_is_ignored(self):
        assert [] == inherited_sockets.addresses({"LISTEN_PID": "1", "LISTEN_FDS": "x"})
        assert [] == inherited_sockets.addresses(self.environment(LISTEN_FDS="0"))

    @pytest.mark.parametrize(
        "environment",
        [{"LISTEN_FDS": "x"}, {"LISTEN_FDS": "1000"}, {"LISTEN_PID": "", "GUNICORN_FD": "a"}, {"GUNICORN_FD": "99999"}],
    )
    def test_must_exist(self, environment):
        environment = {"LISTEN_PID": "1", **environment} if "GUNICORN_FD" in environment else environment
        with pytest.raises(ConfigError):
            launch.check_address(self.environment(**environment))

    def test_must_listen_and_has_an_address(self, listener):
        inherited = {"GUNICORN_FD": str(listener.fileno())}
        launch.check_address(inherited)
        assert [f"127.0.0.1:{listener.getsockname()[1]}"] == launch.addresses(inherited)
        assert launch.is_loopback(inherited)
        with socket.socket() as closed, pytest.raises(ConfigError, match="does not listen"):
            launch.check_address({"GUNICORN_FD": str(closed.fileno())})
        with socket.socket(socket.AF_INET6) as wide:
            wide.bind(("::", 0))
            wide.listen()
            assert not launch.is_loopback({"GUNICORN_FD": str(wide.fileno())})
