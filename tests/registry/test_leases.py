from __future__ import annotations

import json
import subprocess
import sys

import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageFull
from docker_registry.registry import layout
from docker_registry.registry.leases import Leases, has_ended, this_process
from tests.support.clock import Clock
from tests.support.full_driver import FullDriver
from tests.support.interleaving import Request, StoppingDriver


class PlainDriver(MemoryDriver):
    """A store without conditional writes."""

    capabilities = Capabilities()


class TestALease:
    def test_is_granted_to_one_at_a_time(self, driver):
        first, second = Leases(driver, lambda: 100.0), Leases(driver, lambda: 100.0)
        assert first.take("purge", 60)
        assert not second.take("purge", 60)
        assert second.take("unpack-0b5c", 60)
        assert {("purge", "taken"): 1} == first.counts
        assert {("purge", "busy"): 1, ("unpack", "taken"): 1} == second.counts

    def test_is_renewed_for_its_holder(self, driver):
        leases = Leases(driver, lambda: 100.0)
        assert leases.take("purge", 60)
        assert leases.take("purge", 60)

    def test_expires(self, driver):
        assert Leases(driver, lambda: 100.0).take("purge", 60)
        assert Leases(driver, lambda: 161.0).take("purge", 60)

    def test_of_a_host_whose_clock_is_ahead_is_free(self, driver):
        assert Leases(driver, lambda: 3700.0).take("purge", 60)
        assert not Leases(driver, lambda: 3645.0).take("purge", 60)
        assert Leases(driver, lambda: 3635.0).take("purge", 60)
        driver.put_content(layout.lease("purge"), b'{"holder": "a version without the lifetime", "until": 7300}')
        assert not Leases(driver, lambda: 3635.0).take("purge", 60)

    def test_of_other_work_is_free(self, driver):
        assert Leases(driver).take("purge", 60)
        assert Leases(driver).take("collect", 60)

    @pytest.mark.parametrize("content", [b"[", b"[" * 100_000, b'{"holder": "another", "until": NaN}'], ids=[*"abc"])
    def test_that_is_damaged_does_not_block(self, driver, content):
        driver.put_content(layout.lease("purge"), content)
        assert Leases(driver).take("purge", 60)

    def test_is_granted_to_all_without_conditional_writes(self):
        driver = PlainDriver()
        assert Leases(driver).take("purge", 60)
        assert Leases(driver).take("purge", 60)

    def test_of_work_that_frees_space_is_granted_on_a_full_store(self):
        driver = FullDriver()
        assert Leases(driver).take("purge", 60)
        driver.is_full = True
        assert not Leases(driver).take("purge", 60, frees_space=True)
        assert Leases(driver).take("evict", 60, frees_space=True)
        with pytest.raises(StorageFull):
            Leases(driver).take("reindex", 60)

    def test_that_ends_with_its_process_is_free_when_that_has_ended(self, driver):
        assert Leases(driver).take("purge", 60, ends_with_process=True)
        assert not Leases(driver).take("purge", 60)
        program = "from docker_registry.registry.leases import this_process; print(this_process(), flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as other:
            process = other.stdout.readline().strip()
            lease = json.dumps({"holder": "another", "until": 9e9, "process": process}).encode()
            driver.put_content(layout.lease("purge"), lease)
            assert not Leases(driver).take("purge", 60)
            assert not Leases(driver).has_expired("purge")
            other.kill()
        assert Leases(driver).has_expired("purge")
        assert Leases(driver).take("purge", 60)

    def test_that_another_process_takes_during_its_release_is_kept(self, driver):
        clock = Clock(100.0)
        late, other = Leases(StoppingDriver(driver), clock), Leases(driver, clock)
        assert late.take("purge", 60)
        clock.now += 61
        release = Request(lambda: late.release("purge"))
        release.advance(2)
        assert other.take("purge", 60)
        release.advance()
        assert not late.take("purge", 60)

    def test_of_another_machine_ends_by_its_time_alone(self):
        boot, namespace, pid, started = this_process().split()
        assert not has_ended(this_process())
        assert has_ended(f"{boot} {namespace} {pid} 1{started}"), "another process has its id by now"
        for process in (
            "",
            "a b c d",
            f"other {namespace} {pid} 1",
            f"{boot} pid:[1] {pid} 1",
            f"{boot} {namespace} x 1",
        ):
            assert not has_ended(process)
