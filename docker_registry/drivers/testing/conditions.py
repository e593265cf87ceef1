"""The contract of storage drivers: a conditional change applies to exactly the version that it names, or to nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.drivers.testing.races import race
from docker_registry.errors import PathNotFound, PreconditionFailed

#: Number of concurrent writers in tests with many of them.
RACERS = 50

#: Repetitions of tests in which two operations race in random order.
ROUNDS = 25


class Conditions:
    """Conditional puts and removals compare and change atomically."""

    def _needs_if_match(self, driver: StorageDriver) -> None:
        if not driver.capabilities.if_match:
            pytest.skip("the driver declares that it has no conditional puts")

    def test_a_version_names_the_content_that_was_read_with_it(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"1")
        first = driver.get_versioned("a")
        driver.put_content("a", b"2")
        second = driver.get_versioned("a")
        assert (b"1", b"2") == (first.content, second.content)
        assert first.version != second.version
        assert ABSENT not in (first.version, second.version)

    def test_a_conditional_put_replaces_the_version_it_names(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        driver.put_content("a", b"1", if_match=ABSENT)
        driver.put_content("a", b"2", if_match=driver.get_versioned("a").version)
        assert b"2" == driver.get_content("a")
        with driver.batch():
            driver.replace_content("a", b"3", driver.get_versioned("a").version)
            driver.replace_content("b", b"3", ABSENT)
        assert [b"3"] * 2 == [driver.get_content(path) for path in "ab"]

    def test_a_conditional_put_changes_nothing_else(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        driver.put_content("a", b"1")
        old = driver.get_versioned("a").version
        driver.put_content("a", b"2")
        for version in (old, ABSENT):
            with pytest.raises(PreconditionFailed):
                driver.put_content("a", b"3", if_match=version)
            with pytest.raises(PreconditionFailed), driver.batch():
                driver.replace_content("a", b"3", version)
        with pytest.raises(PreconditionFailed):
            driver.put_content("b", b"3", if_match=old)
        assert (b"2", False) == (driver.get_content("a"), driver.exists("b"))

    def test_of_many_conditional_puts_at_once_one_wins(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        self._one_wins(driver, ABSENT)
        self._one_wins(driver, driver.get_versioned("a").version)

    def _one_wins(self, driver: StorageDriver, version: str) -> None:
        contents = [b"%d after %s" % (number, version.encode()) for number in range(RACERS)]
        raised = race(
            *(lambda content=content: driver.put_content("a", content, if_match=version) for content in contents)
        )
        assert [PreconditionFailed] * (RACERS - 1) == [type(error) for error in raised]
        assert driver.get_content("a") in contents

    def test_many_who_repeat_until_they_win_lose_nothing(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        driver.put_content("count", b"0")

        def count() -> None:
            while True:
                stored = driver.get_versioned("count")
                try:
                    driver.put_content("count", b"%d" % (int(stored.content) + 1), if_match=stored.version)
                except PreconditionFailed:
                    continue
                return

        assert [] == race(*[count] * 10)
        assert b"10" == driver.get_content("count")

    def test_a_plain_put_at_the_same_time_is_never_lost(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        for _ in range(ROUNDS):
            driver.put_content("a/b", b"old")
            self._race_with_a_conditional_put(driver, lambda: driver.put_content("a/b", b"plain"))
            # In either order, the conditional put may replace the old content, but not that of the plain put.
            assert b"plain" == driver.get_content("a/b")

    def test_a_removal_at_the_same_time_is_never_undone(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        removals: tuple[Callable[[], None], ...] = (lambda: driver.remove("a/b"), lambda: driver.remove("a"))
        for removal in removals * ROUNDS:
            driver.put_content("a/b", b"old")
            self._race_with_a_conditional_put(driver, removal)
            with pytest.raises(PathNotFound):
                driver.get_content("a/b")

    def test_a_move_at_the_same_time_takes_all_along(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        for _ in range(ROUNDS):
            driver.put_content("a/b", b"old")
            self._race_with_a_conditional_put(driver, lambda: driver.move("a/b", "c"))
            assert driver.get_content("c") in (b"old", b"conditional")
            assert not driver.exists("a/b")

    def test_a_conditional_removal_removes_the_version_it_names(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"1")
        driver.remove_if_match("a/b", driver.get_versioned("a/b").version)
        assert not driver.exists("a/b")

    def test_a_conditional_removal_removes_nothing_else(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"1")
        old = driver.get_versioned("a/b").version
        driver.put_content("a/b", b"2")
        for path in ("a/b", "a/c", "c/d", "a"):
            with pytest.raises(PreconditionFailed):
                driver.remove_if_match(path, old)
        assert b"2" == driver.get_content("a/b")

    def test_a_put_beside_a_conditional_removal_is_never_lost(self, driver: StorageDriver) -> None:
        if not driver.capabilities.remove_if_match:
            pytest.skip("the driver declares that it has no conditional removals")
        for _ in range(ROUNDS):
            driver.put_content("a/b", b"old")
            version = driver.get_versioned("a/b").version
            raised = race(
                lambda: driver.remove_if_match("a/b", version),  # noqa: B023 - called in the same iteration
                lambda: driver.put_content("a/b", b"new"),
            )
            assert all(isinstance(error, PreconditionFailed) for error in raised)
            assert b"new" == driver.get_content("a/b")

    def _race_with_a_conditional_put(self, driver: StorageDriver, change: Callable[[], object]) -> None:
        version = driver.get_versioned("a/b").version
        raised = race(lambda: driver.put_content("a/b", b"conditional", if_match=version), change)
        assert all(isinstance(error, PreconditionFailed) for error in raised)
