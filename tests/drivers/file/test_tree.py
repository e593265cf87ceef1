"""Metadata of paths: links that leave the store, files that are replaced, and recorded dependencies."""

from __future__ import annotations

import os
import shutil
import stat
import time

import pytest

from docker_registry import dependencies
from docker_registry.drivers.file.root import RESERVED
from docker_registry.drivers.file.tree import Tree
from docker_registry.errors import StorageError, StorageUnavailable


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store" / RESERVED).mkdir(parents=True)
    (tmp_path / "store" / "a").mkdir()
    (tmp_path / "store" / "a" / "file").write_bytes(b"content")
    return tmp_path / "store"


@pytest.fixture
def tree(store):
    return Tree(str(store))


class TestFind:
    def test_returns_the_metadata_of_files_and_folders(self, tree, store):
        assert 7 == tree.find("a/file").st_size
        assert stat.S_ISDIR(tree.find("a").st_mode)
        (store / "a" / "new").write_bytes(b"more content")
        (store / "a" / "new").rename(store / "a" / "file")
        assert 12 == tree.find("a/file").st_size

    def test_returns_none_for_a_missing_path(self, tree, store):
        assert [None] * 3 == [tree.find(path) for path in ("a/nothing", "nothing/file", "a/file/below")]
        (store / "a" / "file").unlink()
        assert tree.find("a/file") is None

    @pytest.mark.parametrize("link", ["a", "a/file"])
    def test_follows_no_link_out_of_the_store(self, tree, store, tmp_path, link):
        tree.find("a/file")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "file").write_bytes(b"content")
        shutil.rmtree(store / "a")
        if link == "a":
            (store / "a").symlink_to(tmp_path / "outside")
        else:
            (store / "a").mkdir()
            (store / "a" / "file").symlink_to(tmp_path / "outside" / "file")
        with pytest.raises(StorageError):
            tree.find("a/file")

    def test_follows_a_link_within_the_store(self, tree, store):
        (store / "link").symlink_to("a")
        assert 7 == tree.find("link/file").st_size

    def test_records_a_dependency(self, tree, store):
        time.sleep(2 * dependencies.CLOCK_TICK_NANOSECONDS / 10**9)
        for path in ("a/file", "a/missing"):
            with dependencies.collected() as recorded:
                tree.find(path)
            assert recorded.is_complete and recorded.is_current()
            (store / path).write_bytes(b"more content")
            assert not recorded.is_current()

    @pytest.mark.parametrize("path", ["a/file", "a/missing"])
    def test_raises_if_the_store_is_gone(self, tree, store, path):
        os.rename(store, f"{store}.gone")
        with pytest.raises(StorageUnavailable):
            tree.find(path)
