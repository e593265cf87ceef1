"""Whether a response may be sent again: the recorded states of the files from which it was computed."""

from __future__ import annotations

import os
import time

import pytest

from docker_registry import dependencies
from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import PathNotFound


@pytest.fixture
def driver(tmp_path):
    """With two files that are old enough to be dependencies."""
    driver = FileDriver(str(tmp_path / "store"))
    driver.put_content("a/b", b"content")
    driver.put_content("a/c", b"content")
    time.sleep(0.15)
    return driver


def collect(work):
    with dependencies.collected() as found:
        try:
            work()
        except PathNotFound:
            pass
    return found


#: Every method of a driver that reads one file.
LOOKS = {
    "get_content": lambda driver, path: driver.get_content(path),
    "get_versioned": lambda driver, path: driver.get_versioned(path),
    "stat": lambda driver, path: driver.stat(path),
    "exists": lambda driver, path: driver.exists(path),
    "open_file": lambda driver, path: driver.open_file(path).close(),
    "stream_read": lambda driver, path: b"".join(driver.stream_read(path)),
}
CHANGES = {
    "replaced": lambda driver: driver.put_content("a/b", b"content"),
    "removed": lambda driver: driver.remove("a/b"),
    "removed with its folder": lambda driver: driver.remove("a"),
    "touched": lambda driver: driver.touch("a/b"),
    "moved away": lambda driver: driver.move("a/b", "a/d"),
    "overwritten by another file": lambda driver: driver.move("a/c", "a/b"),
    "linked over": lambda driver: driver.link("a/c", "a/b"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
class TestARecordedFile:
    def test_is_valid_while_unchanged(self, driver, look):
        found = collect(lambda: look(driver, "a/b"))
        assert (True, True) == (found.is_complete, found.is_current())
        driver.put_content("a/x", b"another")
        assert found.is_current()

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_counts_no_more_when_it_is_changed(self, driver, look, change):
        found = collect(lambda: look(driver, "a/b"))
        change(driver)
        assert not found.is_current()

    def test_is_invalid_after_a_write_by_another_process(self, driver, look, tmp_path):
        found = collect(lambda: look(driver, "a/b"))
        (tmp_path / "store/a/b").write_bytes(b"CONTENT")
        assert not found.is_current()

    def test_is_recorded_as_missing_until_it_exists(self, driver, look):
        found = collect(lambda: look(driver, "n/e/w"))
        assert (True, True) == (found.is_complete, found.is_current())
        driver.put_content("n/e/x", b"")
        assert found.is_current()
        driver.put_content("n/e/w", b"")
        assert not found.is_current()

    def test_is_not_known_while_it_is_too_young(self, driver, look):
        driver.put_content("a/b", b"new")
        assert not collect(lambda: look(driver, "a/b")).is_complete


class TestARecordedFolder:
    def test_is_valid_while_no_entry_changes(self, driver):
        found = collect(lambda: driver.folder_version("a"))
        assert (True, True) == (found.is_complete, found.is_current())
        driver.remove("a/c")
        assert not found.is_current()

    def test_counts_also_when_it_is_not_there(self, driver):
        found = collect(lambda: driver.folder_version("x"))
        assert (True, True) == (found.is_complete, found.is_current())
        driver.put_content("x/y", b"")
        assert not found.is_current()

    def test_spoils_all_when_it_is_listed_or_searched(self, driver):
        assert not collect(lambda: list(driver.list_directory("a"))).is_complete
        assert not collect(lambda: driver.exists("a")).is_complete
        assert not collect(lambda: list(driver.walk("a"))).is_complete


class TestAnUntrackableRead:
    def test_is_of_a_file_that_changed_between_two_reads(self, driver):
        def look_twice():
            driver.get_content("a/b")
            os.utime(driver._tree.locate("a/b"), (1, 1))
            driver.get_content("a/b")

        assert not collect(look_twice).is_complete

    def test_is_of_too_many_files(self, driver):
        assert not collect(lambda: [driver.exists(f"x/{number}") for number in range(100)]).is_complete

    def test_is_one_in_another_thread(self, driver, monkeypatch):
        monkeypatch.setattr("docker_registry.concurrency.monkey.is_module_patched", lambda _: True)
        assert not collect(lambda: run_in_thread(int)).is_complete

    def test_is_ignored_outside_a_recording(self, driver):
        assert b"content" == driver.get_content("a/b")

    def test_is_invalid_if_the_store_is_gone(self, driver, tmp_path):
        found = collect(lambda: driver.get_content("a/b"))
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        assert not found.is_current()


def stat_result(ctime_ns):
    """The stat(2) result of a file whose inode changed at this time, in nanoseconds, and its content long ago."""
    return os.stat_result((0o100644, 1, 1, 1, 0, 0, 7, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, ctime_ns))


class TestAFileWithWholeSeconds:
    @pytest.mark.parametrize(
        ("fraction_ns", "age_ns", "expected"),
        [
            (0, 10**9, True),
            (0, 3 * 10**9, False),
            (1, 10**9, False),
            (1, 10_000_000, True),
        ],
    )
    def test_may_change_unnoticed_for_longer(self, monkeypatch, fraction_ns, age_ns, expected):
        changed = 1_700_000_000 * 10**9 + fraction_ns
        monkeypatch.setattr(time, "time_ns", lambda: changed + age_ns)
        assert expected == dependencies.may_change_unnoticed(stat_result(changed))


class TestAFolder:
    def test_whose_time_was_set_back_has_another_version(self, driver):
        """As rsync and tar do after writing a file."""
        place = driver._tree.locate("a")
        before, times = driver.folder_version("a"), os.stat(place)
        driver.put_content("a/new", b"")
        os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
        time.sleep(0.15)
        assert before != driver.folder_version("a") is not None
