"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.leftovers import unmount_leftovers
from tests.support.quick_routes import compile_builders_on_use


def pytest_configure(config):
    """
    Leave out what takes minutes, unless the command line chooses by markers itself.

    A run that receives SIGTERM stops its processes, as after an interrupt by the keyboard.
    """
    if not config.option.markexpr:
        config.option.markexpr = "not slow"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    compile_builders_on_use()
    # Processes of the run share what one of them has compiled: all modules take half a minute of CPU time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput"):
        unmount_leftovers(Path(config.option.basetemp) if config.option.basetemp else None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Compile a part of the tests in each process, before every process imports all of them."""
    worker = getattr(session.config, "workerinput", None)
    if worker is not None and not session.config.option.file_or_dir:
        from tests.support.scheduling import import_part

        import_part(session.config.rootpath, int(worker["workerid"][2:]), worker["workercount"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Run two processes more than there are processors, because tests also wait for clients, timers and disks."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file together, and files with the same expensive backend."""
    from tests.support.scheduling import Scheduling

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session")
def seaweedfs():
    """One S3 server for all files that a process runs; a fixture imported by a file would start one for that file."""
    from tests.support.servers.seaweedfs import run_seaweedfs

    with run_seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def swift_server():
    """One Swift for all files that a process runs."""
    from tests.support.servers.swift import run_swift

    with run_swift() as server:
        yield server


@pytest.fixture(scope="session")
def glance_server():
    """One Glance for all files that a process runs."""
    from tests.support.servers.glance import run_glance

    with run_glance() as server:
        yield server
