"""The contract of storage drivers: metadata and listings, and how files are moved, linked, repaired and removed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from docker_registry.drivers.base import NO_FOLDER, StorageDriver
from docker_registry.drivers.testing.races import race
from docker_registry.errors import PathNotFound


class Folders:
    """A folder exists as long as it contains a file."""

    # ------------------------------------------------------------------------------------ metadata, listings

    def test_a_file_is_described(self, driver: StorageDriver) -> None:
        before = time.time()
        driver.put_content("a/b", b"content")
        stat = driver.stat("a/b")
        assert ("a/b", 7) == (stat.path, stat.size)
        assert before - 5 < stat.modified < time.time() + 5

    def test_what_is_not_there_is_not_found(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"")
        for path in ("x", "a/x", "a/b/x", "a/b/x/y"):
            for verb in (driver.get_content, driver.get_versioned, driver.stat, driver.get_size, driver.stream_read):
                with pytest.raises(PathNotFound):
                    verb(path)
            for change in (driver.touch, driver.remove):
                with pytest.raises(PathNotFound):
                    change(path)
            with pytest.raises(PathNotFound):
                driver.move(path, "y")
            assert not driver.exists(path)

    def test_a_missing_file_is_not_found_without_an_error(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        for path in ("x", "a", "a/x", "a/b/x", "a/b/x/y"):
            assert [None] * 3 == [find(path) for find in (driver.find, driver.find_versioned, driver.find_size)]
            assert not driver.has_file(path)
        assert (b"content", 7, True) == (driver.find("a/b"), driver.find_size("a/b"), driver.has_file("a/b"))
        assert ([7, None, 7], []) == (driver.find_sizes(["a/b", "x", "a/b"]), driver.find_sizes([]))
        assert ([7, None], []) == (driver.announce_writes(["new"], ["a/b", "x"]), driver.announce_writes(["new"]))
        assert driver.get_versioned("a/b") == driver.find_versioned("a/b")

    def test_a_path_is_discarded_once(self, driver: StorageDriver) -> None:
        for path in ("a/b", "c/d/e", "c/f"):
            driver.put_content(path, b"content")
        assert [False, False, True, False] == [driver.discard(path) for path in ("x", "a/x", "a/b", "a/b")]
        assert [True, False] == [driver.discard("c"), driver.discard("c")]
        assert [] == list(driver.walk())

    def test_a_file_is_discarded_whether_or_not_it_exists(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        for path in ("a/b", "a/b", "x"):
            driver.discard_file(path)
        assert (False, []) == (driver.exists("a"), list(driver.walk()))

    def test_a_content_of_the_same_batch_is_discarded(self, driver: StorageDriver) -> None:
        with driver.batch():
            driver.put_content("a/b", b"content")
            assert driver.discard("a/b")
        assert not driver.exists("a/b")

    def test_a_folder_is_no_file(self, driver: StorageDriver) -> None:
        driver.put_content("a/b/c", b"")
        for verb in (driver.get_content, driver.stat, driver.get_size, driver.stream_read, driver.touch):
            with pytest.raises(PathNotFound):
                verb("a/b")
        assert driver.exists("a/b")

    def test_a_folder_lists_what_lies_directly_in_it(self, driver: StorageDriver) -> None:
        for path in ("a/b/c", "a/b/d", "a/bc", "a/b.c", "a-b", "e"):
            driver.put_content(path, b"")
        assert ["a/b", "a/b.c", "a/bc"] == sorted(driver.list_directory("a"))
        assert ["a/b/c", "a/b/d"] == sorted(driver.list_directory("a/b"))
        assert ["a", "a-b", "e"] == sorted(driver.list_directory())

    def test_a_folder_without_anything_is_not_there(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"")
        for path in ("x", "a/b"):
            with pytest.raises(PathNotFound):
                list(driver.list_directory(path))

    def test_an_empty_store_lists_nothing(self, driver: StorageDriver) -> None:
        assert ([], []) == (list(driver.list_directory()), list(driver.walk()))

    def test_a_folder_is_gone_with_the_last_thing_in_it(self, driver: StorageDriver) -> None:
        driver.put_content("a/b/c", b"")
        driver.put_content("a/d", b"")
        driver.remove("a/b/c")
        assert (False, True) == (driver.exists("a/b"), driver.exists("a"))
        assert ["a/d"] == list(driver.list_directory("a"))
        driver.remove("a/d")
        assert ([], False) == (list(driver.list_directory()), driver.exists("a"))

    def test_a_walk_meets_every_file_below(self, driver: StorageDriver) -> None:
        for path in ("a/b/c", "a/d", "ab/c", "e"):
            driver.put_content(path, path.encode())
        assert ["a/b/c", "a/d"] == sorted(stat.path for stat in driver.walk("a"))
        assert [("a/b/c", 5), ("a/d", 3), ("ab/c", 4), ("e", 1)] == sorted((s.path, s.size) for s in driver.walk())
        assert [] == list(driver.walk("x"))

    def test_a_folder_with_a_version_has_another_after_a_change(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"")
        changes: tuple[Callable[[], None], ...] = (
            lambda: driver.put_content("a/c", b""),
            lambda: driver.remove("a/c"),
        )
        for change in changes:
            before = self._settled_version(driver, "a")
            if before is None:
                pytest.skip("the driver declares that its folders have no versions")
            change()
            assert driver.folder_version("a") != before

    def test_a_folder_is_said_not_to_be_there_only_when_nothing_lies_in_it(self, driver: StorageDriver) -> None:
        driver.put_content("a/b/c", b"")
        assert NO_FOLDER not in map(driver.folder_version, ("", "a", "a/b"))
        driver.remove("a/b/c")
        if driver.folder_version("a") == NO_FOLDER:
            with pytest.raises(PathNotFound):
                list(driver.list_directory("a"))

    def _settled_version(self, driver: StorageDriver, path: str) -> str | None:
        for _ in range(20):
            version = driver.folder_version(path)
            if version is not None:
                return version
            time.sleep(0.05)
        return None

    # -------------------------------------------------------------------- moving, linking, repairing, removing

    def test_a_file_is_moved(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        driver.move("a/b", "c/d/e")
        assert (b"content", False) == (driver.get_content("c/d/e"), driver.exists("a"))

    def test_a_file_is_moved_over_another(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"new")
        driver.put_content("b", b"old")
        driver.move("a", "b")
        assert (b"new", False) == (driver.get_content("b"), driver.exists("a"))

    def test_a_file_is_moved_to_where_it_is(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        driver.move("a/b", "a/b")
        assert b"content" == driver.get_content("a/b")

    def test_a_linked_file_has_two_paths(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        driver.put_content("c/d", b"old")
        if not driver.link("a/b", "c/d"):
            assert b"old" == driver.get_content("c/d")
            pytest.skip("the driver declares that it cannot link")
        assert (b"content", b"content") == (driver.get_content("a/b"), driver.get_content("c/d"))
        with pytest.raises(PathNotFound):
            driver.link("x", "c/d")

    def test_a_linked_file_stays_when_its_other_path_changes(self, driver: StorageDriver) -> None:
        changes: tuple[Callable[[], None], ...] = (
            lambda: driver.remove("a"),
            lambda: driver.put_content("a", b"new"),
        )
        for change in changes:
            driver.put_content("a", b"content")
            if not driver.link("a", "b"):
                pytest.skip("the driver declares that it cannot link")
            change()
            assert b"content" == driver.get_content("b")

    def test_a_linked_file_is_moved_over_its_other_path(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"content")
        if not driver.link("a", "b"):
            pytest.skip("the driver declares that it cannot link")
        driver.move("a", "b")
        assert (b"content", False) == (driver.get_content("b"), driver.exists("a"))

    def test_a_linked_file_is_repaired_under_all_its_paths(self, driver: StorageDriver) -> None:
        for content in (b"", b"right", b"the right bytes"):
            driver.put_content("a", b"damaged")
            assert not driver.is_shared("a")
            if not driver.link("a", "b") or not driver.is_shared("a"):
                pytest.skip("the driver declares that it cannot link, or that it cannot tell")
            driver.repair("a", [content[:3], content[3:]] if content else [])
            assert (content, content) == (driver.get_content("a"), driver.get_content("b"))

    def test_a_file_is_repaired_by_its_right_bytes(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"damaged")
        driver.repair("a", [b"right ", b"bytes"])
        assert (b"right bytes", False) == (driver.get_content("a"), driver.is_shared("x"))

    def test_a_touch_renews_the_time_alone(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"content")
        before = driver.stat("a").modified
        for _ in range(30):  # some stores have a resolution of one second
            time.sleep(0.1)
            driver.touch("a")
            if driver.stat("a").modified > before:
                break
        assert driver.stat("a").modified > before
        assert b"content" == driver.get_content("a")

    def test_a_folder_is_removed_with_all_that_lies_below(self, driver: StorageDriver) -> None:
        for path in ("a/b/c/d", "a/b/e", "a/bc", "a/b.c"):
            driver.put_content(path, b"")
        driver.remove("a/b")
        assert ["a/b.c", "a/bc"] == sorted(stat.path for stat in driver.walk())

    def test_a_folder_is_gone_with_the_last_folder_in_it(self, driver: StorageDriver) -> None:
        driver.put_content("a/b/c/d", b"")
        driver.remove("a/b/c")
        assert ([], False) == (list(driver.list_directory()), driver.exists("a"))

    def test_writers_and_removers_of_one_folder_do_not_disturb_each_other(self, driver: StorageDriver) -> None:
        def write(number: int) -> None:
            for turn in range(10):
                driver.put_content(f"a/b/{number}-{turn}", b"content")

        def remove() -> None:
            for _ in range(20):
                try:
                    driver.remove("a/b")
                except PathNotFound:
                    continue

        assert [] == race(*(lambda number=number: write(number) for number in range(8)), remove, remove)
        driver.put_content("a/b/last", b"content")
        assert b"content" == driver.get_content("a/b/last")

    def test_cleaning_up_leaves_everything_that_is_published(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        driver.remove_leftovers(0)
        assert b"content" == driver.get_content("a/b")
