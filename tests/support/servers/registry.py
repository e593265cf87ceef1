"""A registry as a real process on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.processes import bound, free_port, listens
from tests.support.servers.template import ROOT, template
from tests.support.timing import wait_until

#: How long a start may take on a busy machine; on an idle one it takes a second.
START_SECONDS = 120

#: The console script, run from a checkout that is not installed.
COMMAND = (sys.executable, "-c", "import sys; from docker_registry.cli import main; sys.exit(main())")


class Server:
    """
    A registry server; a context manager that starts it and stops it by process id.

    Args:
        root: of the checkout that runs.
        new_interpreter: start Python anew, as users do, instead of forking a process that has imported the registry.
    """

    def __init__(self, store, workers=1, command=COMMAND, port=None, root=ROOT, new_interpreter=False, **environment):
        self.root = root
        self.is_forked = command is COMMAND and root == ROOT and not new_interpreter
        self.store = Path(store)
        self.workers = workers
        self.command = command
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = environment
        self.process = None
        self.log = self.store.parent / f"{self.store.name}-{self.port}.log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.store.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "REGISTRY_HOST": "127.0.0.1",
            "REGISTRY_PORT": str(self.port),
            "GUNICORN_WORKERS": str(self.workers),
            "STORAGE_PATH": str(self.store),
            "SQLALCHEMY_INDEX_DATABASE": f"sqlite:///{self.store.absolute()}.search.db",
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.process = self._start(environment, log)
        self._wait()

    def _start(self, environment, log):
        if self.is_forked and template("server").can_start(environment):
            return template("server").start([], environment, log)
        return subprocess.Popen(
            bound(self.command), cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def kill(self):
        """Kill master and workers at once, as a power failure would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
        for folder in Path("/dev/shm").glob(f"docker-registry-metrics-{self.process.pid}-*"):
            shutil.rmtree(folder, ignore_errors=True)  # otherwise the next server on this machine would do it
        self.process = None

    def worker_pids(self):
        """Return the ids of the worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    @property
    def pids(self):
        """The same, as every server has them."""
        return self.worker_pids()

    def _wait(self):
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/v2/", timeout=5).close()
            except urllib.error.HTTPError as error:  # such as 401 from a registry with users
                error.close()
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"the server does not answer:\n{self.log.read_text()[-4000:]}")


class TlsServer(Server):
    """A server that was given a certificate; clients that trust it reach it under :attr:`url`."""

    def __init__(self, *arguments, **environment):
        super().__init__(*arguments, **environment)
        self.url = f"https://127.0.0.1:{self.port}"

    def _wait(self):
        wait_until(lambda: listens(self.port) or self.process.poll() is not None, self.log.read_text, START_SECONDS)
