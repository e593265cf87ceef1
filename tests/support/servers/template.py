"""
Starts servers and commands by forking a process that has imported the registry.

Importing it takes two thirds of the CPU time of a start. A forked process runs the same code as the console script: its
imports find the modules that are already loaded. What only a new interpreter can do, such as reading ``PYTHON…``
variables, needs a real start.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib.metadata
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NoReturn

from tests.support.processes import bound
from tests.support.quick_routes import compile_builders_on_use

ROOT = Path(__file__).parent.parent.parent.parent

#: The interpreter and imported libraries read variables with these prefixes only once.
_READ_ONCE = ("PYTHON", "GEVENT", "LD_", "MALLOC", "PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "SENDFILE")

#: Flavors of the sample, named as their drivers, and Redis.
_LIBRARIES = {"azureblob", "gcs", "glance", "redis", "s3", "swift"}

_MESSAGE_BYTES = 200_000
_TICK_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_PROGRAM = "import sys; from tests.support.servers.template import serve; sys.exit(serve(*sys.argv[1:]))"


class ForkedProcess:
    """
    A process that the template has forked, with the interface of :class:`subprocess.Popen`.

    Attributes:
        pid: its process id, which is also its session and process group.
        returncode: its exit status, negative for a signal; None while it was not found to have ended.
    """

    def __init__(self, pid: int, arguments: Sequence[str], status: int) -> None:
        """
        Args:
            status: descriptor of a pipe that receives the exit status.
        """
        self.pid = pid
        self.args = arguments
        self.returncode: int | None = None
        self._status = status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """
        Return the exit status once the process has ended.

        Args:
            timeout: seconds.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        found = self._read(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return found

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self, seconds: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                poll = select.poll()
                poll.register(self._status, select.POLLIN)
                if poll.poll(None if seconds is None else seconds * 1000):
                    self.returncode = int(os.read(self._status, 100) or -signal.SIGKILL)
                    os.close(self._status)
            return self.returncode


class Template:
    """A process that has imported the registry and is forked for every start."""

    def __init__(self, kind: str) -> None:
        """
        Args:
            kind: ``server``, whose modules gevent has patched, or ``command``.
        """
        self._environment = dict(os.environ)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                bound([sys.executable, "-c", _PROGRAM, str(theirs.fileno()), kind]),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

        atexit.register(self._stop)

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Return whether a process with this environment can be forked."""
        changed = (name for name, value in environment.items() if value != self._environment.get(name))
        return not any(name.startswith(_READ_ONCE) for name in changed)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes] | None = None,
    ) -> ForkedProcess:
        """
        Run the console script in a session of its own.

        Args:
            environment: all variables.
            output: a file for its standard output.
            errors: a file for its standard errors; by default *output*.
        """
        errors = errors or output
        message = json.dumps([arguments, dict(environment)]).encode()
        assert len(message) < _MESSAGE_BYTES
        status, theirs = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [message], [output.fileno(), errors.fileno(), theirs])
                pid = int(self._socket.recv(100))
        finally:
            os.close(theirs)
        return ForkedProcess(pid, arguments, status)

    def _stop(self) -> None:
        """Close the connection, on which the process ends; servers that still run are terminated with it."""
        self._socket.close()
        self._process.wait(60)


@functools.cache
def template(kind: str) -> Template:
    """Return the template of this process for servers or commands; it ends with this process."""
    return Template(kind)


def run_command(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """
    Run a command of the console script; return its exit status and what it printed.

    Args:
        timeout: seconds.
        environment: in addition to this process's own.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        kind = "server" if arguments in ((), ("serve",)) else "command"
        process = template(kind).start(arguments, {**os.environ, **environment}, output, errors)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        for stream in (output, errors):
            stream.seek(0)
        return subprocess.CompletedProcess(arguments, status, output.read().decode(), errors.read().decode())


def serve(descriptor: str, kind: str) -> int:
    """Fork a process for each message of a socket until it is closed."""
    control = socket.socket(fileno=int(descriptor))  # gevent must patch neither the socket nor the poll
    poll = select.poll()
    poll.register(control, select.POLLIN)
    (_import_server if kind == "server" else _import_commands)()
    imported: set[str] = set()
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of a process: its id, the pipe for its exit status
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                pid, status = running.pop(ready)
                poll.unregister(ready)
                os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                os.close(status)
                os.close(ready)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
            if not message:
                return 0
            *streams, status = descriptors
            if kind == "server":
                _import_for(json.loads(message)[1], imported)
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                _run(parent, message, streams)
            for stream in streams:
                os.close(stream)
            handle = os.pidfd_open(pid)
            running[handle] = pid, status
            poll.register(handle, select.POLLIN)
            control.send(str(pid).encode())


def _search_packages_once() -> None:
    """Search the installed packages for drivers once for all starts; each would do so several times."""
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


def _import_commands() -> None:
    """Import what most commands import."""
    gc.disable()
    _search_packages_once()
    import gunicorn.app.wsgiapp  # noqa: F401

    from docker_registry import cli, services  # noqa: F401
    from docker_registry.cli.command import load_config
    from docker_registry.server import launch  # noqa: F401

    services.import_modules(load_config())
    gc.enable()


def _import_server() -> None:
    """Import what the command ``serve`` imports before it forks."""
    gc.disable()
    _search_packages_once()
    from docker_registry.cli import serve  # noqa: F401
    from docker_registry.server import launch

    # A server checks its address before gevent patches the module; afterwards that would create a hub.
    launch.socket = SimpleNamespace(**vars(socket))
    launch.import_modules()
    from docker_registry import app, housekeeping, services  # noqa: F401
    from docker_registry.cli.command import load_config

    config = load_config()
    services.import_modules(config)
    app.import_routes(config)
    compile_builders_on_use()
    _stop_quickly()
    gc.enable()


def _stop_quickly() -> None:
    """Make workers check for signals every 0.2 s instead of every second: the tests stop hundreds of servers."""
    import gevent
    from gunicorn.workers import ggevent

    ggevent.gevent = SimpleNamespace(
        **{**vars(gevent), "sleep": lambda seconds=0: gevent.sleep(min(seconds, _TICK_SECONDS))}
    )


def _import_for(environment: Mapping[str, str], imported: set[str]) -> None:
    """
    Import the libraries of a server's store and of Redis once for all servers; each would import them before it forks.

    Args:
        imported: those that were imported before.
    """
    uses_redis = {"CACHE_REDIS_HOST", "CACHE_LRU_REDIS_HOST"} & set(environment)
    chosen = {environment.get("SETTINGS_FLAVOR", ""), "redis" if uses_redis else ""}
    for name in chosen & _LIBRARIES - imported:
        imported.add(name)
        # urllib3 tries to bind a socket when it is imported. That would create gevent's hub, which no fork may share.
        has_ipv6, socket.has_ipv6 = socket.has_ipv6, False
        try:
            _import_library(name)
        finally:
            socket.has_ipv6 = has_ipv6
        if "urllib3" in sys.modules:
            sys.modules["urllib3"].util.connection.HAS_IPV6 = has_ipv6


def _import_library(name: str) -> None:
    from gevent._hub_local import get_hub_if_exists

    from docker_registry import drivers

    if name == "redis":
        import redis  # noqa: F401

        import docker_registry.drivers.cache.driver  # noqa: F401
    else:
        drivers.load(name)
    if name == "s3":
        import botocore.session

        # Reading its description of S3 takes a third of a second of CPU time.
        botocore.session.create_loader = functools.cache(botocore.session.create_loader)
        keys = {"aws_access_key_id": "-", "aws_secret_access_key": "-"}
        botocore.session.Session().create_client("s3", "us-east-1", **keys).close()
    assert get_hub_if_exists() is None


def _run(parent: int, message: bytes, streams: Sequence[int]) -> NoReturn:
    """Run the console script in the forked process and exit; see :meth:`Template.start`."""
    arguments, environment = json.loads(message)
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    status: object = 1
    try:
        from docker_registry.cli import main

        status = main()
    except SystemExit as error:  # also that of the workers, which the server forks
        status = error.code
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
    finally:
        from gevent import monkey

        if not monkey.is_module_patched("threading"):
            threading._shutdown()  # gevent's would wait for the main thread that it was imported in
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
