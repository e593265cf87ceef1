"""The fair lock: several readers at a time, or one writer."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from docker_registry.drivers.file.reserved_folder import FairLock

ROOT = Path(__file__).parents[3]

SECONDS = 10.0

#: Long enough for a holder that does not have to wait.
MOMENT = 0.2


@pytest.fixture
def lock(tmp_path):
    return FairLock(str(tmp_path))


class Holder(threading.Thread):
    """Acquires a lock in its own thread, and holds it until it is released."""

    def __init__(self, acquire):
        super().__init__()
        self._acquire = acquire
        self._may_release = threading.Event()
        self.holds = threading.Event()
        self.start()

    def run(self):
        with self._acquire():
            self.holds.set()
            self._may_release.wait(SECONDS)

    def release(self):
        self._may_release.set()
        self.join(SECONDS)


@contextmanager
def holders():
    """Return a function that starts a holder; all are released at the end."""
    started = []
    try:
        yield lambda acquire: started.append(Holder(acquire)) or started[-1]
    finally:
        for holder in started:
            holder.release()


def test_several_readers_hold_it_at_once(lock):
    with holders() as start:
        assert all(start(lock.shared).holds.wait(SECONDS) for _ in range(3))


@pytest.mark.parametrize("mode", [FairLock.shared, FairLock.exclusive])
def test_a_writer_waits_for_every_holder(lock, mode):
    with holders() as start:
        holder = start(partial(mode, lock))
        assert holder.holds.wait(SECONDS)
        writer = start(lock.exclusive)
        assert not writer.holds.wait(MOMENT)
        holder.release()
        assert writer.holds.wait(SECONDS)


def test_a_later_reader_waits_for_a_waiting_writer(lock):
    with holders() as start:
        reader = start(lock.shared)
        assert reader.holds.wait(SECONDS)
        writer = start(lock.exclusive)
        assert not writer.holds.wait(MOMENT)
        later = start(lock.shared)
        assert not later.holds.wait(MOMENT)
        reader.release()
        assert writer.holds.wait(SECONDS)
        assert not later.holds.wait(MOMENT)
        writer.release()
        assert later.holds.wait(SECONDS)


def test_an_error_releases_it(lock):
    for mode in (lock.shared, lock.exclusive):
        with pytest.raises(ZeroDivisionError), mode():
            raise ZeroDivisionError
    with holders() as start:
        assert start(lock.exclusive).holds.wait(SECONDS)


def test_holds_between_processes_and_ends_with_them(lock, tmp_path):
    program = (
        "import sys, time\n"
        "from docker_registry.drivers.file.reserved_folder import FairLock\n"
        "with FairLock(sys.argv[1]).exclusive():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    with other, holders() as start:
        assert other.stdout.readline() == b"held\n"
        waiting = start(lock.shared)
        assert not waiting.holds.wait(MOMENT)
        other.kill()
        assert waiting.holds.wait(SECONDS)
