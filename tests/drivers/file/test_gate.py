"""A gate: many are inside together, or one alone."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from docker_registry.drivers.file.gate import Gate

ROOT = Path(__file__).parents[3]

SECONDS = 10.0

#: Long enough for whoever would not have to wait.
MOMENT = 0.2


@pytest.fixture
def gate(tmp_path):
    return Gate(str(tmp_path))


class Visit(threading.Thread):
    """Somebody who comes, says so when he is inside, and stays until he is told to leave."""

    def __init__(self, way):
        super().__init__()
        self._way = way
        self._may_leave = threading.Event()
        self.is_inside = threading.Event()
        self.start()

    def run(self):
        with self._way():
            self.is_inside.set()
            self._may_leave.wait(SECONDS)

    def leave(self):
        self._may_leave.set()
        self.join(SECONDS)


@contextmanager
def visits():
    """Let all who have come leave in the end."""
    come = []
    try:
        yield lambda way: come.append(Visit(way)) or come[-1]
    finally:
        for visit in come:
            visit.leave()


def test_many_are_inside_together(gate):
    with visits() as visit:
        assert all(visit(gate.shared).is_inside.wait(SECONDS) for _ in range(3))


@pytest.mark.parametrize("first", [Gate.shared, Gate.alone])
def test_who_wants_to_be_alone_waits_for_whoever_is_inside(gate, first):
    with visits() as visit:
        inside = visit(partial(first, gate))
        assert inside.is_inside.wait(SECONDS)
        alone = visit(gate.alone)
        assert not alone.is_inside.wait(MOMENT)
        inside.leave()
        assert alone.is_inside.wait(SECONDS)


def test_who_comes_later_waits_for_him(gate):
    with visits() as visit:
        inside = visit(gate.shared)
        assert inside.is_inside.wait(SECONDS)
        alone = visit(gate.alone)
        assert not alone.is_inside.wait(MOMENT)
        later = visit(gate.shared)
        assert not later.is_inside.wait(MOMENT)
        inside.leave()
        assert alone.is_inside.wait(SECONDS)
        assert not later.is_inside.wait(MOMENT)
        alone.leave()
        assert later.is_inside.wait(SECONDS)


def test_an_error_inside_lets_others_in(gate):
    for way in (gate.shared, gate.alone):
        with pytest.raises(ZeroDivisionError), way():
            raise ZeroDivisionError
    with visits() as visit:
        assert visit(gate.alone).is_inside.wait(SECONDS)


def test_holds_among_processes_and_ends_with_them(gate, tmp_path):
    program = (
        "import sys, time\n"
        "from docker_registry.drivers.file.gate import Gate\n"
        "with Gate(sys.argv[1]).alone():\n"
        "    print('inside', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    with other, visits() as visit:
        assert other.stdout.readline() == b"inside\n"
        waiting = visit(gate.shared)
        assert not waiting.is_inside.wait(MOMENT)
        other.kill()
        assert waiting.is_inside.wait(SECONDS)
