"""What lies where its name says is opened by one call, and what a link leads to is left to others."""

import os
import stat

import pytest

from docker_registry.drivers.file import FileDriver, straight
from docker_registry.drivers.file.straight import MISSING, open_straight
from docker_registry.errors import StorageError

FLAGS = [os.O_RDONLY | os.O_NONBLOCK, os.O_PATH | os.O_NONBLOCK]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"content")
    return tmp_path.resolve()


@pytest.mark.parametrize("flags", FLAGS)
class TestOpening:
    def test_a_file(self, place, flags):
        fd = open_straight(f"{place}/folder/file", flags)
        assert os.path.samestat(os.fstat(fd), os.stat(place / "folder" / "file"))
        assert not os.get_inheritable(fd)
        os.close(fd)

    def test_a_folder(self, place, flags):
        fd = open_straight(f"{place}/folder", flags | os.O_DIRECTORY)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)

    def test_nothing(self, place, flags):
        assert MISSING == open_straight(f"{place}/folder/other", flags)

    @pytest.mark.parametrize("path", ["link", "link/file", "to-file"])
    def test_what_a_link_leads_to(self, place, flags, path):
        (place / "link").symlink_to("folder")
        (place / "to-file").symlink_to("folder/file")
        assert open_straight(f"{place}/{path}", flags) is None

    def test_what_lies_below_a_file(self, place, flags):
        assert open_straight(f"{place}/folder/file/below", flags) is None

    def test_leaves_no_descriptor(self, place, flags):
        before = os.listdir("/proc/self/fd")
        (place / "link").symlink_to("folder")
        open_straight(f"{place}/link/file", flags)
        open_straight(f"{place}/other", flags)
        assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("flags", FLAGS)
def test_a_kernel_that_does_not_know_the_call_is_not_asked_again(place, flags, monkeypatch):
    monkeypatch.setattr(straight, "_OPENAT2", 10**6)
    straight._openat2.cache_clear()
    try:
        assert straight._openat2() is None
        assert open_straight(f"{place}/folder/file", flags) is None
        assert open_straight(f"{place}/folder/other", flags) is None
    finally:
        straight._openat2.cache_clear()


@pytest.mark.parametrize("knows_the_call", [True, False])
def test_no_path_leads_out_of_the_store(tmp_path, monkeypatch, knows_the_call):
    if not knows_the_call:
        monkeypatch.setattr(straight, "_openat2", lambda: None)
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
