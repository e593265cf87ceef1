"""Jobs in processes of their own: their results, their limits, and their end when the result is not wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docker_registry.cpu_pool.pool import CpuPool
from docker_registry.errors import LayerFormatUnsupported
from tests.support import cpu_jobs
from tests.support.gevent_program import under_gevent
from tests.support.timing import wait_until

IMPORTS = """
import os, time, sys
from docker_registry import errors
from docker_registry.concurrency import watching_client
from docker_registry.cpu_pool.pool import CpuPool
from tests.support import cpu_jobs
from tests.support.processes import children
from tests.support.timing import wait_until

def pool(**options):
    return CpuPool("tests.support.cpu_jobs", cpu_jobs.JOBS, **options)

def refused(run):
    try:
        list(run)
    except errors.RegistryError as error:
        return type(error).__name__

def begins():
    wait_until(lambda: children(os.getpid()))

def ends():
    wait_until(lambda: not children(os.getpid()))
    return True
"""


class TestOutsideGevent:
    @pytest.fixture
    def pool(self):
        return CpuPool("tests.support.cpu_jobs", cpu_jobs.JOBS)

    def test_a_job_runs_in_the_calling_thread(self, pool):
        assert b"ABCD!E!" == b"".join(pool.run("upper", {"end": "!"}, [[b"ab", b"cd"], [b"e"]]))

    def test_a_job_raises_its_error(self, pool):
        with pytest.raises(LayerFormatUnsupported):
            list(pool.run("refuse", {}, [[b"x"]]))


class TestAProcess:
    def test_imports_neither_drivers_nor_gevent(self):
        program = "import sys, docker_registry.cpu_pool.process; print({'gevent', 'yaml', 'flask'} & {*sys.modules})"
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert "set()\n" == done.stdout


class TestAJob:
    def test_has_the_same_result_in_a_process_which_is_used_again(self):
        program = """
one = pool()
print(b"".join(one.run("upper", {"end": "!"}, [[b"ab", b"cd"], [b"e"], []])).decode())
blocks = [b"x" * 1_000_000] * 5
print(len(b"".join(one.run("upper", {"end": ""}, [blocks]))))
print(b"".join(one.run("stop_early", {}, [blocks])).decode())
print(refused(one.run("refuse", {}, [blocks])))
first, second = one.result("pid", {}), one.result("pid", {})
print(first == second != os.getpid(), children(os.getpid()) == [first])
"""
        expected = ["ABCD!E!!", "5000000", "xxxxx", "LayerFormatUnsupported", "True", "True"]
        assert expected == under_gevent(IMPORTS + program)

    def test_may_be_read_more_slowly_than_its_client_is_checked(self):
        program = """
from docker_registry.cpu_pool import pool as module
module._CHECK_SECONDS = 0.1
one = pool()
list(one.run("falter", {"pauses": [0.2] * 5}))
print(len(b"".join(one.run("upper", {"end": "x" * 20_000_000}, [[b"y"]]))))
"""
        assert ["20000001"] == under_gevent(IMPORTS + program)

    def test_leaves_the_event_loop_alone(self):
        program = """
turns = []
def tick():
    while True:
        gevent.sleep(0.01)
        turns.append(1)
gevent.spawn(tick)
print(refused(pool(max_seconds=1).run("spin", {})))
print(len(turns) > 10)  # a hundred where the machine has time; at most one if the job ran in the event loop
"""
        assert ["TooLarge", "True"] == under_gevent(IMPORTS + program)

    def test_is_refused_when_it_takes_more_memory(self):
        assert ["TooLarge"] == under_gevent(IMPORTS + 'print(refused(pool().run("grow", {})))')

    def test_of_a_process_that_dies_can_be_asked_for_again(self):
        program = """
one = pool()
print(refused(one.run("die", {})), ends())
print((killed := one.result("pid", {})) > 0)
os.kill(killed, 9)
wait_until(lambda: open(f"/proc/{killed}/stat").read().rpartition(")")[2].split()[0] == "Z")
print(one.result("pid", {}) not in (killed, os.getpid()))  # repeated in a new process
print(refused(one.run("die", {})), ends())  # repeated once only
killed = one.result("pid", {})
os.kill(killed, 9)
print(refused(one.run("upper", {"end": ""}, [[b"x"]])))  # its input may not be readable twice
"""
        expected = ["Overloaded", "True", "True", "True", "Overloaded", "True", "Overloaded"]
        assert expected == under_gevent(IMPORTS + program, errors=True)

    def test_raises_the_error_of_its_input(self):
        program = """
def blocks():
    yield b"x"
    raise errors.BlobUnknown
print(refused(pool().run("upper", {"end": ""}, [blocks()])), ends())
"""
        assert ["BlobUnknown", "True"] == under_gevent(IMPORTS + program)

    def test_waits_for_its_turn_and_is_rejected_after_a_timeout(self):
        program = """
one = pool(max_processes=1, max_seconds=2, wait_seconds=1)
first = gevent.spawn(refused, one.run("spin", {}))
begins()
print(refused(one.run("pid", {})), first.get())
print(refused(one.run("pid", {})))
"""
        assert ["Overloaded", "TooLarge", "None"] == under_gevent(IMPORTS + program)


class TestAJobThatIsNotWantedAnyMore:
    def test_is_cancelled_with_its_client(self):
        program = """
left = []
def serve():
    with watching_client(lambda: bool(left)):
        return refused(pool().run("spin", {}))
job = gevent.spawn(serve)
begins()
gevent.sleep(0.2)
print(len(children(os.getpid())))
left.append(1)
print(job.get(), ends())
"""
        assert ["1", "ClientLeft", "True"] == under_gevent(IMPORTS + program)

    def test_is_cancelled_with_its_greenlet_or_its_iteration(self):
        program = """
one = pool()
job = gevent.spawn(refused, one.run("spin", {}))
begins()
gevent.sleep(0.2)
job.kill()
print(ends())
run = one.run("upper", {"end": ""}, [[b"x"] * 100_000])
next(run)
run.close()
print(ends(), one.result("pid", {}) > 0)
"""
        assert ["True", "True", "True"] == under_gevent(IMPORTS + program)

    def test_ends_with_its_worker(self):
        program = """
print(pool().result("pid", {}))
"""
        (pid,) = under_gevent(IMPORTS + program)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
