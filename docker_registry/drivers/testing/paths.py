"""The contract of storage drivers: the path grammar and the error classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathInvalid, PathNotFound, StorageError

GOOD_PATHS = ("a", "A.b-c_d~e", "%2F", "a b", "ü", "x" * 255, "/".join("abcdefgh" * 4))

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


class Paths:
    """All methods accept and reject the same paths."""

    def test_a_path_in_the_grammar_is_good(self, driver: StorageDriver) -> None:
        for path in GOOD_PATHS:
            driver.put_content(path, b"content")
            assert b"content" == driver.get_content(path)
            assert [path] == [stat.path for stat in driver.walk()]
            driver.remove(path)

    def test_a_path_outside_the_grammar_is_refused_by_every_verb(self, driver: StorageDriver) -> None:
        driver.put_content("x", b"")
        for path in ("", *BAD_PATHS):
            self._is_refused(driver, path)
        assert ["x"] == [stat.path for stat in driver.walk()]

    def _is_refused(self, driver: StorageDriver, path: str) -> None:
        verbs: tuple[Callable[[], object], ...] = (
            lambda: driver.get_content(path),
            lambda: driver.get_versioned(path),
            lambda: driver.find(path),
            lambda: driver.find_versioned(path),
            lambda: driver.find_size(path),
            lambda: driver.put_content(path, b""),
            lambda: list(driver.stream_read(path)),
            lambda: driver.stream_write(path, [b""]),
            lambda: driver.exists(path),
            lambda: driver.stat(path),
            lambda: driver.move(path, "x"),
            lambda: driver.move("x", path),
            lambda: driver.touch(path),
            lambda: driver.remove(path),
            lambda: driver.discard(path),
            *(() if path == "" else (lambda: list(driver.list_directory(path)), lambda: list(driver.walk(path)))),
        )
        for verb in verbs:
            with pytest.raises(PathInvalid):
                verb()


class Errors:
    """Failures of the backend raise :class:`StorageError`."""

    def test_a_backend_that_fails_is_a_storage_error_and_not_an_empty_store(self, broken_driver: StorageDriver) -> None:
        verbs: tuple[Callable[[], object], ...] = (
            lambda: broken_driver.put_content("a", b""),
            lambda: broken_driver.stream_write("a", [b"content"]),
            lambda: broken_driver.get_content("a"),
            lambda: broken_driver.get_versioned("a"),
            lambda: broken_driver.find("a"),
            lambda: broken_driver.find_versioned("a"),
            lambda: broken_driver.find_size("a"),
            lambda: list(broken_driver.stream_read("a")),
            lambda: broken_driver.exists("a"),
            lambda: broken_driver.stat("a"),
            lambda: list(broken_driver.list_directory()),
            lambda: list(broken_driver.list_directory("a")),
            lambda: list(broken_driver.walk()),
            lambda: broken_driver.move("a", "b"),
            lambda: broken_driver.touch("a"),
            lambda: broken_driver.remove("a"),
            lambda: broken_driver.discard("a"),
        )
        for verb in verbs:
            with pytest.raises(StorageError) as raised:
                verb()
            assert raised.type is not PathNotFound
