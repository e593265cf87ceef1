"""Servers as real processes: find, start, await and stop them by process id."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

#: Debian's folders come first: `contrib/check` installs programs there, and another program of the same name
#: (the registry's own console script, another docker) may be elsewhere.
SEARCH_PATH = os.pathsep.join(["/usr/bin", "/usr/sbin", os.environ.get("PATH", os.defpath)])

STOP_SECONDS = 20

#: Not the generator that Hypothesis seeds: processes that run tests would choose the same ports.
_RANDOM = random.SystemRandom()

#: Descriptors of the sockets that reserve the ports that were returned last, whose servers may not listen yet. Python
#: warns of a socket object that is not closed, also at the end of the process.
_RESERVED: deque[int] = deque()
_RESERVED_PORTS = 64


def find(name: str) -> str | None:
    """Return the path of a program, Debian's first; None when there is none."""
    return shutil.which(name, path=SEARCH_PATH)


def free_port() -> int:
    """
    Return a free port of the loopback address, which no other process of the tests is given for a while.

    The kernel takes ports from 32768 on for outgoing connections, so one of these may be in use by the time that a
    server listens on it.
    """
    while True:
        port = _RANDOM.randrange(10240, 32768)
        # Reserved first: the probe would be in the way of the server that the port is reserved for.
        with contextlib.suppress(OSError), _reservation(port) as reservation:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            _keep(reservation.detach())
            return port


def _reservation(port: int) -> socket.socket:
    """Return a socket with a name that only one process has at a time; raise OSError if another has it."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":  # only there a name needs no file
            reservation.bind(f"\0docker-registry-tests-port-{port}")
    except OSError:
        reservation.close()
        raise
    return reservation


def _keep(reservation: int) -> None:
    """Keep a reservation until many others were made."""
    _RESERVED.append(reservation)
    while len(_RESERVED) > _RESERVED_PORTS:
        os.close(_RESERVED.popleft())


def listens(port: int) -> bool:
    """Return whether a process listens on a port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def bound(command: Sequence[str | Path]) -> list[str | Path]:
    """
    Return a command whose process is terminated when the tests' process ends, however that happens.

    The kernel binds it to the thread that starts it, so a process that another thread starts is not bound.
    """
    setpriv = find("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return list(command)
    return [setpriv, "--pdeathsig", "TERM", "--", *command]


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    start_seconds: float = 120,
    is_discarded: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Start a server, wait until it is ready, and stop it and all its children at the end.

    Args:
        log: file for its output; its end is the message if it does not start.
        is_discarded: kill it at the end: nothing that it has stored is used afterwards.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            bound(command),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + start_seconds
        while not is_ready():
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{command[0]} ended:\n{said}"
            assert time.monotonic() < deadline, f"{command[0]} did not start:\n{said}"
            time.sleep(0.05)
        yield process
    finally:
        if is_discarded:
            process.kill()
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the leader of a process group; kill the whole group if it does not end in time."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory_bytes(pid: int, field: str) -> int:
    """Return a field of ``/proc/PID/status``: VmRSS is the current resident memory, VmHWM its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
