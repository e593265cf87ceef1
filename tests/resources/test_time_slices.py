"""Long computations beside requests, in processor time, so that a busy machine changes nothing."""

from __future__ import annotations

import random

import pytest

from docker_registry.resources.time_slices import TimeSlices
from tests.support.gevent_program import under_gevent

PROGRAM = """
import itertools, sys, time
from docker_registry.resources.time_slices import TimeSlices

slices = TimeSlices()
spent = {"paced": 0.0, "others": 0.0}

def work(kind, seconds):
    began = time.thread_time()
    while time.thread_time() < began + seconds:
        pass
    spent[kind] += time.thread_time() - began

def compute():
    for _ in slices.pace(itertools.count()):
        work("paced", 0.0002)

def pipeline():
    while True:
        work("paced", 0.001)
        slices.pause()

def answer():
    while True:
        work("others", 0.0005)
        gevent.sleep(0)

started = [gevent.spawn(each) for each in eval(sys.argv[1])]
while sum(spent.values()) < 0.6:
    gevent.sleep(0.02)
print(spent["paced"] / sum(spent.values()))
"""


class TestBesideOtherRequests:
    @pytest.mark.parametrize("computations", ["[compute]", "[compute] * 5", "[pipeline] * 4", "[compute, pipeline]"])
    def test_computations_together_get_a_quarter_of_the_processor(self, computations):
        (share,) = map(float, under_gevent(PROGRAM, f"{computations} + [answer]"))
        assert 0.02 < share < 0.34

    def test_computations_with_longer_pauses_get_less_of_an_idle_processor(self):
        program = PROGRAM.replace("TimeSlices()", "TimeSlices(pause_seconds=0.004)").replace(
            'print(spent["paced"] / sum(spent.values()))',
            "print(time.process_time() - began, time.monotonic() - start)",
        )
        program = program.replace("started =", "began, start = time.process_time(), time.monotonic()\nstarted =")
        used, passed = map(float, under_gevent(program, "[pipeline] * 4"))
        assert used < passed / 3


PAUSES = """
import time
from docker_registry.resources.time_slices import SLICE_SECONDS, TimeSlices

def count(items):
    others = []
    gevent.spawn(others.append, 1)
    for _ in TimeSlices().pace(items):
        end = time.monotonic() + 2 * SLICE_SECONDS
        while time.monotonic() < end:
            pass
    return len(others)

print(count(range(1)), count(range(2)))
"""


class TestPace:
    def test_pauses_between_items_only(self):
        assert ["0", "1"] == under_gevent(PAUSES)


class TestSort:
    def test_sorts_short_and_long_lists(self):
        for length in (0, 1, 10_000):
            texts = [str(number) for number in range(length)]
            assert sorted(texts) == TimeSlices().sort(random.sample(texts, length))
