"""Opening and replacing files, with system calls of Linux and where they are missing."""

import errno
import fcntl
import os
import stat
import struct
import threading

import pytest

from docker_registry.drivers.file import FileDriver, linux, root
from docker_registry.drivers.file.root import MISSING, open_without_symlinks, rename_unwritten
from docker_registry.errors import StorageError

FLAGS = [os.O_RDONLY | os.O_NONBLOCK, os.O_PATH | os.O_NONBLOCK]

#: linux/fiemap.h
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_EXTENT_DELALLOC = 4
_FIEMAP = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQ16xL12x")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"content")
    return tmp_path.resolve()


@pytest.mark.parametrize("flags", FLAGS)
class TestOpeningWithoutSymlinks:
    def test_opens_a_file(self, tree, flags):
        fd = open_without_symlinks(f"{tree}/folder/file", flags)
        assert os.path.samestat(os.fstat(fd), os.stat(tree / "folder" / "file"))
        assert not os.get_inheritable(fd)
        os.close(fd)

    def test_opens_a_folder(self, tree, flags):
        fd = open_without_symlinks(f"{tree}/folder", flags | os.O_DIRECTORY)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)

    def test_returns_missing_for_a_missing_path(self, tree, flags):
        assert MISSING == open_without_symlinks(f"{tree}/folder/other", flags)

    @pytest.mark.parametrize("path", ["link", "link/file", "to-file"])
    def test_refuses_a_path_with_a_link(self, tree, flags, path):
        (tree / "link").symlink_to("folder")
        (tree / "to-file").symlink_to("folder/file")
        assert open_without_symlinks(f"{tree}/{path}", flags) is None

    def test_refuses_a_path_below_a_file(self, tree, flags):
        assert open_without_symlinks(f"{tree}/folder/file/below", flags) is None

    def test_leaves_no_descriptor(self, tree, flags):
        before = os.listdir("/proc/self/fd")
        (tree / "link").symlink_to("folder")
        open_without_symlinks(f"{tree}/link/file", flags)
        open_without_symlinks(f"{tree}/other", flags)
        assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("flags", FLAGS)
def test_a_kernel_without_the_call_is_not_called_again(tree, flags, monkeypatch):
    monkeypatch.setattr(linux, "OPENAT2", 10**6)
    linux.openat2.cache_clear()
    try:
        assert linux.openat2() is None
        assert open_without_symlinks(f"{tree}/folder/file", flags) is None
        assert open_without_symlinks(f"{tree}/folder/other", flags) is None
    finally:
        linux.openat2.cache_clear()


@pytest.mark.parametrize("has_the_call", [True, False])
def test_no_path_leads_out_of_the_store(tmp_path, monkeypatch, has_the_call):
    if not has_the_call:
        monkeypatch.setattr(linux, "openat2", lambda: None)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    driver = FileDriver(str(tmp_path / "store"))
    driver.put_content("inside/file", b"content")
    (tmp_path / "store" / "out").symlink_to("../outside")
    (tmp_path / "store" / "in").symlink_to("inside")
    assert b"content" == driver.get_content("in/file")
    with pytest.raises(StorageError, match="leads out"):
        driver.get_content("out/secret")
    with pytest.raises(StorageError, match="leads out"):
        driver.put_content("out/secret", b"changed")
    assert b"secret" == (tmp_path / "outside" / "secret").read_bytes()


@pytest.fixture
def folder(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["exchanged", "renamed"])
def either_way(request, monkeypatch):
    if request.param == "renamed":
        monkeypatch.setattr(linux, "renameat2", lambda: None)


@pytest.mark.usefixtures("either_way")
class TestRenaming:
    @pytest.mark.parametrize("content", [b"", b"new"])
    def test_moves_a_file(self, tmp_path, folder, content):
        (tmp_path / "staged").write_bytes(content)
        assert not rename_unwritten(f"{tmp_path}/staged", "name", folder)
        assert {"name": content} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def test_replaces_a_file_and_returns_whether_the_old_one_is_left(self, tmp_path, folder):
        (tmp_path / "name").write_bytes(b"the old one")
        (tmp_path / "staged").write_bytes(b"new")
        left = {"staged": b"the old one"} if rename_unwritten(f"{tmp_path}/staged", "name", folder) else {}
        assert {"name": b"new", **left} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def test_replaces_a_link_but_not_its_target(self, tmp_path, folder):
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "name").symlink_to("other")
        (tmp_path / "staged").write_bytes(b"new")
        rename_unwritten(f"{tmp_path}/staged", "name", folder)
        assert (b"new", b"other") == ((tmp_path / "name").read_bytes(), (tmp_path / "other").read_bytes())
        assert not (tmp_path / "name").is_symlink()

    def test_does_not_replace_a_folder(self, tmp_path, folder):
        (tmp_path / "name").mkdir()
        (tmp_path / "staged").write_bytes(b"new")
        with pytest.raises(IsADirectoryError):
            rename_unwritten(f"{tmp_path}/staged", "name", folder)
        assert (tmp_path / "name").is_dir()
        assert b"new" == (tmp_path / "staged").read_bytes()

    @pytest.mark.parametrize("there", [True, False])
    def test_raises_if_the_source_is_missing(self, tmp_path, folder, there):
        if there:
            (tmp_path / "name").write_bytes(b"old")
        with pytest.raises(FileNotFoundError):
            rename_unwritten(f"{tmp_path}/staged", "name", folder)
        assert there == (tmp_path / "name").exists()

    def test_is_atomic_for_readers(self, tmp_path, folder):
        contents = [letter * 5000 for letter in (b"a", b"b")]
        (tmp_path / "name").write_bytes(contents[0])
        seen, is_over = [], threading.Event()

        def read():
            while not is_over.is_set():
                seen.append((tmp_path / "name").read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(500):
            (tmp_path / "staged").write_bytes(contents[number % 2])
            if rename_unwritten(f"{tmp_path}/staged", "name", folder):
                (tmp_path / "staged").unlink()
        is_over.set()
        reader.join()
        assert set(contents) >= set(seen)


def test_a_folder_created_just_before_the_exchange_stays(tmp_path, folder, monkeypatch):
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "file").write_bytes(b"in it")
    (tmp_path / "staged").write_bytes(b"new")
    monkeypatch.setattr(root, "_is_file", lambda *names: True)
    with pytest.raises(IsADirectoryError):
        rename_unwritten(f"{tmp_path}/staged", "name", folder)
    assert b"in it" == (tmp_path / "name" / "file").read_bytes()
    assert b"new" == (tmp_path / "staged").read_bytes()


def test_a_file_is_renamed_if_names_cannot_be_exchanged(tmp_path, folder, monkeypatch):
    def refuse(*names):
        calls.append(errno.EINVAL)
        return -1

    calls = []
    monkeypatch.setattr(linux, "renameat2", lambda: refuse)
    TestRenaming().test_replaces_a_file_and_returns_whether_the_old_one_is_left(tmp_path, folder)
    assert calls


def test_the_new_file_is_not_written_back_at_once(tmp_path, folder):
    """Other file systems than ext4 never do that."""
    # Other processes may write the whole file system to the disk before a file is looked at.
    assert any(is_unwritten_after_replacement(tmp_path, folder) for _ in range(100))


def is_unwritten_after_replacement(tmp_path, folder):
    """Replace a file, and return whether the new one has no place on the disk yet (ioctl_fiemap(2))."""
    for content in (b"old", b"new"):
        (tmp_path / "staged").write_bytes(content)
        rename_unwritten(f"{tmp_path}/staged", "name", folder)
    extents = bytearray(_FIEMAP.pack(0, 2**64 - 1, 0, 0, 1, 0) + bytes(_EXTENT.size))
    with (tmp_path / "name").open("rb") as file:
        try:
            fcntl.ioctl(file, _FS_IOC_FIEMAP, extents)
        except OSError:
            pytest.skip("the file system does not report the location of a file on the disk")
    return bool(_EXTENT.unpack_from(extents, _FIEMAP.size)[-1] & _FIEMAP_EXTENT_DELALLOC)
