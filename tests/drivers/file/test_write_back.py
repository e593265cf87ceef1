"""Large files begin to reach the disk while they are written."""

from __future__ import annotations

import sys

import pytest

from docker_registry.drivers.file import write_back
from docker_registry.drivers.file.write_back import STRIDE_BYTES, WriteBack


@pytest.fixture
def calls(monkeypatch):
    """What the disk is told."""
    told = []
    monkeypatch.setattr(write_back, "_sync_file_range", lambda: lambda *call: told.append(call))
    return told


class TestAFileThatGrows:
    def test_is_sent_to_the_disk_stride_by_stride(self, calls):
        file = WriteBack(7)
        for _ in range(5):
            file.wrote(STRIDE_BYTES // 2)
        assert [(7, 0, STRIDE_BYTES, 2), (7, STRIDE_BYTES, STRIDE_BYTES, 2)] == calls

    def test_is_left_to_the_fsync_when_it_is_short(self, calls):
        WriteBack(7).wrote(STRIDE_BYTES - 1)
        assert [] == calls

    def test_is_left_to_the_fsync_where_the_system_cannot_be_told(self, monkeypatch):
        monkeypatch.setattr(write_back, "_sync_file_range", lambda: None)
        WriteBack(7).wrote(STRIDE_BYTES)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has the call")
    def test_is_sent_by_the_system_itself(self, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            file.write(bytes(STRIDE_BYTES))
            assert 0 == write_back._sync_file_range()(file.fileno(), 0, STRIDE_BYTES, 2)
