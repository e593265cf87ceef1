"""The contract of storage drivers: content is stored unchanged and published atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from docker_registry.drivers.base import Bytes, StorageDriver
from docker_registry.drivers.testing.races import race
from docker_registry.errors import PathNotFound, StorageError

#: Test contents: empty, one byte, every byte value, and more than one block of any driver.
CONTENTS = (b"", b"x", bytes(range(256)), bytes(range(256)) * 12_289)


#: Parts of ``0123456789``: offset, length, and what is read.
PARTS: tuple[tuple[int, int | None, bytes], ...] = (
    (0, 1, b"0"),
    (0, None, b"0123456789"),
    (3, 4, b"3456"),
    (9, 1, b"9"),
    (9, 100, b"9"),
    (10, None, b""),
    (99, 5, b""),
    (5, 0, b""),
)


class SourceDied(Exception):
    """Raised by a source of blocks that fails."""


class SourceKilled(BaseException):
    """Raised by a source that is killed from outside, as a greenlet can be; not an :class:`Exception`."""


ENDS: tuple[type[BaseException], ...] = (SourceDied, SourceKilled)


def _dying(end: type[BaseException], *blocks: bytes) -> Iterator[bytes]:
    yield from blocks
    raise end


def read(driver: StorageDriver, path: str, offset: int = 0, length: int | None = None) -> bytes:
    """Return the content of a file, read with ``stream_read``."""
    return b"".join(driver.stream_read(path, offset, length))


class Contents:
    """Reads return exactly what was written."""

    def test_a_content_is_kept_as_it_is(self, driver: StorageDriver) -> None:
        for content in CONTENTS:
            path = f"a/{len(content)}"
            driver.put_content(path, content)
            assert content == driver.get_content(path)
            assert content == read(driver, path)
            assert len(content) == driver.get_size(path)

    def test_a_stream_is_kept_as_it_is(self, driver: StorageDriver) -> None:
        for content in CONTENTS:
            path = f"a/{len(content)}"
            blocks = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
            assert len(content) == driver.stream_write(path, blocks)
            assert content == driver.get_content(path)

    def test_bytes_come_in_every_kind_of_object(self, driver: StorageDriver) -> None:
        kinds: tuple[Callable[[bytes], Bytes], ...] = (bytes, bytearray, memoryview)
        for number, kind in enumerate(kinds):
            driver.put_content(f"a{number}", kind(b"content"))
            driver.stream_write(f"b{number}", [kind(b"con"), kind(b"tent")])
            assert [b"content"] * 2 == [driver.get_content(f"{name}{number}") for name in "ab"]

    def test_a_source_may_use_its_buffer_again(self, driver: StorageDriver) -> None:
        buffer = bytearray(3)

        def blocks() -> Iterator[memoryview]:
            for block in (b"abc", b"def", b"ghi"):
                buffer[:] = block
                yield memoryview(buffer)

        driver.stream_write("a", blocks())
        assert b"abcdefghi" == driver.get_content("a")

    def test_a_part_can_be_read(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"0123456789")
        for offset, length, expected in PARTS:
            assert (offset, length, expected) == (offset, length, read(driver, "a", offset, length))

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
        for end in ENDS:
            with pytest.raises(end):
                driver.stream_write("a/b", _dying(end, b"half"))
            assert not driver.exists("a/b")
            assert [] == list(driver.walk())

    def test_a_source_that_raises_leaves_the_old_content(self, driver: StorageDriver) -> None:
        driver.put_content("a", b"old")
        for end in ENDS:
            with pytest.raises(end):
                driver.stream_write("a", _dying(end, b"new", b"er"))
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

    def test_a_reader_gets_the_content_it_began_with_or_an_error(self, driver: StorageDriver) -> None:
        old = bytes(range(256)) * 40_000
        changes: tuple[Callable[[], None], ...] = (
            lambda: driver.put_content("a", b"new" * len(old)),
            lambda: driver.remove("a"),
        )
        for change in changes:
            driver.stream_write("a", [old])
            blocks = driver.stream_read("a")
            seen = next(blocks)
            change()
            try:
                seen += b"".join(blocks)
            except StorageError:
                continue
            assert old == seen

    def test_a_hundred_writers_of_one_path_leave_one_whole_content(self, driver: StorageDriver) -> None:
        contents = [bytes([number]) * 20_000 for number in range(100)]
        seen: list[bytes] = []

        def read_often() -> None:
            for _ in range(50):
                try:
                    seen.append(driver.get_content("a/b"))
                except PathNotFound:
                    continue

        writers = [lambda content=content: driver.put_content("a/b", content) for content in contents]
        assert [] == race(*writers, read_often, read_often)
        assert driver.get_content("a/b") in contents
        assert set(seen) <= set(contents)

    def test_changes_made_together_are_there_in_their_order(self, driver: StorageDriver) -> None:
        driver.put_content("gone", b"")
        with driver.batch():
            driver.put_content("a", b"1")
            driver.put_content("a", b"2")
            driver.stream_write("b", [b"streamed"])
            driver.remove("gone")
            driver.put_content("folder/c", b"")
        assert (b"2", b"streamed", b"") == tuple(map(driver.get_content, ("a", "b", "folder/c")))
        assert not driver.exists("gone")

    def test_files_that_live_shortly_are_files_of_the_store(self, driver: StorageDriver) -> None:
        driver.scratch.put_content("_uploads/1/state", b"1")
        driver.scratch.stream_write("_uploads/1/data", [b"content"])
        assert b"1" == driver.get_content("_uploads/1/state")
        driver.move("_uploads/1/data", "data")
        driver.scratch.remove("_uploads/1")
        assert b"content" == driver.get_content("data")
        assert not driver.exists("_uploads/1/state")
