"""Who is alone in a worker, and what it may do then."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import requests

from docker_registry.alone import Answering, Brief
from tests.support import processes
from tests.support.clock import Clock
from tests.support.gevent_program import ROOT, under_gevent


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def answering(clock):
    return Answering(clock)


class TestARequest:
    def test_is_alone_when_no_other_is_answered(self, answering):
        answering.begin(7)
        assert answering.is_one_alone

    def test_is_not_alone_beside_another(self, answering, clock):
        answering.begin(7)
        clock.now += 60
        answering.begin(8)
        clock.now += 60
        assert not answering.is_one_alone
        answering.end()
        assert answering.is_one_alone

    def test_is_not_alone_while_clients_come_in_turns(self, answering, clock):
        for connection in (7, 8, 7, 8):
            answering.begin(connection)
            found = answering.is_one_alone
            answering.end()
            clock.now += 0.1
        assert not found

    @pytest.mark.parametrize(("seconds", "expected"), [(0.9, False), (1.1, True)])
    def test_is_alone_again_when_the_others_have_been_silent_for_a_second(self, answering, clock, seconds, expected):
        answering.begin(7)
        answering.end()
        answering.begin(8)
        clock.now += seconds
        assert expected == answering.is_one_alone

    def test_is_not_alone_just_after_one_that_was_answered_at_once(self, answering):
        answering.note(7)
        answering.begin(8)
        assert not answering.is_one_alone

    def test_is_alone_when_the_same_client_was_there_just_before(self, answering):
        answering.note(7)
        answering.begin(7)
        assert answering.is_one_alone

    def test_is_not_alone_where_nobody_tells_of_any(self, answering):
        assert not answering.is_one_alone


#: Calls take the time by which they turn a clock.
BRIEF = """
from types import SimpleNamespace
from docker_registry import alone
from docker_registry.alone import Answering, Brief
now = [1000.0]
def take(seconds):
    now[0] += seconds
alone.time = SimpleNamespace(monotonic=lambda: now[0])
answering = Answering()
brief = Brief(answering)
answering.begin(7)
"""


class TestABriefCall:
    def test_gives_its_result(self):
        assert 3 == Brief(Answering()).call(max, 1, 3)

    @pytest.mark.parametrize(("company", "is_here"), [("", True), ("answering.begin(8)\n", False)])
    def test_is_made_where_a_request_is_that_is_alone_and_else_in_a_thread(self, company, is_here):
        program = BRIEF + company + "print(brief.call(this_thread) == this_thread())"
        assert [str(is_here)] == under_gevent(program)

    def test_is_made_in_a_thread_after_three_in_a_row_have_taken_long(self):
        program = """
for seconds in (0.01, 0.01, 0, 0.01, 0.01, 0.01):
    brief.call(take, seconds)
    print(brief._slow_until > 0)
print(brief.call(this_thread) == this_thread())
"""
        assert [*["False"] * 5, "True", "False"] == under_gevent(BRIEF + program)

    def test_that_fails_counts_as_well_and_raises_what_it_raises(self):
        program = """
def fail():
    take(0.01)
    raise LookupError
for _ in range(3):
    try:
        brief.call(fail)
    except LookupError:
        print("raised")
print(brief.call(this_thread) == this_thread())
"""
        assert ["raised"] * 3 + ["False"] == under_gevent(BRIEF + program)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A worker of ours that says of each request whether it is alone."""
    port = processes.free_port()
    command = [
        sys.executable, "-m", "gunicorn", "-k", "docker_registry.server.worker.RegistryWorker",
        "-b", f"127.0.0.1:{port}", "--keep-alive", "60", "tests.support.inflight_application:application",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("alone") / "log"
    with processes.running(command, log, lambda: processes.listens(port), {"PYTHONPATH": str(ROOT)}):
        yield f"http://127.0.0.1:{port}"


class TestAWorker:
    def test_has_a_client_alone_until_another_one_comes(self, url):
        time.sleep(1.1)
        with requests.Session() as one, requests.Session() as another:
            assert ["True"] * 3 == [one.get(url, timeout=20).text for _ in range(3)]
            assert ["False"] * 3 == [client.get(url, timeout=20).text for client in (another, one, another)]
            time.sleep(1.1)
            assert "True" == one.get(url, timeout=20).text

    def test_has_nobody_alone_during_a_request_that_takes_long(self, url):
        slow = threading.Thread(target=requests.get, args=(f"{url}/slow",), kwargs={"timeout": 20})
        slow.start()
        time.sleep(1.2)
        assert "False" == requests.get(url, timeout=20).text
        slow.join()
        time.sleep(1.1)
        assert "True" == requests.get(url, timeout=20).text
