"""What was found before, and is found again without being opened."""

from __future__ import annotations

import os
import shutil
import stat
import time

import pytest

from docker_registry import dependencies
from docker_registry.drivers.file.known import Known
from docker_registry.drivers.file.tree import RESERVED, Tree
from docker_registry.errors import StorageError, StorageUnavailable


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store" / RESERVED).mkdir(parents=True)
    (tmp_path / "store" / "a").mkdir()
    (tmp_path / "store" / "a" / "file").write_bytes(b"content")
    return tmp_path / "store"


@pytest.fixture
def opened(monkeypatch):
    """The paths that were opened to find out where they lie."""
    seen = []
    look = Tree.look

    def looked(self, path):
        seen.append(path)
        return look(self, path)

    monkeypatch.setattr(Tree, "look", looked)
    return seen


@pytest.fixture
def known(store, opened):
    return Known(Tree(str(store)))


class TestAFile:
    def test_is_opened_only_the_first_time(self, known, opened):
        assert [7] * 3 == [known.find("a/file").st_size for _ in range(3)]
        assert ["a/file"] == opened

    def test_that_is_another_by_now_is_opened_again(self, known, opened, store):
        known.find("a/file")
        (store / "a" / "new").write_bytes(b"more content")
        (store / "a" / "new").rename(store / "a" / "file")
        assert 12 == known.find("a/file").st_size
        assert ["a/file"] * 2 == opened

    def test_that_is_not_there_is_not_found(self, known, store):
        assert known.find("a/nothing") is None
        known.find("a/file")
        (store / "a" / "file").unlink()
        assert known.find("a/file") is None

    @pytest.mark.parametrize("link", ["a", "a/file"])
    def test_is_not_followed_out_of_the_store(self, known, store, tmp_path, link):
        known.find("a/file")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "file").write_bytes(b"content")
        shutil.rmtree(store / "a")
        if link == "a":
            (store / "a").symlink_to(tmp_path / "outside")
        else:
            (store / "a").mkdir()
            (store / "a" / "file").symlink_to(tmp_path / "outside" / "file")
        for _ in range(2):
            with pytest.raises(StorageError):
                known.find("a/file")

    def test_is_found_by_a_link_within_the_store(self, known, opened, store):
        (store / "link").symlink_to("a")
        assert [7, 7] == [known.find("link/file").st_size for _ in range(2)]
        assert ["link/file"] == opened

    def test_is_what_an_answer_is_made_of_each_time(self, known, store):
        time.sleep(2 * dependencies.CLOCK_TICK_NANOSECONDS / 10**9)
        for _ in range(2):
            with dependencies.collected() as made_of:
                known.find("a/file")
            assert made_of.is_whole and made_of.is_current()
        (store / "a" / "file").write_bytes(b"more content")
        assert not made_of.is_current()

    def test_is_forgotten_when_there_are_too_many(self, store, opened):
        known = Known(Tree(str(store)), max_paths=1)
        (store / "b").write_bytes(b"")
        for path in ("a/file", "b", "b", "a/file"):
            known.find(path)
        assert ["a/file", "b", "a/file"] == opened


class TestAFolder:
    def test_is_found_as_well(self, known):
        assert all(stat.S_ISDIR(known.find("a").st_mode) for _ in range(2))


class TestAStoreThatIsGone:
    def test_is_not_an_empty_one(self, known, store):
        known.find("a/file")
        os.rename(store, f"{store}.gone")
        with pytest.raises(StorageUnavailable):
            known.find("a/file")
