"""A file that is renamed over another one: at once, and without being written."""

import errno
import os
import subprocess
import threading

import pytest

from docker_registry.drivers.file import renaming
from docker_registry.drivers.file.renaming import rename_unwritten
from tests.support.servers.databases_and_stores import require


@pytest.fixture
def folder(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["exchanged", "renamed"])
def either_way(request, monkeypatch):
    if request.param == "renamed":
        monkeypatch.setattr(renaming, "_renameat2", lambda: None)


@pytest.mark.usefixtures("either_way")
class TestRenaming:
    @pytest.mark.parametrize("content", [b"", b"new"])
    def test_brings_a_file(self, tmp_path, folder, content):
        (tmp_path / "aside").write_bytes(content)
        assert not rename_unwritten(f"{tmp_path}/aside", "name", folder)
        assert {"name": content} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def test_replaces_a_file_and_tells_whether_it_is_left(self, tmp_path, folder):
        (tmp_path / "name").write_bytes(b"the old one")
        (tmp_path / "aside").write_bytes(b"new")
        left = {"aside": b"the old one"} if rename_unwritten(f"{tmp_path}/aside", "name", folder) else {}
        assert {"name": b"new", **left} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def test_replaces_a_link_and_not_what_it_leads_to(self, tmp_path, folder):
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "name").symlink_to("other")
        (tmp_path / "aside").write_bytes(b"new")
        rename_unwritten(f"{tmp_path}/aside", "name", folder)
        assert (b"new", b"other") == ((tmp_path / "name").read_bytes(), (tmp_path / "other").read_bytes())
        assert not (tmp_path / "name").is_symlink()

    def test_leaves_a_folder(self, tmp_path, folder):
        (tmp_path / "name").mkdir()
        (tmp_path / "aside").write_bytes(b"new")
        with pytest.raises(IsADirectoryError):
            rename_unwritten(f"{tmp_path}/aside", "name", folder)
        assert (tmp_path / "name").is_dir()
        assert b"new" == (tmp_path / "aside").read_bytes()

    @pytest.mark.parametrize("there", [True, False])
    def test_needs_a_file(self, tmp_path, folder, there):
        if there:
            (tmp_path / "name").write_bytes(b"old")
        with pytest.raises(FileNotFoundError):
            rename_unwritten(f"{tmp_path}/aside", "name", folder)
        assert there == (tmp_path / "name").exists()

    def test_is_never_seen_in_the_middle(self, tmp_path, folder):
        contents = [letter * 5000 for letter in (b"a", b"b")]
        (tmp_path / "name").write_bytes(contents[0])
        seen, is_over = [], threading.Event()

        def read():
            while not is_over.is_set():
                seen.append((tmp_path / "name").read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(500):
            (tmp_path / "aside").write_bytes(contents[number % 2])
            if rename_unwritten(f"{tmp_path}/aside", "name", folder):
                (tmp_path / "aside").unlink()
        is_over.set()
        reader.join()
        assert set(contents) >= set(seen)


def test_a_folder_that_comes_in_the_last_moment_stays(tmp_path, folder, monkeypatch):
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "file").write_bytes(b"in it")
    (tmp_path / "aside").write_bytes(b"new")
    monkeypatch.setattr(renaming, "_is_file", lambda *names: True)
    with pytest.raises(IsADirectoryError):
        rename_unwritten(f"{tmp_path}/aside", "name", folder)
    assert b"in it" == (tmp_path / "name" / "file").read_bytes()
    assert b"new" == (tmp_path / "aside").read_bytes()


def test_where_names_cannot_be_exchanged_a_file_is_renamed(tmp_path, folder, monkeypatch):
    def refuse(*names):
        calls.append(errno.EINVAL)
        return -1

    calls = []
    monkeypatch.setattr(renaming, "_renameat2", lambda: refuse)
    TestRenaming().test_replaces_a_file_and_tells_whether_it_is_left(tmp_path, folder)
    assert calls


def test_what_replaces_a_file_is_not_written(tmp_path, folder):
    """On ext4; elsewhere it never was."""
    for content in (b"old", b"new"):
        (tmp_path / "aside").write_bytes(content)
        rename_unwritten(f"{tmp_path}/aside", "name", folder)
    said = subprocess.run(
        [require("filefrag", "e2fsprogs"), "-v", tmp_path / "name"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        pytest.skip("the file system does not tell where a file lies")
    assert "delalloc" in said.stdout
