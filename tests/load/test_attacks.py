"""
While one client uses as much of a worker as it can, others are served: none fails, each at half its speed or better.

Two servers of two workers are compared, one of which is under attack. Phases with and without the attack alternate, in
alternating order, because the speed of a machine varies; the attack is stopped
meanwhile. All clients do the same, so each client of the attacked server is compared with all of the other one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests

from tests.support import stall_worker
from tests.support.attacks import ATTACKS
from tests.support.clients.honest import push_and_pull
from tests.support.clients.v2 import Client
from tests.support.processes import memory_bytes
from tests.support.servers.registry import ROOT, Server

CLIENTS = 20
MAX_LATENCY_SECONDS = 0.25
MAX_MEMORY_BYTES = 300 * 1024 * 1024

#: In a brief attack, seconds of processor time; computations go on for a few milliseconds at a time.
MAX_STALL_SECONDS = 0.1

#: Measured at most this often; all rounds count, so that a single delay of a client decides nothing.
ROUNDS = 5

#: How long a phase without the attack waits at most for the work that the attack has left behind.
SETTLE_SECONDS = 20


class Measured:
    """The results of honest clients."""

    def __init__(self):
        self.cycles = [[] for _ in range(CLIENTS)]
        self.latencies = []
        self.errors = []

    def run(self, server, seconds):
        """Let the clients work for some seconds."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.clients.honest", str(server.port), str(seconds), str(clients)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for clients in (CLIENTS, 0)
        ]
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in processes:
            output, _ = process.communicate(timeout=300)
            seen = json.loads(output)
            for cycles, more in zip(self.cycles, seen["cycles"], strict=False):
                cycles.extend(more)
            self.latencies += seen["latencies"]
            self.errors += seen["errors"]

    @property
    def mean_seconds(self):
        """The average duration of a cycle of all clients."""
        cycles = [seconds for each in self.cycles for seconds in each]
        return sum(cycles) / len(cycles) if cycles else float("inf")

    def seconds(self, client):
        """The average duration of a cycle of one client."""
        cycles = self.cycles[client]
        return sum(cycles) / len(cycles) if cycles else float("inf")

    @property
    def latency(self):
        """The 99th percentile of the latency of GET /v2/."""
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]


@contextlib.contextmanager
def attacking(name, server, connections, log):
    """Run an attack in its own process; signals pause and continue it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.attacks", name, str(server.port), str(connections)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdout.readline() == b"prepared\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stdout.close()


def settle(server):
    """Wait until the workers of a server, whose attack was stopped, leave the processors to the other one."""

    def used():
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in server.worker_pids()]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    deadline = time.monotonic() + SETTLE_SECONDS
    before = used()
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if used() - before < 0.05:
            return
        before = used()


def serve(server, undisturbed, name, connections, seconds, tmp_path):
    """Attack a server, and compare the results of its honest clients with those of another server."""
    for pid in server.worker_pids():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak of its memory
    attacked, alone = Measured(), Measured()
    with (tmp_path / "attack.log").open("wb") as log, attacking(name, server, connections, log) as process:
        for round_number in range(ROUNDS):
            for is_attacked in ((False, True), (True, False))[round_number % 2]:
                process.send_signal(signal.SIGCONT if is_attacked else signal.SIGSTOP)
                if not is_attacked:
                    settle(server)
                (attacked if is_attacked else alone).run(server if is_attacked else undisturbed, seconds)
            slowest = max(attacked.seconds(client) for client in range(CLIENTS)) / alone.mean_seconds
            print(
                f"{name}, round {round_number + 1}: cycles of {attacked.mean_seconds:.3f} s, "
                f"{alone.mean_seconds:.3f} s undisturbed, {slowest:.2f} times as long for the slowest client; "
                f"GET /v2/ {attacked.latency * 1000:.0f} ms, {alone.latency * 1000:.0f} ms undisturbed (99 %)",
                flush=True,
            )
            if attacked.errors or (slowest <= 2 and attacked.latency < MAX_LATENCY_SECONDS):
                break
        assert process.poll() is None, (tmp_path / "attack.log").read_text()
        most = max(memory_bytes(pid, "VmHWM") for pid in server.worker_pids())
        print(f"a worker had {most / 2**20:.0f} MiB at most")
    assert [] == attacked.errors
    assert slowest <= 2
    assert attacked.latency < MAX_LATENCY_SECONDS
    assert most < MAX_MEMORY_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in memory if there is one, because these limits do not concern the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("attacks")
        return
    with tempfile.TemporaryDirectory(prefix="attacks-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def undisturbed(folder):
    with Server(folder / "undisturbed", workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def narrow(folder):
    """A server with fewer connections, so that a few hundred of them are too many."""
    with Server(
        folder / "attacked", workers=2, new_interpreter=True, GUNICORN_OPTS="--worker-connections 300"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def measured(folder):
    """A worker that measures how long its event loop is blocked."""
    options = "-k tests.support.stall_worker.StallWorker --worker-connections 60"
    with Server(
        folder / "measured", new_interpreter=True, GUNICORN_OPTS=options, **{stall_worker.FOLDER: str(folder)}
    ) as server:
        yield server


def longest_stall(server, folder):
    """The longest time that the event loop of a worker was blocked since the last call, in seconds of its processor."""
    (pid,) = server.worker_pids()
    file = folder / str(pid)
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return float(file.read_text())


#: Attacks on the server itself; stored content and layers have their own tests.
BRIEF_ATTACKS = [name for name in ATTACKS if "bodies" in name or "requests" in name or "chunks" in name] + [
    "silent_heads",
    "unread_responses",
    "nested_json",
]


class TestABriefAttack:
    """Without rates: all honest requests are answered, and nothing blocks the event loop for long."""

    @pytest.mark.parametrize("name", BRIEF_ATTACKS)
    def test_blocks_no_other_client(self, measured, folder, tmp_path, name):
        log = tmp_path / "attack.log"
        with log.open("wb") as output, attacking(name, measured, 100, output) as process:
            with Client(measured.url) as client:
                push_and_pull(client, "honest/client")
                longest_stall(measured, folder)  # a hundred requests that arrive at once are answered one by one
                push_and_pull(client, "honest/client")
                for _ in range(5):
                    assert 200 == requests.get(f"{measured.url}/v2/", timeout=30).status_code
            assert process.poll() is None, log.read_text()
            assert longest_stall(measured, folder) < MAX_STALL_SECONDS
        assert max(memory_bytes(pid, "VmHWM") for pid in measured.worker_pids()) < MAX_MEMORY_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
class TestOtherClientsAreServed:
    def test_during_short_attacks(self, undisturbed, narrow, tmp_path, name):
        serve(narrow, undisturbed, name, 700, 3, tmp_path)

    def test_during_full_attacks(self, undisturbed, tmp_path, name):
        with Server(tmp_path / "store", workers=2) as server:
            serve(server, undisturbed, name, 4600, 10, tmp_path)
