"""Journal files: what is read back after a write, or after a crash in the middle of one."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from docker_registry.drivers.file.journal.entries import Entry, FileState, Trace
from docker_registry.drivers.file.journal.head import UnknownVersion, read_head, was_created_in
from docker_registry.drivers.file.journal.journal import HalfIsFull, JournalFile, pack
from docker_registry.drivers.file.journal.mount_session import MountSession
from docker_registry.drivers.file.journal.recovery import read_entries

SESSION = MountSession("0b5c5b0e000040008000000000000000", 1_700_000_000_000_000_000)
HALF_BYTES = 128 * 1024


@pytest.fixture
def file(tmp_path):
    return JournalFile(str(tmp_path), SESSION, HALF_BYTES)


def write(file, *entries, spare=False):
    file.append(entries, spare=spare)


def read(location):
    fd = os.open(location, os.O_RDONLY)
    try:
        # Without the time of day, which is another with each run.
        return [entry._replace(entered=0) for entry in read_entries(fd)]
    finally:
        os.close(fd)


class TestAJournalFile:
    def test_returns_the_entries_that_were_written(self, file):
        first, second = Entry(1, "a/b", b"\n\0content"), Entry(2, 'ü"\\', b"")
        write(file, first, second)
        write(file, third := Entry(3, "a"))
        assert [first, second, third] == read(file.location)

    def test_records_the_time_of_writing(self, file):
        before = time.time_ns()
        write(file, Entry(1, "a"))
        fd = os.open(file.location, os.O_RDONLY)
        (entry,) = read_entries(fd)
        os.close(fd)
        assert before <= entry.entered <= time.time_ns()

    def test_names_its_session(self, file, tmp_path):
        fd = os.open(file.location, os.O_RDWR)
        assert SESSION == read_head(fd).session
        for length in (83, 55, 7, 0):  # no journal
            os.ftruncate(fd, length)
            assert read_head(fd) is None
        os.close(fd)

    def test_is_distinguished_from_a_copy(self, file, tmp_path):
        (tmp_path / "copy").mkdir()
        copies = (tmp_path / "copy", tmp_path)  # into another folder, and beside it
        locations = [shutil.copy2(file.location, folder / "0") for folder in copies]
        found = []
        for location in (file.location, *locations):
            fd = os.open(location, os.O_RDONLY)
            folder = os.path.dirname(location)
            found.append(was_created_in(read_head(fd), fd, folder))
            os.close(fd)
        assert [True, False, False] == found

    def test_records_the_states_of_files(self, file):
        traces = [Trace(None, None), Trace(FileState(1, 2), FileState(3, 4)), Trace(None, FileState(5, 6))]
        entries = [Entry(number, "a", b"content", trace) for number, trace in enumerate(traces, 1)]
        write(file, *entries)
        assert entries == read(file.location)

    def test_of_a_newer_version_is_recognized(self, tmp_path):
        fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"journal3".ljust(4096, b"x"))
        with pytest.raises(UnknownVersion):
            read_head(fd)
        os.close(fd)

    def test_is_locked_by_its_writer(self, file):
        fd = os.open(file.location, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.close()
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)

    def test_has_its_final_size_from_the_start(self, file):
        before = os.stat(file.location)
        write(file, Entry(1, "a", bytes(60_000)))
        after = os.stat(file.location)
        assert (before.st_size, before.st_blocks) == (after.st_size, after.st_blocks)


class TestACrashInTheMiddle:
    @pytest.mark.parametrize("damage", [lambda byte: 0, lambda byte: byte ^ 1])
    def test_loses_only_the_last_record(self, file, damage):
        write(file, first := Entry(1, "a", b"first"))
        start = sum(map(len, pack([first]))) + 24
        write(file, second := Entry(2, "b", b"second"))
        content = bytearray(Path(file.location).read_bytes())
        length = sum(map(len, pack([second]))) + 24
        assert [first, second] == read(file.location)
        for position in range(4096 + start, 4096 + start + length):
            if damage(content[position]) == content[position]:
                continue
            torn = bytearray(content)
            torn[position] = damage(torn[position])
            with open(file.location, "r+b") as damaged:
                damaged.write(torn)
            assert [first] == read(file.location)


class TestAHalf:
    def fill(self, file, moment):
        count = 0
        try:
            while True:
                write(file, Entry(moment, f"{moment}-{count}", bytes(9000)))
                count += 1
        except HalfIsFull:
            return count

    def test_is_switched_when_it_is_full(self, file):
        count = self.fill(file, 1)
        assert file.switch_half()
        write(file, Entry(2, "next"))
        assert count + 1 == len(read(file.location))

    def test_is_not_reused_while_its_entries_are_needed(self, file):
        self.fill(file, 1)
        file.switch_half()
        self.fill(file, 2)
        assert not file.switch_half()
        file.discard_before(2)
        assert file.switch_half()
        write(file, Entry(3, "again", b"x"))
        left = read(file.location)
        assert "again" in [entry.path for entry in left]
        assert {2, 3} == {entry.moment for entry in left}  # no older record behind a new one

    def test_has_reserved_space(self, file):
        self.fill(file, 1)
        write(file, Entry(2, "a", bytes(9000)), spare=True)
        assert "a" == read(file.location)[-1].path


class TestTheDisk:
    def test_is_waited_for_once_by_several_threads(self, file, monkeypatch):
        began, written, ended = [], {}, {}
        pwritev = os.pwritev

        def slow(fd):
            began.append(time.monotonic())
            time.sleep(0.1)

        def noting(*args):
            size = pwritev(*args)
            written[threading.get_ident()] = time.monotonic()
            return size

        def append(number):
            write(file, Entry(number, str(number)))
            ended[threading.get_ident()] = time.monotonic()

        monkeypatch.setattr(os, "fdatasync", slow)
        monkeypatch.setattr(os, "pwritev", noting)
        threads = [threading.Thread(target=append, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 2 <= len(began) < len(threads)
        for thread in written:  # each has waited for one that began after it had written
            assert any(written[thread] <= sync and sync + 0.1 <= ended[thread] for sync in began)

    def test_is_not_trusted_after_an_error(self, file, monkeypatch):
        """The kernel reports an error once, and it may concern the record of another thread."""
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", lambda fd: os.fsync(10**6))
            with pytest.raises(OSError, match="Bad file descriptor"):
                write(file, Entry(1, "a"))
        with pytest.raises(OSError, match="Input/output error"):
            write(file, Entry(2, "b"))
