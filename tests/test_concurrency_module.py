from __future__ import annotations

import pytest

from docker_registry.concurrency import run_in_background, run_in_thread, start_in_thread
from tests.support.gevent_program import under_gevent

IMPORTS = """
import threading
from docker_registry.concurrency import (
    MAX_CONCURRENT, responsive_deadline, run_concurrently, run_in_background, run_in_thread, start_in_thread
)
"""


def fail():
    raise LookupError("expected")


class TestOutsideGevent:
    def test_a_call_gives_its_result(self):
        assert 3 == run_in_thread(max, 1, 3)

    def test_a_call_raises_the_error_of_the_function(self):
        with pytest.raises(LookupError):
            run_in_thread(fail)

    def test_a_call_can_be_started_and_awaited_later(self):
        assert 3 == start_in_thread(max, 1, 3)()

    def test_a_background_call_runs_at_once(self):
        done = []
        run_in_background(done.append, 1)
        assert [1] == done


class TestUnderGevent:
    def test_other_greenlets_run_during_a_call(self):
        program = """
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
run_in_thread(native_sleep, 0.3)
print(len(ticks) > 10)
"""
        assert ["True"] == under_gevent(IMPORTS + program)

    def test_a_background_call_runs_in_another_thread(self):
        program = """
done_by = []
def work():
    native_sleep(0.2)
    done_by.append(this_thread())
run_in_background(work)
print(done_by == [])
while not done_by:
    gevent.sleep(0.01)
print(done_by != [this_thread()])
"""
        assert ["True", "True"] == under_gevent(IMPORTS + program)

    def test_a_call_raises_the_error_of_the_function_and_prints_nothing(self):
        program = """
def fail():
    raise LookupError
try:
    run_in_thread(fail)
except LookupError:
    print("raised")
"""
        assert ["raised"] == under_gevent(IMPORTS + program)

    @pytest.mark.parametrize("interruption", ["gevent.GreenletExit", "gevent.Timeout"])
    def test_an_interrupted_call_ends_with_its_function_and_not_before(self, interruption):
        program = f"""
steps = []
def work():
    native_sleep(0.3)
    steps.append("worked")
def caller():
    try:
        run_in_thread(work)
    except {interruption}:
        steps.append("interrupted")
greenlet = gevent.spawn(caller)
gevent.sleep(0.05)
for _ in range(2):
    greenlet.kill({interruption}, block=False)
    gevent.sleep(0.05)
greenlet.join()
print(*steps)
"""
        assert ["worked", "interrupted"] == under_gevent(IMPORTS + program)

    def test_a_deadline_counts_only_the_time_in_which_the_worker_is_responsive(self):
        program = """
def respond():
    gevent.sleep(0.02)
    for _ in range(5):
        native_sleep(0.2)
        gevent.sleep(0)
gevent.spawn(respond)
with responsive_deadline(0.1) as waited:
    for _ in range(5):
        gevent.sleep(0.01)
print(waited() < 0.1)
try:
    with responsive_deadline(0.1) as waited:
        gevent.sleep(60)
except TimeoutError:
    print(waited() >= 0.1)
"""
        assert ["True", "True"] == under_gevent(IMPORTS + program)

    def test_concurrent_calls_wait_at_the_same_time_and_end_together(self):
        program = """
from contextvars import ContextVar
variable = ContextVar("variable")
variable.set("outer")
running, ended, most, contexts = set(), [], 0, set()
def call(number, error=None):
    global most
    contexts.add(variable.get())
    variable.set(number)
    running.add(number)
    most = max(most, len(running))
    gevent.sleep(0.01)
    running.remove(number)
    ended.append(number)
    if error is not None:
        raise error
    return number
def calls(errors={}):
    return [lambda number=number: call(number, errors.get(number)) for number in range(1, 21)]

print(run_concurrently(*calls()) == [*range(1, 21)], most == MAX_CONCURRENT, contexts | {variable.get()} == {"outer"})
ended.clear()
try:
    run_concurrently(*calls({3: LookupError(3), 2: LookupError(2), 9: LookupError(9)}))
except LookupError as error:
    print(error, len(ended))
print(run_concurrently(), run_concurrently(lambda: 1))
"""
        assert ["True", "True", "True", "2", "20", "[]", "[1]"] == under_gevent(IMPORTS + program)

    @pytest.mark.parametrize("interruption", ["gevent.GreenletExit", "gevent.Timeout"])
    def test_interrupted_concurrent_calls_end_and_no_further_one_begins(self, interruption):
        program = f"""
began, ended = [], []
def call():
    began.append(1)
    try:
        gevent.sleep(60)
    finally:
        gevent.sleep(0)
        ended.append(1)
def caller():
    try:
        run_concurrently(*[call] * (MAX_CONCURRENT + 5))
    except {interruption}:
        print(len(began) == len(ended) == MAX_CONCURRENT)
greenlet = gevent.spawn(caller)
while len(began) < MAX_CONCURRENT:
    gevent.sleep(0.01)
greenlet.kill({interruption})
"""
        assert ["True"] == under_gevent(IMPORTS + program)
