"""System calls of Linux: what they do, and what happens where they are missing."""

import sys

import pytest

from docker_registry.drivers.file import linux
from docker_registry.drivers.file.linux import STRIDE_BYTES, WriteBack


@pytest.fixture
def calls(monkeypatch):
    """The system calls."""
    called = []
    monkeypatch.setattr(linux, "_sync_file_range", lambda: lambda *call: called.append(call))
    return called


class TestWriteBack:
    def test_starts_after_each_stride(self, calls):
        file = WriteBack(7)
        for _ in range(5):
            file.wrote(STRIDE_BYTES // 2)
        assert [(7, 0, STRIDE_BYTES, 2), (7, STRIDE_BYTES, STRIDE_BYTES, 2)] == calls

    def test_does_not_start_for_a_short_file(self, calls):
        WriteBack(7).wrote(STRIDE_BYTES - 1)
        assert [] == calls

    def test_does_nothing_without_the_system_call(self, monkeypatch):
        monkeypatch.setattr(linux, "_sync_file_range", lambda: None)
        WriteBack(7).wrote(STRIDE_BYTES)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the call")
    def test_is_started_by_the_real_system_call(self, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            file.write(bytes(STRIDE_BYTES))
            assert 0 == linux._sync_file_range()(file.fileno(), 0, STRIDE_BYTES, 2)
