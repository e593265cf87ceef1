"""Shared tests of the drivers of object stores on an unreliable network."""

from __future__ import annotations

import pytest

from docker_registry.drivers.base import ABSENT
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable


def lose_first_response(proxy, monkeypatch):
    """
    Return a function that makes a change, the response to whose first request is lost.

    Args:
        proxy: the :class:`FaultProxy` between the driver and the store.
    """

    def lost(change):
        faults = ["unheard"]
        monkeypatch.setattr(proxy, "_choose", lambda: faults.pop() if faults else "")
        change()
        assert [] == faults

    return lost


class LostResponseSuite:
    """
    The store makes a change, its response is lost, and the driver sends the request again.

    Subclasses have the fixtures ``driver`` and ``lost``, a function as :func:`lose_first_response` returns it.
    """

    def test_is_done_if_its_condition_holds(self, driver, lost):
        lost(lambda: driver.put_content("a", b"1", if_match=ABSENT))
        version = driver.get_versioned("a").version
        lost(lambda: driver.put_content("a", b"2", if_match=version))
        assert b"2" == driver.get_content("a")

    def test_is_not_done_after_a_concurrent_change(self, driver, lost):
        driver.put_content("a", b"theirs")
        with pytest.raises(PreconditionFailed):
            lost(lambda: driver.put_content("a", b"ours", if_match=ABSENT))

    def test_is_done_without_a_condition(self, driver, lost):
        lost(lambda: driver.put_content("a", b"content"))
        lost(lambda: driver.touch("a"))
        lost(lambda: driver.move("a", "b"))
        lost(lambda: driver.remove("b"))
        assert not driver.exists("a")
        assert not driver.exists("b")


class BrokenReadSuite:
    """
    A response is interrupted.

    Subclasses have the fixtures ``driver``, ``proxy``, a :class:`CuttingProxy` between it and the store, and ``large``,
    a content that several responses of ``CUT_BYTES`` carry.
    """

    CUT_BYTES = 900 * 1024

    def test_resumes_where_it_stopped(self, driver, proxy, large):
        driver.stream_write("a", [large])
        proxy.cut_after = self.CUT_BYTES
        assert large == b"".join(driver.stream_read("a"))
        assert large[5:-5] == b"".join(driver.stream_read("a", 5, len(large) - 10))
        assert 6 <= proxy.cuts

    def test_is_an_error_if_the_file_was_replaced(self, driver, proxy, large):
        driver.stream_write("a", [large])
        proxy.cut_after = self.CUT_BYTES
        blocks = driver.stream_read("a")
        next(blocks)
        driver.put_content("a", b"new" * len(large))
        with pytest.raises(StorageError, match="replaced"):
            list(blocks)

    def test_is_an_error_after_repeated_interruptions(self, driver, proxy, large, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda _: None)
        driver.stream_write("a", [large])
        proxy.cut_after = self.CUT_BYTES
        blocks = driver.stream_read("a")
        next(blocks)
        proxy.cut_after = 10
        with pytest.raises(StorageUnavailable):
            list(blocks)


class ForeignStoreSuite:
    """
    Content of another registry is served.

    Subclasses have the fixtures ``driver``, ``open_driver``, which opens one with a given ``storage_path``, and
    ``put``, which puts an object as an independent client.
    """

    def test_is_served_with_its_root_directory(self, driver, put):
        put("registry/docker/registry/v2/blobs/x", b"content")
        put("elsewhere", b"content")
        assert b"content" == driver.get_content("docker/registry/v2/blobs/x")
        assert ["docker/registry/v2/blobs/x"] == [stat.path for stat in driver.walk()]

    def test_is_served_without_a_root_directory(self, open_driver, put):
        put("docker/registry/v2/blobs/x", b"content")
        for path in ("", "/"):
            driver = open_driver(path)
            assert ["docker"] == list(driver.list_directory())
            driver.close()

    def test_is_listed_without_the_markers_of_its_folders(self, driver, put):
        """Consoles and gateways mark a folder by an empty object whose name ends with a slash."""
        for name in ("registry/", "registry/a/", "registry/a/b/", "registry/empty/"):
            put(name, b"")
        put("registry/a/b/c", b"content")
        assert ["a/b"] == list(driver.list_directory("a"))
        assert ["a/b/c"] == list(driver.list_directory("a/b"))
        assert ["a/b/c"] == [stat.path for stat in driver.walk()]
        with pytest.raises(PathNotFound):
            list(driver.list_directory("empty"))
