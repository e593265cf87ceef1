"""The thread of brief disk waits, and the workers that have a lone client."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import requests

from docker_registry.app import create_app
from docker_registry.config.schema import load_config
from docker_registry.server.brief_calls import BriefCalls
from docker_registry.services import build
from tests.support import processes
from tests.support.gevent_program import ROOT, under_gevent

#: Each call advances a clock by the time that it takes.
CALLS = """
from types import SimpleNamespace
from docker_registry.server import brief_calls
from docker_registry.server.brief_calls import BriefCalls
from docker_registry.server.request_loop import InflightRequests
now = [1000.0]
def take(seconds):
    now[0] += seconds
brief_calls.time = SimpleNamespace(monotonic=lambda: now[0])
requests = InflightRequests()
run_brief = BriefCalls()
run_brief.has_lone_client = requests.has_lone_client
requests.begin(7)
"""


class TestABriefCall:
    def test_returns_its_result(self):
        assert 3 == BriefCalls()(max, 1, 3)

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
        assert services.brief_calls is getattr(driver, "driver", driver).run_brief
        assert services.brief_calls is create_app(services).brief_calls


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A worker whose responses state whether the client is alone."""
    port = processes.free_port()
    command = [
        sys.executable, "-m", "gunicorn", "-k", "docker_registry.server.worker.RegistryWorker",
        "-b", f"127.0.0.1:{port}", "--keep-alive", "60", "tests.support.lone_client_application:application",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("lone-client") / "log"
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
