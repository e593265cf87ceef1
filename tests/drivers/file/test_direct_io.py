"""Files that grow: small ones stay in the kernel's memory, large ones go past it, and each holds what was written."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random

import pytest

from docker_registry.drivers.file.direct_io import KEPT_BYTES, GrowingFile

MIB = 1024 * 1024
PAGE = mmap.PAGESIZE


def block(size, seed=0):
    """Memory of whole pages, as bodies are received into."""
    memory = memoryview(mmap.mmap(-1, size + PAGE))[:size]
    memory[:] = random.Random(seed).randbytes(size)
    return memory


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def ways(monkeypatch, file):
    """How each write went: past the kernel's memory or not, and how many bytes."""
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:
        pytest.skip("the file system of the temporary folder knows no O_DIRECT")
    fcntl.fcntl(file, fcntl.F_SETFL, 0)
    seen = []
    real = os.write

    def write(fd, content):
        passes = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
        written = real(fd, content)
        seen.append((passes, written))
        return written

    monkeypatch.setattr(os, "write", write)
    return seen


def written(tmp_path, file, blocks, **how):
    growing = GrowingFile(file, **how)
    for content in blocks:
        growing.append(content)
    expected = b"".join(bytes(content) for content in blocks)
    assert len(expected) == growing.size
    assert expected == (tmp_path / "file").read_bytes()


class TestALargeFile:
    def test_goes_past_the_memory_of_the_kernel_after_its_beginning(self, tmp_path, file, ways):
        written(tmp_path, file, [block(MIB, seed) for seed in range(10)])
        assert [False] * (KEPT_BYTES // MIB) + [True, True] == [passes for passes, _ in ways]

    def test_has_its_last_bytes_written_the_usual_way(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB + 77)])
        assert [(False, KEPT_BYTES), (True, MIB), (False, 77)] == ways

    def test_goes_on_the_usual_way_behind_an_odd_block(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB), b"odd", block(MIB), block(2 * PAGE)])
        assert [False, True, False, False, False] == [passes for passes, _ in ways]

    def test_may_come_in_blocks_of_any_kind(self, tmp_path, file, ways):
        blocks = [bytes(KEPT_BYTES), b"x" * MIB, bytearray(MIB), block(MIB + 1)[1:], block(MIB).toreadonly()]
        written(tmp_path, file, blocks)
        assert {False} == {passes for passes, _ in ways[1:2]}

    def test_stays_in_memory_when_it_should(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB)], keep=True)
        assert [False, False] == [passes for passes, _ in ways]

    def test_is_written_the_usual_way_where_the_file_system_knows_no_other(self, tmp_path, file, monkeypatch):
        real = os.write

        def refuse(fd, content):
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(fd, content)

        monkeypatch.setattr(os, "write", refuse)
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB), block(MIB)])

    def test_raises_what_the_disk_says(self, file, monkeypatch):
        growing = GrowingFile(file)
        growing.append(block(KEPT_BYTES))

        def full(fd, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            growing.append(block(MIB))
