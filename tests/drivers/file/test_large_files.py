"""Files of unknown size: large ones bypass the page cache, and each contains exactly what was written."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random

import pytest

from docker_registry.drivers.file.large_files import KEPT_BYTES, GrowingFile

MIB = 1024 * 1024
PAGE = mmap.PAGESIZE


def block(size, seed=0):
    """Return page-aligned memory, as request bodies are received into."""
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
    """For each write: whether it bypassed the page cache, and its bytes."""
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
    def test_bypasses_the_page_cache_after_its_beginning(self, tmp_path, file, ways):
        written(tmp_path, file, [block(MIB, seed) for seed in range(10)])
        assert [False] * (KEPT_BYTES // MIB) + [True, True] == [passes for passes, _ in ways]

    def test_ends_with_a_cached_write_of_less_than_a_page(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB + 77)])
        assert [(False, KEPT_BYTES), (True, MIB), (False, 77)] == ways

    def test_is_cached_after_an_unaligned_block(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB), b"odd", block(MIB), block(2 * PAGE)])
        assert [False, True, False, False, False] == [passes for passes, _ in ways]

    def test_accepts_blocks_of_any_type_and_size(self, tmp_path, file, ways):
        blocks = [bytes(KEPT_BYTES), b"x" * MIB, bytearray(MIB), block(MIB + 1)[1:], block(MIB).toreadonly()]
        written(tmp_path, file, blocks)
        assert {False} == {passes for passes, _ in ways[1:2]}

    def test_is_cached_if_requested(self, tmp_path, file, ways):
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB)], keep=True)
        assert [False, False] == [passes for passes, _ in ways]

    def test_is_cached_if_the_file_system_lacks_o_direct(self, tmp_path, file, monkeypatch):
        real = os.write

        def refuse(fd, content):
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(fd, content)

        monkeypatch.setattr(os, "write", refuse)
        written(tmp_path, file, [block(KEPT_BYTES), block(MIB), block(MIB)])

    def test_raises_the_error_of_the_disk(self, file, monkeypatch):
        growing = GrowingFile(file)
        growing.append(block(KEPT_BYTES))

        def full(fd, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            growing.append(block(MIB))
