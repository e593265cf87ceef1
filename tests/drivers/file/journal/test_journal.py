"""The journal: a crash of the host loses nothing acknowledged, whatever had reached the disk."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.drivers.base import ABSENT
from docker_registry.drivers.file import FileDriver, root
from docker_registry.drivers.file import driver as driver_module
from docker_registry.drivers.file.journal import journal as journal_module
from docker_registry.drivers.file.root import RESERVED
from docker_registry.drivers.file.sync import Disk
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError

ROOT = Path(__file__).parents[4]

#: A half of a journal that holds a few small files. Creating and reading 8 MiB takes most of the time of a crash.
SMALL_HALF_BYTES = 256 * 1024


def contents(folder):
    """Return all files of a tree by path."""
    found = {}
    for location in Path(folder).rglob("*"):
        if location.is_file() and RESERVED not in location.parts:
            found[str(location.relative_to(folder))] = location.read_bytes()
    return found


def identity(found):
    return found.st_ino, found.st_mtime_ns


class Host:
    """A host whose disk has everything synced, and a random part of the rest."""

    def __init__(self, store, monkeypatch, half_bytes=journal_module.HALF_BYTES):
        """
        Args:
            half_bytes: the size of each half of a journal.
        """
        self.store = str(store)
        self.superblock = "first"
        self._drivers = []
        self._on_disk = {}
        self._whole = set()
        self._kept = Path(f"{store}.kept")
        self._kept.mkdir()
        # The driver's calls of the system are made to fail by some tests, not ours.
        self._link, self._unlink = os.link, os.unlink
        monkeypatch.setattr(driver_module, "superblock_id", lambda folder: self.superblock)
        monkeypatch.setattr(Disk, "sync_all", lambda disk: self.sync())
        monkeypatch.setattr(Disk, "sync_all_soon", lambda disk: self.sync() or True)
        monkeypatch.setattr(os, "fsync", self.fsync)
        journal_file = functools.partial(journal_module.JournalFile, half_bytes=half_bytes)
        monkeypatch.setattr(journal_module, "JournalFile", journal_file)

    def process(self):
        """Open the store in another process."""
        driver = FileDriver(self.store)
        assert driver._journal is not None, "the tests must lie in a file system that has a journal"
        self._drivers.append(driver)
        return driver

    def sync(self):
        for location in self._kept.iterdir():
            self._unlink(location)
        self._on_disk = contents(self.store)
        for path in self._on_disk:  # an old file comes back as the very file that it was
            self._link(f"{self.store}/{path}", self._keep(path))
        files = [f"{self.store}/{path}" for path in self._on_disk]
        self._whole = {
            identity(os.stat(location)) for location in (*files, *Path(self.store, RESERVED).glob("aside/*/*"))
        }

    def _keep(self, path):
        return self._kept / path.replace("/", "|")

    def fsync(self, fd):
        """Record that a file is on the simulated disk."""
        self._whole.add(identity(os.fstat(fd)))

    def kill(self, driver):
        """End a process; the kernel releases its locks."""
        self._drivers.remove(driver)
        driver._journal.close()

    def crash(self, choose):
        """
        Start the host anew, with what has reached its disk.

        Args:
            choose: selects one of the possible contents of a path.
        """
        for driver in list(self._drivers):
            self.kill(driver)
        now, on_disk = contents(self.store), self._on_disk
        for path in sorted(now.keys() | on_disk.keys()):
            old, new = on_disk.get(path), now.get(path)
            if old == new:
                continue
            location = Path(self.store, path)
            # Whatever its name is, the content of what was synced itself is never torn.
            is_whole = new is None or identity(location.stat()) in self._whole
            torn = [] if is_whole else [new[: len(new) // 2], bytes(len(new))]
            left = choose([old, new, *(torn or [old])])
            if left in torn:
                times = location.stat()
                location.write_bytes(left)
                os.utime(location, ns=(times.st_atime_ns, times.st_mtime_ns))
            elif left != new:
                location.unlink(missing_ok=True)
                if left is not None:
                    location.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(self._keep(path), location)
        self.sync()
        self.superblock = str(uuid.uuid4())

    def journals(self):
        return [name for name in os.listdir(f"{self.store}/{RESERVED}/journals") if len(name) == 32]


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path / "store", monkeypatch)


def nothing(choices):
    """Let the crash lose everything that was not synced."""
    return choices[0]


def everything(choices):
    return choices[1]


def torn(choices):
    return choices[2]


def zeros(choices):
    return choices[-1]


@pytest.mark.parametrize("left", [nothing, torn])
class TestAfterACrashOfTheHost:
    def test_contents_are_there(self, host, left):
        driver = host.process()
        driver.put_content("a/b", b"one")
        with driver.batch():
            driver.put_content("a/c", b"two")
            driver.put_content("empty", b"")
        driver.put_content("d", b"three", if_match=ABSENT)
        host.crash(left)
        host.process()
        assert {"a/b": b"one", "a/c": b"two", "empty": b"", "d": b"three"} == contents(host.store)

    def test_the_last_change_of_all_processes_counts(self, host, left):
        one, two = host.process(), host.process()
        for number in range(3):
            one.put_content("path", b"one %d" % number)
            two.put_content("path", b"two %d" % number)
        host.crash(left)
        host.process()
        assert {"path": b"two 2"} == contents(host.store)

    def test_removed_files_stay_removed(self, host, left):
        one, two = host.process(), host.process()
        one.put_content("folder/a", b"1")
        one.put_content("folder/b/c", b"2")
        one.put_content("file", b"3")
        two.put_content("own", b"4")
        two.remove("folder")
        two.remove("file")
        one.put_content("folder/b/c", b"again")
        host.crash(left)
        host.process()
        assert {"own": b"4", "folder/b/c": b"again"} == contents(host.store)

    def test_other_changes_are_there(self, host, left):
        driver = host.process()
        for path in ("streamed", "moved", "linked", "large"):
            driver.put_content(path, b"old")
        driver.put_content("source", b"new")
        driver.stream_write("streamed", [b"new"])
        driver.link("source", "linked")
        driver.move("source", "moved")
        driver.put_content("large", large := bytes(3_000_000))
        host.crash(left)
        host.process()
        expected = {"streamed": b"new", "linked": b"new", "moved": b"new", "large": large}
        assert expected == contents(host.store)

    def test_failed_puts_are_not_replayed(self, host, left):
        driver = host.process()
        driver.put_content("a/b", b"old")
        driver.put_content("here", b"old")
        with pytest.raises(StorageError), driver.batch():
            driver.put_content("here", b"new")
            driver.put_content("a", b"in the way of a folder")
        assert b"new" == driver.get_content("here")  # what came before it is seen
        host.crash(left)
        host.process()
        assert {"a/b": b"old", "here": b"new"} == contents(host.store)

    def test_a_clock_that_was_wrong_does_not_matter(self, host, left):
        driver = host.process()
        driver._journal._membership.session = driver._journal._session._replace(began=0)  # as if it had begun in 1970
        driver.put_content("path", b"1")
        host.crash(left)
        host.process()
        assert {"path": b"1"} == contents(host.store)

    def test_touched_files_are_whole(self, host, left):
        """A blob that is pushed again is touched."""
        driver = host.process()
        driver.put_content("path", content := os.urandom(5000))
        os.utime(Path(host.store, "path"), (2**31, 2**31))
        host.crash(left)
        host.process()
        assert {"path": content} == contents(host.store)

    def test_files_touched_before_are_replaced(self, host, left):
        """The new time of the file may not have reached the disk."""
        driver = host.process()
        driver.put_content("path", b"old")
        driver._journal.checkpoint()
        times = os.stat(Path(host.store, "path"))
        driver.touch("path")
        driver.put_content("path", b"new")
        host.crash(left)
        if left is nothing:
            os.utime(Path(host.store, "path"), ns=(times.st_atime_ns, times.st_mtime_ns))
        host.process()
        assert {"path": b"new"} == contents(host.store)

    def test_later_changes_of_another_server_stay(self, host, left):
        host.process().put_content("path", b"old")
        host.crash(left)
        Path(host.store, "path").write_bytes(b"newer")
        os.utime(Path(host.store, "path"), times=(2**31, 2**31))
        host.process()
        assert {"path": b"newer"} == contents(host.store)

    def test_entries_of_the_wrong_kind_are_removed(self, host, left):
        host.process().put_content("a/b/c", b"1")
        host.process().put_content("d", b"2")
        host.crash(left)
        shutil.rmtree(Path(host.store, "a"))
        Path(host.store, "d").unlink(missing_ok=True)
        Path(host.store, "a").write_bytes(b"a file where a folder was")
        Path(host.store, "d/e").mkdir(parents=True)
        Path(host.store, "d/e/f").write_bytes(b"a folder where a file was")
        host.process()
        assert {"a/b/c": b"1", "d": b"2"} == contents(host.store)

    def test_a_second_crash_changes_nothing_more(self, host, left):
        host.process().put_content("path", b"1")
        host.crash(left)
        host.process().put_content("path", b"2")
        host.crash(left)
        host.crash(left)
        host.process()
        assert {"path": b"2"} == contents(host.store)
        assert [] == host.journals()

    def test_the_journal_is_replayed_before_the_first_change(self, host, left):
        host.process().put_content("path", b"1")
        host.crash(left)
        with pytest.raises(PreconditionFailed):
            host.process().put_content("path", b"2", if_match=ABSENT)


def truncate_times(location):
    """Round the times of a file down to whole seconds."""
    times = os.stat(location)
    os.utime(location, ns=(times.st_atime_ns // 10**9 * 10**9, times.st_mtime_ns // 10**9 * 10**9))


class TestAFileChangedByOthersSince:
    """After a crash that lost the last put, and before this server was started again."""

    @pytest.fixture
    def path(self, host):
        """A file that was replaced, and is the old one again after the crash."""
        driver = host.process()
        driver.put_content("folder/path", b"old")
        driver._journal.checkpoint()
        driver.put_content("folder/path", b"put")
        host.crash(nothing)
        path = Path(host.store, "folder/path")
        assert b"old" == path.read_bytes()
        return path

    def test_is_restored_if_it_is_unchanged(self, host, path):
        host.process()
        assert b"put" == path.read_bytes()

    @pytest.mark.parametrize("has_whole_seconds", [False, True])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_stays_if_it_was_written(self, host, path, in_place, has_whole_seconds):
        if not in_place:  # distribution 2 writes into the file, later versions make a new one
            path.unlink()
        path.write_bytes(b"newer")
        if has_whole_seconds:
            truncate_times(path)
        host.process()
        assert b"newer" == path.read_bytes()

    def test_stays_if_the_journaled_file_was_overwritten(self, host):
        host.process().put_content("path", b"put")
        host.crash(everything)
        path = Path(host.store, "path")
        inode = path.stat().st_ino
        path.write_bytes(b"new")
        host.process()
        assert (inode, b"new") == (path.stat().st_ino, path.read_bytes())

    @pytest.mark.parametrize("has_known_inode", [False, True])
    def test_stays_if_it_was_restored_with_old_times(self, host, monkeypatch, has_known_inode):
        """A file system may give the inode of a removed file to the next one; then the put was some time before."""
        if has_known_inode:
            clock = time.time_ns
            monkeypatch.setattr(time, "time_ns", lambda: clock() - 60 * 10**9)
        driver = host.process()
        driver.put_content("path", b"old")
        driver._journal.checkpoint()
        driver.put_content("path", b"put")
        path = Path(host.store, "path")
        with path.open("rb"):  # the file system cannot reuse its inode
            host.crash(nothing)
            if not has_known_inode:
                path.unlink()
            path.write_bytes(b"of a backup")
        os.utime(path, (1, 1))
        host.process()
        assert b"of a backup" == path.read_bytes()

    def test_stays_removed(self, host, path):
        path.unlink()
        host.process()
        assert not path.exists()

    def test_stays_removed_after_a_later_removal(self, host):
        host.process().put_content("folder/new", b"put")
        host.crash(nothing)
        Path(host.store, "folder").mkdir(exist_ok=True)
        later = time.time() + 60
        os.utime(Path(host.store, "folder"), (later, later))
        host.process()
        assert {} == contents(host.store)

    def test_stays_if_it_is_newer_and_of_another_kind(self, host, path):
        path.unlink()
        path.mkdir()
        (path / "file").write_bytes(b"of another program")
        later = time.time() + 60
        os.utime(path, (later, later))
        host.process()
        assert {"folder/path/file": b"of another program"} == contents(host.store)

    def test_stays_if_a_link_leads_out_of_the_store(self, host, path, tmp_path):
        path.unlink()
        (tmp_path / "outside").write_bytes(b"outside")
        path.symlink_to(tmp_path / "outside")
        host.process()
        assert (True, b"outside") == (path.is_symlink(), (tmp_path / "outside").read_bytes())


class TestAWrongClock:
    """It loses nothing acknowledged."""

    def test_of_the_file_that_was_replaced(self, host):
        driver = host.process()
        driver.put_content("path", b"old")
        os.utime(Path(host.store, "path"), (2**31, 2**31))
        driver._journal.checkpoint()
        driver.put_content("path", b"put")
        host.crash(nothing)
        host.process()
        assert {"path": b"put"} == contents(host.store)

    @pytest.mark.parametrize("wrong", [0, 2**62])
    def test_of_the_journal(self, host, wrong):
        driver = host.process()
        driver.put_content("path", b"old")
        driver._journal.checkpoint()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(time, "time_ns", lambda: wrong)
            driver.put_content("path", b"put")
        host.crash(nothing)
        host.process()
        assert {"path": b"put"} == contents(host.store)


class TestAnInterruptedReplay:
    @pytest.mark.parametrize("left", [nothing, everything, torn, zeros])
    def test_is_repeated(self, tmp_path, left):
        for calls in itertools.count(1, 3):
            with pytest.MonkeyPatch.context() as monkeypatch:
                host = Host(tmp_path / str(calls), monkeypatch, SMALL_HALF_BYTES)
                driver = host.process()
                driver.put_content("a", b"old")
                driver._journal.checkpoint()
                expected = {"a": b"new", "f/b": b"1", "f/c": b"2", "empty": b""}
                for path, content in expected.items():
                    driver.put_content(path, content)
                host.crash(nothing)
                is_done = False
                with suppress(PowerLost), power_for(calls):
                    host.process()
                    is_done = True
                host.crash(left)
                host.process()
                assert expected == contents(host.store)
            if is_done:
                break
        assert calls > 20


OLD_HEAD = struct.Struct(">8s36sQ")


def old_journal(location, entries):
    """Write a journal of version 1, in which entries have no traces."""

    def sealed(fields, record=b""):
        return fields + zlib.crc32(record, zlib.crc32(fields)).to_bytes(4, "big")

    head = json.dumps([(moment, path, len(content)) for moment, (path, content) in enumerate(entries, 1)])
    record = head.encode() + b"\n" + b"".join(content for _, content in entries)
    file = sealed(OLD_HEAD.pack(b"journal1", str(uuid.uuid4()).encode(), 1)).ljust(4096, b"\0")
    file += sealed(struct.pack(">QQI", 1, time.time_ns(), len(record)), record) + record
    location.write_bytes(file.ljust(4096 + 2 * 65536, b"\0"))


class TestTheFolderOfJournals:
    @pytest.fixture
    def journals(self, host):
        host.kill(host.process())
        return Path(host.store, RESERVED, "journals")

    def test_may_contain_a_journal_of_an_older_version(self, host, journals):
        Path(host.store, "kept").write_bytes(b"newer")
        os.utime(Path(host.store, "kept"), (time.time() + 5, time.time() + 5))
        Path(host.store, "torn").write_bytes(b"")
        os.utime(Path(host.store, "torn"), (1, 1))
        old_journal(journals / ("a" * 32), [("kept", b"old"), ("torn", b"whole"), ("lost", b"found")])
        host.process()
        assert {"kept": b"newer", "torn": b"whole", "lost": b"found"} == contents(host.store)
        assert [] == host.journals()

    @pytest.mark.parametrize("name", ["a" * 32, "b" * 32 + ".bak", "README"])
    @pytest.mark.parametrize(
        "make",
        {
            "a folder": os.mkdir,
            "a pipe": os.mkfifo,
            "a dangling link": lambda location: os.symlink("nowhere", location),
            "an empty file": lambda location: Path(location).write_bytes(b""),
            "a file": lambda location: Path(location).write_bytes(b"text"),
            "a newer version": lambda location: Path(location).write_bytes(b"journal3".ljust(8192, b"x")),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_keeps_foreign_entries(self, host, journals, caplog, make, name):
        make[1](journals / name)
        found = identity(os.lstat(journals / name))
        driver = host.process()
        driver.put_content("path", b"1")
        driver._journal.checkpoint()
        host.crash(nothing)
        host.process()
        assert found == identity(os.lstat(journals / name))
        assert {"path": b"1"} == contents(host.store)
        assert name in caplog.text

    @pytest.mark.parametrize("name", ["gate", "lock", "checkpoint-lock"])
    @pytest.mark.parametrize("make", [os.mkdir, lambda location: os.symlink("nowhere/nowhere", location)])
    def test_refuses_locks_that_are_not_files(self, host, journals, name, make):
        (journals / name).unlink(missing_ok=True)
        make(journals / name)
        with pytest.raises(StorageError, match=f"journals/{name}.*Remove it"):
            host.process()._journal.checkpoint()

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda location: Path(location).write_bytes(b"")])
    def test_may_contain_an_invalid_mark(self, host, journals, make):
        driver = host.process()
        driver.put_content("path", b"1")
        make(journals / f"checkpoint-{driver._journal._session.id}")
        host.crash(nothing)
        with suppress(IsADirectoryError, StorageError):  # a folder is not replaced
            host.process()
        assert {"path": b"1"} == contents(host.store)

    def test_may_be_copied_to_another_tree(self, host, journals, tmp_path, caplog):
        driver = host.process()
        driver.put_content("path", b"old")
        driver.put_content("gone", b"old")
        shutil.copytree(journals, tmp_path / "copied", ignore=shutil.ignore_patterns("gate", "lock"))
        driver.put_content("path", b"new")
        driver.remove("gone")
        shutil.copytree(host.store, tmp_path / "other", ignore=shutil.ignore_patterns("journals"))
        shutil.copytree(tmp_path / "copied", tmp_path / "other" / RESERVED / "journals")
        host.superblock = "of another machine"
        FileDriver(str(tmp_path / "other"))
        assert {"path": b"new"} == contents(tmp_path / "other")
        assert "was copied" in caplog.text


class TestAfterACrashOfAProcess:
    def test_its_journal_is_deleted_without_a_replay(self, host):
        dead, living = host.process(), host.process()
        living.put_content("path", b"old")
        dead.put_content("path", b"new")
        dead.put_content("gone", b"")
        Path(host.store, "gone").unlink()  # shows that nothing is replayed
        host.kill(dead)
        host.process()
        assert {"path": b"new"} == contents(host.store)
        assert 1 == len(host.journals())

    def test_older_entries_of_live_processes_are_obsolete(self, host):
        dead, living = host.process(), host.process()
        living.put_content("path", b"old")
        dead.put_content("path", b"new")
        host.kill(dead)
        host.process()
        host.crash(nothing)
        host.process()
        assert {"path": b"new"} == contents(host.store)

    @pytest.mark.parametrize("superblock", [None, "second"])
    def test_the_session_continues_while_another_process_lives(self, host, superblock):
        """Containers may each see another superblock, or none."""
        dead, living = host.process(), host.process()
        dead.put_content("path", b"old")
        living.put_content("path", b"new")
        host.kill(dead)
        host.superblock = superblock
        host.process()
        assert {"path": b"new"} == contents(host.store)
        assert 1 == len(host.journals())


class TestACheckpoint:
    def test_makes_earlier_entries_obsolete(self, host):
        driver = host.process()
        driver.put_content("path", b"1")
        assert driver._journal.is_due
        driver._journal.checkpoint()
        assert not driver._journal.is_due
        Path(host.store, "path").unlink()
        host.crash(everything)
        host.process()
        assert {} == contents(host.store)

    def test_is_made_if_the_journal_is_full(self, host):
        driver = host.process()
        content = os.urandom(500_000)
        for number in range(40):  # 20 MB
            driver.put_content(f"{number % 7}", content + b"%d" % number)
        host.crash(nothing)
        host.process()
        expected = {f"{number % 7}": content + b"%d" % number for number in range(33, 40)}
        assert expected == contents(host.store)

    def test_replaces_entries_of_a_process_without_a_journal(self, host):
        host.process().put_content("path", b"1")
        other = host.process()
        other.remove("path")
        assert other._journal._file is None
        host.crash(nothing)
        host.process()
        assert {} == contents(host.store)

    def test_deletes_a_journal_that_could_not_be_written(self, host, monkeypatch):
        driver = host.process()
        driver.put_content("path", b"1")

        def fail(fd):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(StorageError):
                driver.put_content("path", b"2")
        driver.put_content("path", b"3")
        assert 2 == len(host.journals())
        driver._journal.checkpoint()
        assert 1 == len(host.journals())
        host.crash(nothing)
        host.process()
        assert {"path": b"3"} == contents(host.store)


AS_USER = """
import os, sys
from docker_registry.drivers.file import FileDriver
store, user, path = sys.argv[1:]
os.setgroups([]), os.setgid(int(user)), os.setuid(int(user))
driver = FileDriver(store)
if path:
    driver.put_content(path, b"")
print(len(list(driver._journal._journals())))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_journal_of_another_user_is_taken_over():
    """Commands may run as root, the server as another user."""
    with tempfile.TemporaryDirectory() as folder:  # no other user may look into pytest's
        os.chmod(folder, 0o777)
        for user, path in (("65534", ""), ("0", "a"), ("65534", "a"), ("0", "b"), ("65534", "")):
            command = (sys.executable, "-c", AS_USER, f"{folder}/store", user, path)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        assert "0\n" == done.stdout


def test_a_nearly_full_disk_gets_no_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_MIN_FREE_BYTES", 2**62)
    host = Host(tmp_path / "store", monkeypatch)
    host.process().put_content("path", b"1")
    host.process().put_content("path", b"2", if_match=hashlib.sha256(b"1").hexdigest())
    assert [] == host.journals()


def test_a_quota_without_room_for_a_journal_stops_nothing(tmp_path, monkeypatch):
    def fail(fd, content, offset):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    host = Host(tmp_path / "store", monkeypatch)
    driver = host.process()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", fail)
        driver.put_content("path", b"1")
    driver.put_content("path", b"2")
    assert ({"path": b"2"}, []) == (contents(host.store), host.journals())


def test_a_shared_store_has_no_journal(tmp_path, monkeypatch):
    monkeypatch.setattr("docker_registry.drivers.file.sync._KNOWN", set())
    assert FileDriver(str(tmp_path))._journal is None


PATHS = st.sampled_from(["a", "b", "f/a", "f/b", "f/g/a"])
CONTENTS = st.binary(max_size=6)
CHANGES = st.one_of(
    st.tuples(st.just("put"), PATHS, CONTENTS),
    st.tuples(st.just("replace"), PATHS, CONTENTS),
    st.tuples(st.just("batch"), st.lists(st.tuples(PATHS, CONTENTS), max_size=4)),
    st.tuples(st.just("stream"), PATHS, CONTENTS),
    st.tuples(st.just("touch"), PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("remove"), st.one_of(PATHS, st.sampled_from(["f", "f/g"]))),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("crash")),
)

#: What a process asks of the system when it changes something.
CALLS = ("fdatasync", "fsync", "link", "mkdir", "open", "pwritev", "rename", "rmdir", "unlink", "write")


class PowerLost(BaseException):
    """The host has lost its power."""


@contextmanager
def power_for(calls):
    """Crash the host before one of its next system calls."""
    left = itertools.count(calls, -1)

    def last_only(call):
        def called(*args, **kwargs):
            if next(left) <= 0:
                raise PowerLost
            return call(*args, **kwargs)

        return called

    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in CALLS:
            monkeypatch.setattr(os, name, last_only(getattr(os, name)))
        monkeypatch.setattr(root, "_exchange", last_only(root._exchange))
        yield


class Model:
    """The contents that must be in the store."""

    def __init__(self):
        self.files = {}

    def apply(self, driver, kind, *details):
        """Make a change, of the store and of the model."""
        with suppress(PathNotFound, PreconditionFailed):
            getattr(self, kind)(driver, *details)

    def put(self, driver, path, content):
        driver.put_content(path, content)
        self.files[path] = content

    def replace(self, driver, path, content):
        version = driver.get_versioned(path).version if path in self.files else ABSENT
        driver.put_content(path, content, if_match=version)
        self.files[path] = content

    def batch(self, driver, puts):
        with driver.batch():
            for path, content in puts:
                driver.put_content(path, content)
        self.files.update(puts)

    def stream(self, driver, path, content):
        driver.stream_write(path, [content])
        self.files[path] = content

    def touch(self, driver, path):
        driver.touch(path)

    def move(self, driver, source, target):
        driver.move(source, target)
        self.files[target] = self.files.pop(source) if source != target else self.files[source]

    def link(self, driver, source, target):
        driver.link(source, target)
        self.files[target] = self.files[source]

    def remove(self, driver, path):
        driver.remove(path)
        for gone in [found for found in self.files if f"{found}/".startswith(f"{path}/")]:
            del self.files[gone]

    def outcomes(self, kind, *details):
        """Return what an unacknowledged change may have left under its paths, beside the current contents."""
        if kind == "batch":
            return [(path, content) for path, content in details[0]]
        if kind == "touch":
            return []
        if kind in ("move", "link"):
            found = self.files.get(details[0])
            return [] if found is None else [(details[1], found), *([(details[0], None)] if kind == "move" else [])]
        if kind == "remove":
            return [(path, None) for path in self.files if f"{path}/".startswith(f"{details[0]}/")]
        return [details]


class TestACrashDuringAChange:
    @pytest.mark.parametrize("left", [nothing, everything, torn, zeros])
    @pytest.mark.parametrize(
        "change",
        [
            ("put", "b", b"new"),
            ("replace", "b", b"new"),
            ("batch", [("b", b"new"), ("f/g/a", b"new one")]),
            ("stream", "b", b"new"),
            ("move", "a", "b"),
            ("move", "a", "f/g/a"),
            ("link", "a", "f/g/a"),
            ("remove", "f"),
        ],
    )
    def test_leaves_each_path_old_or_new(self, tmp_path, change, left):
        for calls in itertools.count():
            with pytest.MonkeyPatch.context() as monkeypatch:
                host, model = Host(tmp_path / str(calls), monkeypatch, SMALL_HALF_BYTES), Model()
                driver = host.process()
                for path in ("a", "b", "f/a", "f/b"):
                    model.put(driver, path, path.encode())
                before, outcomes = dict(model.files), model.outcomes(*change)
                is_done = False
                with suppress(PowerLost), power_for(calls):
                    model.apply(driver, *change)
                    is_done = True
                host.crash(left)
                host.process()
                found = contents(host.store)
                if is_done:
                    assert model.files == found
                    break
                for path in before.keys() | found.keys():
                    assert found.get(path) in [before.get(path), *(new for other, new in outcomes if other == path)]
        assert calls > 3


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_history_loses_anything_acknowledged(tmp_path, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def run(data):
        lose_what_was_not_acknowledged(tmp_path / str(uuid.uuid4()), data)

    run()


def lose_what_was_not_acknowledged(store, data):
    """Changes of a store by two processes, with crashes of them and of the host in between."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        host, model = Host(store, monkeypatch, SMALL_HALF_BYTES), Model()
        processes = [host.process(), host.process()]
        for change in [*data.draw(st.lists(CHANGES, max_size=14)), ("crash",)]:
            number = data.draw(st.integers(0, 1))
            if change[0] == "checkpoint":
                processes[number]._journal.checkpoint()
            elif change[0] == "kill":
                host.kill(processes[number])
                processes[number] = host.process()
            elif change[0] == "crash":
                host.crash(lambda choices: data.draw(st.sampled_from(choices)))
                processes = [host.process(), host.process()]
            elif data.draw(st.integers(0, 4)):
                model.apply(processes[number], *change)
            else:
                before, outcomes = dict(model.files), model.outcomes(*change)
                with suppress(PowerLost), power_for(data.draw(st.integers(0, 40))):
                    model.apply(processes[number], *change)
                    outcomes = []
                host.crash(lambda choices: data.draw(st.sampled_from(choices)))
                processes = [host.process(), host.process()]
                if outcomes:
                    model.files = contents(store)
                    for path in before.keys() | model.files.keys():
                        allowed = [before.get(path), *(content for other, content in outcomes if other == path)]
                        assert model.files.get(path) in allowed
            assert model.files == contents(store)
    shutil.rmtree(store)
