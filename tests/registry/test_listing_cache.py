from __future__ import annotations

import contextlib
import sys
import threading

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageUnavailable
from docker_registry.registry.listing_cache import ListingCache, cut
from tests.support.timing import wait_until


class SlowDriver(MemoryDriver):
    """Waits shortly for a second listing of the folder x at the same time, and counts the listings."""

    def __init__(self):
        super().__init__()
        self.listed = 0
        self._both = threading.Barrier(2)

    def folder_version(self, path):
        return "1"

    def list_directory(self, path=""):
        if path == "x":
            self.listed += 1
            with contextlib.suppress(threading.BrokenBarrierError):
                self._both.wait(0.2)
        return super().list_directory(path)


class TestAPage:
    NAMES = ("a", "b", "c", "d")

    def always(self, name):
        return True

    def test_contains_the_first_names(self):
        assert (("a", "b"), True) == (
            cut(self.NAMES, 2, "", self.always).names,
            cut(self.NAMES, 2, "", self.always).more,
        )

    def test_continues_after_the_last_one(self):
        page = cut(self.NAMES, 2, "b", self.always)
        assert (("c", "d"), False) == (page.names, page.more)

    def test_continues_after_a_removed_name(self):
        assert ("c",) == cut(self.NAMES, 1, "bb", self.always).names

    def test_of_nothing_has_nothing_after_it(self):
        assert ((), False) == (cut(self.NAMES, 0, "", self.always).names, cut(self.NAMES, 0, "", self.always).more)

    def test_replaces_removed_names(self):
        page = cut(self.NAMES, 2, "", lambda name: name != "b")
        assert (("a", "c"), True) == (page.names, page.more)

    def test_checks_only_the_names_it_returns(self):
        asked = []
        cut(range(1000000), 3, "", lambda name: asked.append(name) or True)
        assert 4 == len(asked)


class TestListings:
    def read(self, name):
        return None if name.startswith("_") else name

    def test_are_in_order_and_without_invalid_names(self, driver):
        for name in ("b", "a", "_x"):
            driver.put_content(f"folder/{name}/link", b"")
        assert ["a", "b"] == list(ListingCache(driver).names("folder", self.read))

    def test_follow_changes(self, driver):
        listings = ListingCache(driver)
        for name in ("b", "a", "c"):
            driver.put_content(f"folder/{name}", b"")
            assert name in listings.names("folder", self.read)
        driver.remove("folder/a")
        assert ["b", "c"] == list(listings.names("folder", self.read))

    def test_of_a_missing_folder_are_empty(self, driver):
        assert [] == list(ListingCache(driver).names("folder", self.read))

    def test_are_reused_while_nothing_changes(self, driver):
        driver.put_content("folder/a", b"")
        driver.folder_version = lambda path: "1"
        listings = ListingCache(driver)
        first = listings.names("folder", self.read)
        assert first is listings.names("folder", self.read)

    def test_stay_within_their_byte_limit(self, driver):
        driver.folder_version = lambda path: "1"
        listings = ListingCache(driver, max_cached_bytes=1000)  # for one folder with two names, not for two folders
        for folder in ("x", "y"):
            for name in ("a", "b"):
                driver.put_content(f"{folder}/{name}", b"")
        first = listings.names("x", self.read)
        listings.names("y", self.read)
        assert first is not listings.names("x", self.read)

    def test_that_concurrent_requests_need_are_read_and_counted_once(self):
        driver = SlowDriver()
        for path in ("x/a", "x/b", "y/a", "y/b"):
            driver.put_content(path, b"")
        listings = ListingCache(driver, max_cached_bytes=2000)  # for two folders, not for three
        requests = [threading.Thread(target=listings.names, args=("x", self.read)) for _ in range(2)]
        for request in requests:
            request.start()
        for request in requests:
            request.join(60)
        first = listings.names("x", self.read)
        assert [["a", "b"], 1] == [first, driver.listed]
        listings.names("y", self.read)
        assert first is listings.names("x", self.read)

    def test_of_a_newer_version_are_not_delayed_by_a_slow_listing_of_an_older_one(self, driver):
        versions, both_are_listing = iter("12"), threading.Barrier(2)
        driver.folder_version = lambda path: next(versions)
        driver.list_directory = lambda path: iter([f"folder/{both_are_listing.wait(60)}"])
        listings, found = ListingCache(driver), []
        requests = [
            threading.Thread(target=lambda: found.append(listings.names("folder", self.read))) for _ in range(2)
        ]
        for request in requests:
            request.start()
        for request in requests:
            request.join(120)
        assert [["0"], ["1"]] == sorted(found)

    def test_that_fail_delay_other_requests_only_once(self, driver):
        is_listing, is_waited_for, both_are_listing = threading.Event(), threading.Event(), threading.Barrier(2)

        def list_directory(_path):
            if not is_listing.is_set():
                is_listing.set()
                is_waited_for.wait(60)
                raise StorageUnavailable
            return iter([f"folder/{both_are_listing.wait(60)}"])

        driver.folder_version, driver.list_directory = lambda path: "1", list_directory
        listings, found = ListingCache(driver), []

        def fail():
            with pytest.raises(StorageUnavailable):
                listings.names("folder", self.read)

        first = threading.Thread(target=fail)
        first.start()
        assert is_listing.wait(60)
        others = [threading.Thread(target=lambda: found.append(listings.names("folder", self.read))) for _ in range(2)]
        for request in others:
            request.start()
        wait_until(lambda: all(sys._current_frames()[each.ident].f_code.co_name == "wait" for each in others))
        is_waited_for.set()
        for request in (first, *others):
            request.join(120)
        assert [["0"], ["1"]] == sorted(found)

    def test_are_in_order_however_many_there_are(self, driver):
        names = [f"{number * 7919 % 20_011:05}" for number in range(20_011)]
        driver.list_directory = lambda path: (f"folder/{name}" for name in names)
        assert sorted(names) == ListingCache(driver).names("folder", self.read)
