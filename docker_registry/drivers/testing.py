"""
The contract of storage drivers, as tests: whoever writes a driver inherits them.

::

    class TestMyDriver(DriverSuite):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyDriver(place=str(tmp_path))

        @pytest.fixture
        def broken_driver(self, tmp_path):
            return MyDriver(place="/nowhere")  # one whose backend fails every call

Every class is a situation and every method a sentence of the contract in :mod:`docker_registry.drivers.base`. What a
driver declares that it cannot do is skipped, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed, StorageError

#: Contents of every kind: none, one byte, every value, and more than any block.
CONTENTS = (b"", b"x", bytes(range(256)), bytes(range(256)) * 12_289)

BAD_PATHS = (
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "a/./b",
    "../a",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "x" * 256,
    "a/" + "ä" * 128,
)

#: How many race in the tests of races.
RACERS = 50


class SourceDied(Exception):
    """A source of blocks that ends badly."""


def _dying(*blocks: bytes) -> Iterator[bytes]:
    yield from blocks
    raise SourceDied


def race(*works: Callable[[], object]) -> list[Exception]:
    """Do all works at once, each in a thread of its own, and return what they raised."""
    start, raised = threading.Barrier(len(works)), []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def read(driver: StorageDriver, path: str, offset: int = 0, length: int | None = None) -> bytes:
    """Read a file by its stream."""
    return b"".join(driver.stream_read(path, offset, length))


class DriverSuite:
    """What every driver promises."""

    @pytest.fixture
    def driver(self) -> Iterable[StorageDriver]:
        """An empty store."""
        raise NotImplementedError("a driver's test class provides the fixture `driver`")

    @pytest.fixture
    def broken_driver(self) -> Iterable[StorageDriver]:
        """A store whose backend fails; a driver whose backend cannot fail overrides this by a skip that says so."""
        raise NotImplementedError("a driver's test class provides the fixture `broken_driver`")

    # ------------------------------------------------------------------------------------------------- bytes

    @pytest.mark.parametrize("content", CONTENTS, ids=len)
    def test_a_content_is_kept_as_it_is(self, driver: StorageDriver, content: bytes) -> None:
        driver.put_content("a/b", content)
        assert content == driver.get_content("a/b")
        assert content == read(driver, "a/b")
        assert len(content) == driver.get_size("a/b")

    @pytest.mark.parametrize("content", CONTENTS, ids=len)
    def test_a_stream_is_kept_as_it_is(self, driver: StorageDriver, content: bytes) -> None:
        blocks = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
        assert len(content) == driver.stream_write("a/b", blocks)
        assert content == driver.get_content("a/b")

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes_come_in_every_kind_of_object(self, driver: StorageDriver, kind: Callable[[bytes], bytes]) -> None:
        driver.put_content("a", kind(b"content"))
        driver.stream_write("b", [kind(b"con"), kind(b"tent")])
        assert (b"content", b"content") == (driver.get_content("a"), driver.get_content("b"))

    def test_a_source_may_use_its_buffer_again(self, driver: StorageDriver) -> None:
        buffer = bytearray(3)

        def blocks() -> Iterator[memoryview]:
            for block in (b"abc", b"def", b"ghi"):
                buffer[:] = block
                yield memoryview(buffer)

        driver.stream_write("a", blocks())
        assert b"abcdefghi" == driver.get_content("a")

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [
            (0, 1, b"0"),
            (0, None, b"0123456789"),
            (3, 4, b"3456"),
            (9, 1, b"9"),
            (9, 100, b"9"),
            (10, None, b""),
            (99, 5, b""),
            (5, 0, b""),
        ],
    )
    def test_a_part_can_be_read(self, driver: StorageDriver, offset: int, length: int | None, expected: bytes) -> None:
        driver.put_content("a", b"0123456789")
        assert expected == read(driver, "a", offset, length)

    def test_no_block_is_empty(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"")
        assert [] == list(driver.stream_read("a"))

    def test_a_content_is_replaced_by_the_next(self, driver: StorageDriver) -> None:
        for content in (b"a long content", b"short", b""):
            driver.put_content("a", content)
            assert content == driver.get_content("a")
        driver.stream_write("a", [b"streamed"])
        assert b"streamed" == driver.get_content("a")

    def test_a_local_file_is_the_same_bytes(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"content")
        file = driver.open_file("a")
        if file is None:
            pytest.skip("the files of this driver are not local")
        with file:
            assert b"content" == file.read()
        with pytest.raises(PathNotFound):
            driver.open_file("b")

    # ------------------------------------------------------------------------------------------- publication

    def test_a_source_that_raises_publishes_nothing(self, driver: StorageDriver) -> None:
        with pytest.raises(SourceDied):
            driver.stream_write("a/b", _dying(b"half"))
        assert not driver.exists("a/b")
        assert [] == list(driver.walk())

    def test_a_source_that_raises_leaves_the_old_content(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"old")
        with pytest.raises(SourceDied):
            driver.stream_write("a", _dying(b"new", b"er"))
        assert b"old" == driver.get_content("a")

    def test_a_reader_never_sees_what_is_not_finished(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"old")
        seen = []

        def blocks() -> Iterator[bytes]:
            for block in (b"n", b"e", b"w"):
                yield block
                seen.append(driver.get_content("a"))

        driver.stream_write("a", blocks())
        assert [b"old"] * 3 == seen
        assert b"new" == driver.get_content("a")

    def test_a_hundred_writers_of_one_path_leave_one_whole_content(self, driver: StorageDriver) -> None:
        contents = [bytes([number]) * 20_000 for number in range(100)]
        seen: list[bytes] = []

        def look() -> None:
            for _ in range(50):
                try:
                    seen.append(driver.get_content("a/b"))
                except PathNotFound:
                    continue

        writers = [lambda content=content: driver.put_content("a/b", content) for content in contents]
        assert [] == race(*writers, look, look)
        assert driver.get_content("a/b") in contents
        assert set(seen) <= set(contents)

    # -------------------------------------------------------------------------------------- conditional puts

    def _needs_if_match(self, driver: StorageDriver) -> None:
        if not driver.supports_if_match:
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

    def test_a_conditional_put_changes_nothing_else(self, driver: StorageDriver) -> None:
        self._needs_if_match(driver)
        driver.put_content("a", b"1")
        old = driver.get_versioned("a").version
        driver.put_content("a", b"2")
        for version in (old, ABSENT):
            with pytest.raises(PreconditionFailed):
                driver.put_content("a", b"3", if_match=version)
        with pytest.raises(PreconditionFailed):
            driver.put_content("b", b"3", if_match=old)
        assert (b"2", False) == (driver.get_content("a"), driver.exists("b"))

    @pytest.mark.parametrize("is_new", [True, False])
    def test_of_many_conditional_puts_at_once_one_wins(self, driver: StorageDriver, is_new: bool) -> None:
        self._needs_if_match(driver)
        version = ABSENT
        if not is_new:
            driver.put_content("a", b"old")
            version = driver.get_versioned("a").version
        contents = [b"%d" % number for number in range(RACERS)]
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

    # ------------------------------------------------------------------------------------ what lies in there

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

    def _settled_version(self, driver: StorageDriver, path: str) -> str | None:
        for _ in range(20):
            version = driver.folder_version(path)
            if version is not None:
                return version
            time.sleep(0.05)
        return None

    # ----------------------------------------------------------------------------------- moving and removing

    def test_a_file_is_moved(self, driver: StorageDriver) -> None:
        driver.put_content("a/b", b"content")
        driver.move("a/b", "c/d/e")
        assert (b"content", False) == (driver.get_content("c/d/e"), driver.exists("a"))

    def test_a_file_is_moved_over_another(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"new")
        driver.put_content("b", b"old")
        driver.move("a", "b")
        assert (b"new", False) == (driver.get_content("b"), driver.exists("a"))

    def test_a_touch_renews_the_time_alone(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"content")
        before = driver.stat("a").modified
        time.sleep(0.02)
        driver.touch("a")
        assert driver.stat("a").modified >= before
        assert b"content" == driver.get_content("a")

    def test_a_folder_is_removed_with_all_that_lies_below(self, driver: StorageDriver) -> None:
        for path in ("a/b/c/d", "a/b/e", "a/bc", "a/b.c"):
            driver.put_content(path, b"")
        driver.remove("a/b")
        assert ["a/b.c", "a/bc"] == sorted(stat.path for stat in driver.walk())

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

    # ------------------------------------------------------------------------------------------------- paths

    @pytest.mark.parametrize("path", ["a", "A.b-c_d~e", "%2F", "a b", "ü", "x" * 255, "/".join("abcdefgh" * 4)])
    def test_a_path_in_the_grammar_is_good(self, driver: StorageDriver, path: str) -> None:
        driver.put_content(path, b"content")
        assert b"content" == driver.get_content(path)
        assert [path] == [stat.path for stat in driver.walk()]

    @pytest.mark.parametrize("path", ["", *BAD_PATHS])
    def test_a_path_outside_the_grammar_is_refused_by_every_verb(self, driver: StorageDriver, path: str) -> None:
        verbs: tuple[Callable[[], object], ...] = (
            lambda: driver.get_content(path),
            lambda: driver.get_versioned(path),
            lambda: driver.put_content(path, b""),
            lambda: list(driver.stream_read(path)),
            lambda: driver.stream_write(path, [b""]),
            lambda: driver.exists(path),
            lambda: driver.stat(path),
            lambda: driver.move(path, "x"),
            lambda: driver.touch(path),
            lambda: driver.remove(path),
            *(() if path == "" else (lambda: list(driver.list_directory(path)), lambda: list(driver.walk(path)))),
        )
        for verb in verbs:
            with pytest.raises(PathInvalid):
                verb()
        driver.put_content("x", b"")
        with pytest.raises(PathInvalid):
            driver.move("x", path)
        assert ["x"] == [stat.path for stat in driver.walk()]

    # ------------------------------------------------------------------------------------------- the backend

    def test_a_broken_backend_is_a_storage_error(self, broken_driver: StorageDriver) -> None:
        verbs: tuple[Callable[[], object], ...] = (
            lambda: broken_driver.put_content("a", b""),
            lambda: broken_driver.stream_write("a", [b"content"]),
            lambda: broken_driver.get_content("a"),
            lambda: list(broken_driver.stream_read("a")),
            lambda: broken_driver.stat("a"),
        )
        for verb in verbs:
            with pytest.raises(StorageError):
                verb()
