"""Requests in progress, and the thread of brief disk waits."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import requests

from docker_registry.app import create_app
from docker_registry.config.schema import load_config
from docker_registry.server.inflight import BriefCalls, InflightRequests
from docker_registry.services import build
from tests.support import processes
from tests.support.clock import Clock
from tests.support.gevent_program import ROOT, under_gevent


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inflight(clock):
    return InflightRequests(clock)


class TestALoneClient:
    def test_sends_the_only_request(self, inflight):
        inflight.begin(7)
        assert inflight.has_lone_client

    def test_is_not_alone_beside_another_request(self, inflight, clock):
        inflight.begin(7)
        clock.now += 60
        inflight.begin(8)
        clock.now += 60
        assert not inflight.has_lone_client
        inflight.end()
        assert inflight.has_lone_client

    def test_is_not_alone_while_connections_alternate(self, inflight, clock):
        for connection in (7, 8, 7, 8):
            inflight.begin(connection)
            found = inflight.has_lone_client
            inflight.end()
            clock.now += 0.1
        assert not found

    @pytest.mark.parametrize(("seconds", "expected"), [(0.9, False), (1.1, True)])
    def test_is_alone_after_a_second_without_requests_of_others(self, inflight, clock, seconds, expected):
        inflight.begin(7)
        inflight.end()
        inflight.begin(8)
        clock.now += seconds
        assert expected == inflight.has_lone_client

    def test_is_not_alone_just_after_a_cached_response_to_another(self, inflight):
        inflight.saw(7)
        inflight.begin(8)
        assert not inflight.has_lone_client

    def test_is_alone_after_a_cached_response_to_itself(self, inflight):
        inflight.saw(7)
        inflight.begin(7)
        assert inflight.has_lone_client

    def test_is_not_alone_if_no_requests_are_reported(self, inflight):
        assert not inflight.has_lone_client


#: Each call advances a clock by the time that it takes.
CALLS = """
from types import SimpleNamespace
from docker_registry.server import inflight
from docker_registry.app import create_app
from docker_registry.config.schema import load_config
from docker_registry.server.inflight import BriefCalls, InflightRequests
now = [1000.0]
def take(seconds):
    now[0] += seconds
inflight.time = SimpleNamespace(monotonic=lambda: now[0])
requests = InflightRequests()
run_brief = BriefCalls(requests)
requests.begin(7)
"""


class TestABriefCall:
    def test_returns_its_result(self):
        assert 3 == BriefCalls(InflightRequests())(max, 1, 3)

    @pytest.mark.parametrize(("other", "is_here"), [("", True), ("requests.begin(8)\n", False)])
    def test_runs_in_the_calling_thread_for_a_lone_client_only(self, other, is_here):
        program = CALLS + other + "print(run_brief(this_thread) == this_thread())"
        assert [str(is_here)] == under_gevent(program)

    def test_runs_in_another_thread_after_three_long_calls_in_a_row(self):
        program = """
for seconds in (0.01, 0.01, 0, 0.01, 0.01, 0.01):
    run_brief(take, seconds)
    print(run_brief._slow_until > 0)
print(run_brief(this_thread) == this_thread())
"""
        assert [*["False"] * 5, "True", "False"] == under_gevent(CALLS + program)

    def test_raises_its_error_and_is_counted(self):
        program = """
def fail():
    take(0.01)
    raise LookupError
for _ in range(3):
    try:
        run_brief(fail)
    except LookupError:
        print("raised")
print(run_brief(this_thread) == this_thread())
"""
        assert ["raised"] * 3 + ["False"] == under_gevent(CALLS + program)


def test_the_configured_driver_runs_its_brief_calls_so(tmp_path):
    config = load_config({"STORAGE_PATH": str(tmp_path / "store"), "SEARCH_BACKEND": ""})
    with build(config) as services:
        driver = services.registry.driver
        assert isinstance(getattr(driver, "driver", driver).run_brief, BriefCalls)
        assert 0 == create_app(services).inflight.count == services.inflight.count


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A worker whose responses state whether the client is alone."""
    port = processes.free_port()
    command = [
        sys.executable, "-m", "gunicorn", "-k", "docker_registry.server.worker.RegistryWorker",
        "-b", f"127.0.0.1:{port}", "--keep-alive", "60", "tests.support.inflight_application:application",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("inflight") / "log"
    with processes.running(command, log, lambda: processes.listens(port), {"PYTHONPATH": str(ROOT)}):
        yield f"http://127.0.0.1:{port}"


class TestAWorker:
    def test_has_a_lone_client_until_another_one_comes(self, url):
        with requests.Session() as one, requests.Session() as another:
            for _ in range(10):
                time.sleep(1.1)
                assert ["True"] * 3 == [one.get(url, timeout=20).text for _ in range(3)]
                began = time.monotonic()
                found = [client.get(url, timeout=20).text for client in (another, one, another)]
                if time.monotonic() - began < 0.5:  # otherwise the other client's second may pass on a busy machine
                    break
            assert ["False"] * 3 == found
            time.sleep(1.1)
            assert "True" == one.get(url, timeout=20).text

    def test_has_no_lone_client_during_a_long_request(self, url):
        slow = threading.Thread(target=requests.get, args=(f"{url}/slow",), kwargs={"timeout": 60})
        slow.start()
        time.sleep(1.2)
        assert "False" == requests.get(url, timeout=20).text
        slow.join()
        time.sleep(1.1)
        assert "True" == requests.get(url, timeout=20).text
