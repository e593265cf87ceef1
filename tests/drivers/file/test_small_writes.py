"""Small writes: the modules that they run through, batches, and scratch files."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from contrib.files_per_request import small_write
from docker_registry.drivers.base import ABSENT
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.file.small_writes import MAX_WAITING, OpenFolders
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from tests.support.gevent_program import under_gevent


@pytest.fixture
def synced(tmp_path, monkeypatch):
    """A driver without a journal, as on a file system that hosts share."""
    monkeypatch.setattr("docker_registry.drivers.file.sync._KNOWN", set())
    return FileDriver(str(tmp_path / "store"))


@pytest.fixture(params=["with a journal", "without"])
def driver(request, tmp_path):
    if request.param == "without":
        return request.getfixturevalue("synced")
    driver = FileDriver(str(tmp_path / "store"))
    driver.put_content("first", b"")  # makes the journal
    driver.remove("first")
    return driver


@pytest.fixture
def syncs(monkeypatch, synced):
    """The number of files and folders of each sync."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(1))
    monkeypatch.setattr(synced._disk, "sync", lambda fds: seen.append(len(fds)) if fds else None)
    return seen


def staged(driver):
    return [name for part in driver._staging.subfolders for name in os.listdir(part)]


def test_a_small_write_can_be_read_in_four_modules(tmp_path):
    found = set(small_write(Path(__file__).parents[3], tmp_path / "store")) - {"concurrency.py", "drivers/paths.py"}
    modules = ("journal/journal", "reserved_folder", "root", "small_writes")
    assert {f"drivers/file/{module}.py" for module in modules} == found


class TestABatch:
    def test_waits_for_the_disk_twice_without_a_journal(self, synced, syncs):
        with synced.batch():
            for number in range(5):
                synced.put_content(f"folder/{number}/file", b"content")
        assert [5, 7] == syncs  # the contents, then the root, the folder and the five in it
        assert b"content" == synced.get_content("folder/3/file")
        assert [] == staged(synced)

    def test_publishes_its_contents_at_the_end_of_the_block(self, driver):
        with driver.batch():
            driver.put_content("a", b"1")
            driver.put_content("a", b"2")
            driver.put_content("empty", b"")
        assert (b"2", b"") == (driver.get_content("a"), driver.get_content("empty"))
        assert [] == staged(driver)

    def test_keeps_the_order_of_its_changes(self, driver):
        driver.put_content("source", b"moved")
        with driver.batch():
            driver.put_content("target", b"put")
            driver.move("source", "target")
        assert b"moved" == driver.get_content("target")

    def test_publishes_no_pending_content_after_an_error(self, driver):
        driver.put_content("here", b"")
        with pytest.raises(PreconditionFailed), driver.batch():
            driver.put_content("before", b"1")
            driver.put_content("here", b"2", if_match=ABSENT)
        with pytest.raises(ZeroDivisionError), driver.batch():
            driver.put_content("never", b"1")
            raise ZeroDivisionError
        assert (True, False) == (driver.exists("before"), driver.exists("never"))
        assert [] == staged(driver)

    def test_of_many_contents_keeps_few_files_open(self, driver):
        gc.collect()  # the drivers of other tests, each of which has a journal open
        before = len(os.listdir("/proc/self/fd"))
        with driver.batch():
            for number in range(3 * MAX_WAITING + 1):
                driver.put_content(f"{number}", b"%d" % number)
                assert len(os.listdir("/proc/self/fd")) < before + MAX_WAITING + 5
        assert before == len(os.listdir("/proc/self/fd"))
        assert 3 * MAX_WAITING + 1 == len(list(driver.walk()))

    def test_inside_another_is_part_of_it(self, synced, syncs):
        with synced.batch():
            with synced.batch():
                synced.put_content("inner", b"1")
            synced.put_content("outer", b"2")
        assert [2, 1] == syncs

    def test_takes_no_changes_of_another_store(self, driver, tmp_path):
        other = FileDriver(str(tmp_path / "other"))
        with driver.batch():
            other.put_content("a", b"other")
            with other.batch():
                driver.put_content("a", b"1")
                other.move("a", "b")
            assert b"other" == other.get_content("b")
        assert b"1" == driver.get_content("a")
        assert ([], []) == (staged(driver), staged(other))

    def test_is_synced_even_after_an_error(self, synced, syncs):
        synced.put_content("source", b"")
        syncs.clear()
        with pytest.raises(ZeroDivisionError), synced.batch():
            synced.move("source", "target")
            raise ZeroDivisionError
        assert [1] == syncs


WAITS = """
import os, sys
from docker_registry.drivers.file import FileDriver
from docker_registry.server.brief_calls import BriefCalls
from docker_registry.server.request_loop import InflightRequests
waited = []
def noted(call):
    def wait(fd):
        waited.append(this_thread())
        return call(fd)
    return wait
os.fdatasync = noted(os.fdatasync)
driver, inflight = FileDriver(sys.argv[1]), InflightRequests()
driver.run_brief = BriefCalls()
driver.run_brief.has_lone_client = inflight.has_lone_client
driver.put_content("first", b"")  # makes the journal
def put(size):
    waited.clear()
    with driver.batch():
        driver.put_content("a", bytes(size))
        driver.put_content("b", bytes(size))
    return waited == [this_thread()]
def move():
    waited.clear()
    with driver.batch():
        driver.move("first", "second")
    return waited == [this_thread()]
inflight.begin(7)
"""


class TestABatchOfALoneClient:
    def test_runs_in_the_calling_thread_if_it_only_waits_for_the_journal(self, tmp_path):
        changes = {
            "put(1000)": True,
            "put(128 * 1024)": True,
            "put(128 * 1024 + 1)": False,
            "move()": False,
            "inflight.begin(8) or put(1000)": False,
        }
        found = under_gevent(f"{WAITS}\nprint({', '.join(changes)}, sep='\\n')", str(tmp_path / "store"))
        assert list(map(str, changes.values())) == found

    def test_runs_in_another_thread_if_a_half_of_the_journal_is_full(self, tmp_path):
        change = "all([put(120 * 1024) for _ in range(20)])"  # at some time everything is synced, which takes long
        assert ["False"] == under_gevent(f"{WAITS}\nprint({change})", str(tmp_path / "store"))


class TestScratchFiles:
    def test_do_not_wait_for_the_disk(self, synced, syncs):
        synced.scratch.put_content("upload/state", b"{}")
        synced.scratch.remove("upload")
        assert [] == syncs

    def test_are_synced_before_publication_if_streamed(self, synced, syncs):
        synced.scratch.stream_write("upload/bytes", [b"bytes"])
        assert [1] == syncs

    def test_are_visible_to_the_durable_driver(self, driver):
        driver.scratch.put_content("upload/state", b"{}")
        assert b"{}" == driver.get_content("upload/state")
        driver.scratch.stream_write("upload/bytes", [b"bytes"])
        driver.move("upload/bytes", "blob")
        driver.scratch.remove("upload")
        assert b"bytes" == driver.get_content("blob")
        with pytest.raises(PathNotFound):
            driver.get_content("upload/state")

    def test_have_conditional_puts(self, driver):
        driver.scratch.put_content("state", b"1", if_match=ABSENT)
        with pytest.raises(PreconditionFailed):
            driver.scratch.put_content("state", b"2", if_match=ABSENT)

    def test_of_scratch_files_are_scratch_files(self, driver):
        assert driver.scratch is driver.scratch.scratch


class TestOpenFolders:
    @pytest.fixture
    def tree(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_bytes(b"content")
        (tmp_path / "staged").write_bytes(b"new")
        return tmp_path.resolve()

    @pytest.fixture
    def root(self, tree):
        return Tree(str(tree))

    @pytest.mark.parametrize("path", ["new/folder/file", "folder/file", "folder/other", "other"])
    def test_find_and_replace_what_is_there(self, tree, root, path):
        before = (tree / path).stat().st_ino if (tree / path).exists() else None
        with OpenFolders(root) as folders:
            found = folders.find(path)
            assert before == (found and found.st_ino)
            is_left = folders.move_in(f"{tree}/staged", path, found)
        assert b"new" == (tree / path).read_bytes()
        assert is_left == (tree / "staged").exists()

    def test_create_a_folder_again_that_was_removed_meanwhile(self, tree, root):
        with OpenFolders(root) as folders:
            found = folders.find("new/file")
            (tree / "new").rmdir()
            assert not folders.move_in(f"{tree}/staged", "new/file", found)
        assert b"new" == (tree / "new" / "file").read_bytes()

    @pytest.mark.parametrize("path", ["folder/file/below", "folder"])
    def test_report_what_is_in_the_way(self, tree, root, path):
        with pytest.raises(StorageError, match="the other way round"), OpenFolders(root) as folders:
            folders.move_in(f"{tree}/staged", path, folders.find(path))
        assert b"content" == (tree / "folder" / "file").read_bytes()

    def test_are_closed_and_leave_no_new_folder_after_an_error(self, tree, root):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ZeroDivisionError), OpenFolders(root) as folders:
            folders.find("new/folder/file")
            raise ZeroDivisionError
        assert not (tree / "new").exists()
        assert before == os.listdir("/proc/self/fd")
