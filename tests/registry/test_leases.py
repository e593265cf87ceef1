from __future__ import annotations

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.leases import Leases


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

    def test_of_other_work_is_free(self, driver):
        assert Leases(driver).take("purge", 60)
        assert Leases(driver).take("collect", 60)

    def test_that_is_damaged_does_not_block(self, driver):
        driver.put_content(layout.lease("purge"), b"[")
        assert Leases(driver).take("purge", 60)

    def test_is_granted_to_all_without_conditional_writes(self):
        driver = PlainDriver()
        assert Leases(driver).take("purge", 60)
        assert Leases(driver).take("purge", 60)
