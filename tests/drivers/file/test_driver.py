from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from docker_registry.drivers.file import FileDriver, linux, root, sync
from docker_registry.drivers.file.root import RESERVED
from docker_registry.drivers.testing import DriverSuite
from docker_registry.errors import (
    LinkBroken,
    PathInvalid,
    PathNotFound,
    PreconditionFailed,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def driver(tmp_path):
    return FileDriver(str(tmp_path / "store"))


def left_in_staging(store):
    """The names of staged files, in the subfolders or where older versions wrote them."""
    return [path.name for path in (store / RESERVED / "aside").glob("**/*") if len(path.name) > 8]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


class TestFileDriver(DriverSuite):
    @pytest.fixture(params=["with a journal", "without"])
    def driver(self, request, tmp_path, monkeypatch):
        if request.param == "without":
            monkeypatch.setattr("docker_registry.drivers.file.sync._KNOWN", set())
        return FileDriver(str(tmp_path / "store"))

    @pytest.fixture
    def broken_driver(self, tmp_path):
        """The empty mount point of a disk that is no longer mounted."""
        driver = FileDriver(str(tmp_path / "store"))
        shutil.rmtree(tmp_path / "store" / RESERVED)
        return driver


class TestAKey:
    """Other users of the host may read blobs but no keys, however a key is written."""

    @pytest.mark.parametrize("path", ["docker/registry/v2/_v1/token-key", "docker/registry/v2/_auth/keys/1"])
    def test_is_readable_by_its_owner_only(self, driver, store, path):
        driver.put_content(path, b"one")
        assert 0o600 == (store / path).stat().st_mode & 0o777
        driver.put_content(path, b"other", if_match=driver.get_versioned(path).version)
        with driver.batch():
            driver.put_content(f"{path}-2" if "_auth" in path else path, b"more")
            driver.put_content("blob", b"blob")
        files = [location for location in store.rglob("*") if location.is_file() and b"more" in location.read_bytes()]
        assert files
        assert {0o600} == {location.stat().st_mode & 0o777 for location in files}
        assert 0o644 == (store / "blob").stat().st_mode & 0o777

    def test_of_an_earlier_version_is_restricted(self, driver, store):
        path = "docker/registry/v2/_v1/token-key"
        driver.put_content(path, b"key")
        (store / path).chmod(0o644)
        FileDriver(str(store))
        assert 0o600 == (store / path).stat().st_mode & 0o777


class TestTheRoot:
    def is_spread(self, folder):
        fd = os.open(folder, os.O_RDONLY)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, linux._GET_FLAGS, bytes(struct.calcsize("l"))))
        finally:
            os.close(fd)
        return bool(flags & linux._IS_TOP)

    def test_created_by_the_driver_spreads_its_subfolders(self, tmp_path):
        if sync.filesystem_type(str(tmp_path)) != "ext4":
            pytest.skip("only ext4 can be asked for that")
        (tmp_path / "given").mkdir()
        FileDriver(str(tmp_path / "given"))
        FileDriver(str(tmp_path / "made"))
        assert [True, False] == [self.is_spread(tmp_path / name) for name in ("made", "given")]
        assert self.is_spread(tmp_path / "given" / RESERVED)

    def test_is_created_if_missing(self, tmp_path):
        FileDriver(str(tmp_path / "a" / "b")).put_content("c", b"")
        assert (tmp_path / "a" / "b" / "c").exists()

    def test_may_be_a_link(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        driver = FileDriver(str(tmp_path / "link"))
        driver.put_content("a/b", b"content")
        assert b"content" == driver.get_content("a/b")

    def test_must_be_a_folder(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="cannot be used"):
            FileDriver(str(tmp_path / "file"))

    def test_that_is_gone_is_not_an_empty_store(self, driver, store):
        driver.put_content("a", b"")
        shutil.rmtree(store)
        for verb in (driver.get_content, driver.stat, driver.exists, driver.remove):
            with pytest.raises(StorageUnavailable):
                verb("a")
        for verb in (driver.list_directory, driver.walk):
            with pytest.raises(StorageUnavailable):
                list(verb())


class TestALinkOutOfTheRoot:
    @pytest.fixture
    def outside(self, tmp_path, driver, store):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (store / "folder").symlink_to(outside)
        (store / "file").symlink_to(outside / "secret")
        return outside

    @pytest.mark.parametrize("path", ["file", "folder/secret"])
    def test_is_not_read(self, driver, outside, path):
        for verb in (driver.get_content, driver.open_file, driver.stat, driver.exists):
            with pytest.raises(StorageError):
                verb(path)
        with pytest.raises(StorageError):
            list(driver.stream_read(path))

    def test_is_not_listed(self, driver, outside):
        with pytest.raises(StorageError):
            list(driver.list_directory("folder"))

    def test_is_not_written_to(self, driver, outside):
        for verb in (lambda: driver.put_content("folder/x", b""), lambda: driver.stream_write("folder/a/b", [b""])):
            with pytest.raises(StorageError):
                verb()
        with pytest.raises(StorageError):
            driver.remove("folder/secret")
        assert ["secret"] == os.listdir(outside)
        assert b"secret" == (outside / "secret").read_bytes()

    def test_is_replaced_by_a_put_and_not_followed(self, driver, outside):
        driver.put_content("file", b"new")
        assert (b"new", b"secret") == (driver.get_content("file"), (outside / "secret").read_bytes())


class TestALinkToNothing:
    @pytest.mark.parametrize("target", ["unmounted/docker", "/nowhere"])
    def test_is_an_error_and_no_missing_content(self, driver, store, target):
        driver.put_content("a/file", b"")
        (store / "a" / "link").symlink_to(target)
        reads = (driver.find, driver.exists, lambda path: list(driver.list_directory(path)), driver.get_content)
        for path, read in [(path, read) for path in ("a/link", "a/link/b/c") for read in reads]:
            with pytest.raises(StorageError, match="leads to nothing"):
                read(path)
        with pytest.raises(LinkBroken, match="leads to nothing"):
            list(driver.walk("a/link/b"))
        driver.put_content("a/link", b"new")
        assert b"new" == driver.get_content("a/link")


class TestAWalk:
    def test_raises_an_error_for_broken_links_after_all_files(self, driver, store):
        for name in "ac":
            driver.put_content(f"x/{name}/file", b"")
            (store / "x" / name / "broken").symlink_to("nothing")
        (store / "x" / "b").symlink_to("/tmp")
        found = set()
        with pytest.raises(LinkBroken) as raised:
            for stat in driver.walk("x"):
                found.add(stat.path)
        assert {"x/a/file", "x/c/file"} == found
        assert {"x/a/broken", "x/b", "x/c/broken"} == set(raised.value.paths)


class TestForeignEntries:
    def test_with_invalid_names_are_not_listed(self, driver, store):
        driver.put_content("a/b", b"")
        (store / "a" / "bad\nname").write_bytes(b"")
        assert ["a/b"] == list(driver.list_directory("a"))

    @pytest.mark.parametrize("junk", ["lost+found", f".nfs{'0' * 16}7a"])
    def test_of_the_file_system_are_not_listed(self, driver, store, junk):
        (store / junk).mkdir(mode=0)
        (store / "a").mkdir()
        (store / "a" / f".nfs{'0' * 16}7a").write_bytes(b"")
        assert ["a"] == list(driver.list_directory())
        assert [] == list(driver.walk())
        assert not driver.exists("a")

    def test_that_link_upwards_are_walked_once(self, driver, store):
        driver.put_content("a/b/c", b"")
        (store / "a" / "b" / "up").symlink_to("..")
        (store / "a" / "b" / "self").symlink_to(".")
        assert ["a/b/c"] == [stat.path for stat in driver.walk()]

    def test_behind_a_symbolic_link_are_hard_linked_themselves(self, driver, store):
        driver.put_content("a/b/file", b"content")
        (store / "a" / "link").symlink_to("b/file")
        assert driver.link("a/link", "c")
        driver.remove("a")
        assert b"content" == driver.get_content("c")

    def test_that_are_pipes_do_not_block(self, driver, store):
        os.mkfifo(store / "pipe")
        with pytest.raises(PathNotFound):
            driver.get_content("pipe")
        assert driver.exists("pipe")

    def test_that_are_empty_folders_do_not_exist(self, driver, store):
        (store / "a" / "b").mkdir(parents=True)
        assert not driver.exists("a")
        with pytest.raises(PathNotFound):
            driver.remove("a")


class TestTheReservedFolder:
    def test_is_never_listed(self, driver):
        driver.put_content("a", b"")
        assert ["a"] == list(driver.list_directory())

    @pytest.mark.parametrize("path", [RESERVED, f"{RESERVED}/aside/x"])
    def test_is_not_a_path(self, driver, path):
        for verb in (driver.get_content, driver.exists, driver.remove, lambda path: driver.put_content(path, b"")):
            with pytest.raises(PathInvalid):
                verb(path)

    def test_is_cleaned_of_leftovers_of_dead_writers(self, driver, store):
        staging, parts = store / RESERVED / "aside", driver._staging.subfolders
        (staging / "old-file-beside-the-subfolders").write_bytes(b"half")
        Path(parts[0], "old-file").write_bytes(b"half")
        Path(parts[1], "removing", "aa").mkdir(parents=True)
        time.sleep(2.2)
        Path(parts[2], "young-file").write_bytes(b"half")
        assert 3 == driver.remove_leftovers(2)
        assert ["young-file"] == left_in_staging(store)

    def test_has_subfolders_with_random_names(self, driver, store, tmp_path):
        again, other = FileDriver(str(store)), FileDriver(str(tmp_path / "other"))
        assert set(driver._staging.subfolders) == set(again._staging.subfolders)
        names = [{Path(part).name for part in one._staging.subfolders} for one in (driver, other)]
        assert [16, 16, 32] == [len(names[0]), len(names[1]), len(names[0] | names[1])]

    def test_spreads_new_files_over_its_subfolders(self, driver):
        assert set(driver._staging.subfolders) == {os.path.dirname(driver._staging.new()) for _ in range(1000)}

    def test_may_have_subfolders_of_two_processes(self, driver, store):
        more = Path(driver._staging.subfolders[0]).parent / "ffffffff"
        more.mkdir()
        os.utime(more, (0, 0))
        (more / "old-file").write_bytes(b"half")
        time.sleep(0.2)
        assert 1 == driver.remove_leftovers(0.1)
        assert more.is_dir()
        FileDriver(str(store)).put_content("a", b"content")

    def test_keeps_a_file_that_was_moved_in_recently(self, driver, store):
        driver.put_content("a", b"content")
        os.utime(store / "a", (0, 0))
        os.rename(store / "a", store / RESERVED / "aside" / "linking-file")
        assert 0 == driver.remove_leftovers(3600)


@pytest.fixture
def mount():
    """Return a function that mounts a file system until the test ends."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = []

    def mount(kind, location, options):
        location.mkdir(exist_ok=True)
        command = ["mount", "-t", kind, "-o", options, kind, location]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
        mounted.append(location)
        return location

    yield mount
    for location in reversed(mounted):
        subprocess.run(["umount", "-l", location], check=True)


class TestAnotherFileSystemInTheTree:
    def test_is_read_but_not_written_to(self, driver, store, mount):
        mount("tmpfs", store / "disk", "size=4m")
        (store / "disk" / "a").write_bytes(b"content")
        assert b"content" == driver.get_content("disk/a")
        for verb in (driver.put_content, lambda path, content: driver.stream_write(path, [content])):
            with pytest.raises(StorageError, match="one file system"):
                verb("disk/b", b"")
        assert ["a"] == os.listdir(store / "disk")

    def test_below_an_overlay_allows_removals(self, tmp_path, mount):
        layers = mount("tmpfs", tmp_path / "layers", "size=4m")
        (layers / "image" / "a" / "b").mkdir(parents=True)
        (layers / "image" / "a" / "b" / "c").write_bytes(b"")
        for folder in ("changes", "work"):
            (layers / folder).mkdir()
        options = f"lowerdir={layers}/image,upperdir={layers}/changes,workdir={layers}/work,redirect_dir=off"
        driver = FileDriver(str(mount("overlay", tmp_path / "store", options)))
        driver.remove("a/b")
        assert ([], False) == (list(driver.walk()), driver.exists("a"))


class TestAFullDisk:
    def test_raises_storage_full_and_leaves_nothing(self, tmp_path, mount):
        small = mount("tmpfs", tmp_path / "small", "size=4m")
        driver = FileDriver(str(small / "store"))
        driver.put_content("a", b"old")
        for verb in (
            lambda: driver.put_content("a", bytes(8 * 1024 * 1024)),
            lambda: driver.stream_write("a", [bytes(1024 * 1024)] * 8),
        ):
            with pytest.raises(StorageFull):
                verb()
        assert (b"old", []) == (driver.get_content("a"), left_in_staging(small / "store"))
        driver.stream_write("b", [bytes(1024 * 1024)])


#: Forks a writer for each line, because the imports of a new process take most of its time; prints its id and its end.
WRITE_FOREVER = """
import itertools, os, sys
from docker_registry.drivers.file import FileDriver

def write():
    driver = FileDriver(sys.argv[1])
    print("writer", os.getpid(), flush=True)
    for turn in itertools.count():
        content = bytes([turn % 256]) * 100_000
        driver.put_content(f"a/{turn % 5}/content", content)
        driver.stream_write(f"b/{turn % 3}", [content] * 5)
        if turn % 7 == 0:
            driver.remove("a/0")

for _ in sys.stdin:
    writer = os.fork()
    if not writer:
        write()
    print("status", os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]), flush=True)
"""


class TestAKilledWriter:
    def kill(self, store, rounds):
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        moments = random.Random(seed)
        command = [sys.executable, "-c", WRITE_FOREVER, str(store)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as writers:
            for _ in range(rounds):
                print(file=writers.stdin, flush=True)
                said, writer = writers.stdout.readline().split()
                assert "writer" == said
                time.sleep(moments.random() * 0.1)
                os.kill(int(writer), signal.SIGKILL)
                assert f"status {-signal.SIGKILL}\n" == writers.stdout.readline()
                driver = FileDriver(str(store))
                for stat in driver.walk():
                    content = driver.get_content(stat.path)
                    assert len(content) in (100_000, 500_000)
                    assert content == content[:1] * len(content)
                driver.remove_leftovers(-1)
                assert [] == left_in_staging(store)

    def test_leaves_only_whole_files(self, tmp_path):
        self.kill(tmp_path / "store", 20)

    @pytest.mark.slow
    def test_leaves_only_whole_files_two_hundred_times(self, tmp_path):
        self.kill(tmp_path / "store", 200)


class TestAConditionalPutDelayedAfterItsComparison:
    @pytest.fixture
    def meanwhile(self, driver, monkeypatch):
        """Start a conditional put of a/b, and let others change the store before it replaces the old content."""
        exchange, compared, go_on = root._exchange, threading.Event(), threading.Event()

        def put():
            with contextlib.suppress(PreconditionFailed):
                driver.put_content("a/b", b"conditional", if_match=version)

        def exchange_late(*names):
            if threading.current_thread() is putting:
                compared.set()
                go_on.wait(60)
            return exchange(*names)

        def meanwhile(change):
            other = threading.Thread(target=change)
            putting.start()
            assert compared.wait(60)
            other.start()
            other.join(0.3)
            go_on.set()
            for thread in (putting, other):
                thread.join()

        driver.put_content("a/b", b"old")
        driver.put_content("a/other", b"")  # keeps the folder
        version = driver.get_versioned("a/b").version
        putting = threading.Thread(target=put)
        monkeypatch.setattr(root, "_exchange", exchange_late)
        return meanwhile

    def test_does_not_overwrite_a_plain_put(self, driver, meanwhile):
        meanwhile(lambda: driver.put_content("a/b", b"plain"))
        assert b"plain" == driver.get_content("a/b")

    def test_does_not_overwrite_a_stream(self, driver, meanwhile):
        meanwhile(lambda: driver.stream_write("a/b", [b"stream"]))
        assert b"stream" == driver.get_content("a/b")

    @pytest.mark.parametrize("removed", ["a/b", "a"])
    def test_does_not_undo_a_removal(self, driver, meanwhile, removed):
        meanwhile(lambda: driver.remove(removed))
        assert not driver.exists("a/b")

    def test_does_not_recreate_a_moved_file(self, driver, meanwhile):
        meanwhile(lambda: driver.move("a/b", "c"))
        assert (b"conditional", False) == (driver.get_content("c"), driver.exists("a/b"))

    @pytest.mark.parametrize("verb", ["move", "link"])
    def test_does_not_overwrite_a_file_moved_to_its_path(self, driver, meanwhile, verb):
        driver.put_content("d", b"moved")
        meanwhile(lambda: getattr(driver, verb)("d", "a/b"))
        assert b"moved" == driver.get_content("a/b")


COUNT = """
import sys
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import PreconditionFailed
driver = FileDriver(sys.argv[1])
for _ in range(25):
    while True:
        stored = driver.get_versioned("count")
        try:
            driver.put_content("count", b"%d" % (int(stored.content) + 1), if_match=stored.version)
            break
        except PreconditionFailed:
            continue
"""


class TestConditionalPutsOfSeveralProcesses:
    def test_lose_nothing(self, driver, store):
        driver.put_content("count", b"0")
        command = [sys.executable, "-c", COUNT, str(store)]
        counting = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
        assert [0] * 4 == [process.wait(60) for process in counting]
        assert b"100" == driver.get_content("count")


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, time, os, gevent
from docker_registry.drivers.file import FileDriver
real, sleep, began = os.fsync, monkey.get_original("time", "sleep"), time.monotonic()
def slow(fd):
    before = len(ticks)
    while len(ticks) < before + 20 and time.monotonic() < began + 20:
        sleep(0.01)
    met.append(len(ticks) - before >= 20)
    real(fd)
os.fsync = slow
driver = FileDriver(sys.argv[1])
ticks, met = [], []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)
gevent.spawn(tick)
driver.put_content("a", b"content")
assert driver.get_content("a") == b"content"
print(all(met), len(met) > 0)
"""


INTERRUPTED = """
from gevent import monkey; monkey.patch_all()
import os, sys, gevent
from docker_registry.drivers.file import FileDriver
real = os.write
def slow(fd, content):
    if bytes(content) == b"block":
        monkey.get_original("time", "sleep")(0.3)
    return real(fd, content)
os.write = slow
driver = FileDriver(sys.argv[1])
def write():
    with gevent.Timeout(0.1, False):
        driver.stream_write("a", [b"block"])
writer = gevent.spawn(write)
gevent.sleep(0.2)
with open(sys.argv[1] + "/b", "wb") as other:  # would be given the descriptor that the writer has closed
    gevent.sleep(0.4)
writer.join()
left = sum((os.listdir(part) for part in driver._staging.subfolders), [])
print(os.path.getsize(sys.argv[1] + "/b"), sorted(os.listdir(sys.argv[1])), left)
"""


class TestUnderGevent:
    def test_a_writer_that_times_out_writes_nothing(self, tmp_path, store):
        command = [sys.executable, "-c", INTERRUPTED, str(store)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (f"0 ['{RESERVED}', 'b'] []\n", "") == (done.stdout, done.stderr)

    def test_a_slow_disk_does_not_stop_other_greenlets(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", UNDER_GEVENT, str(tmp_path / "store")], cwd=ROOT, capture_output=True, text=True
        )
        assert (0, "True True\n", "") == (done.returncode, done.stdout, done.stderr)

    def test_replaced_files_are_removed_soon(self, tmp_path):
        program = (
            "from gevent import monkey; monkey.patch_all(); import gevent, os, sys\n"
            "from docker_registry.drivers.file import FileDriver, small_writes as module\n"
            "module._CHECKPOINT_SECONDS = 0.5\n"
            "def staged():\n"
            "    return sum(len(os.listdir(part)) for part in driver._staging.subfolders)\n"
            "driver = FileDriver(sys.argv[1])\n"
            "for number in range(10):\n"
            "    driver.put_content('a', b'%d' % number)\n"
            "print(staged())\n"
            "with gevent.Timeout(20):\n"
            "    while staged():\n"
            "        gevent.sleep(0.05)\n"
            "print(driver.get_content('a'))\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "store")]
        assert b"9\nb'9'\n" == subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout

    def test_opened_folders_are_closed_at_once(self, tmp_path):
        program = (
            "from gevent import monkey; monkey.patch_all(); import gevent, os, sys\n"
            "from docker_registry.drivers.file import FileDriver\n"
            "def look():\n"
            "    driver = FileDriver(sys.argv[1])\n"
            "    driver.put_content('a/b/c', b'')\n"
            "    before = len(os.listdir('/proc/self/fd'))\n"
            "    for _ in range(100):\n"
            "        driver.exists('a/b'), list(driver.walk()), list(driver.list_directory('a'))\n"
            "    print(len(os.listdir('/proc/self/fd')) - before)\n"
            "gevent.spawn(look).join()"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "store")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ("0\n", "") == (done.stdout, done.stderr)

    def test_the_whole_suite_passes(self, tmp_path):
        program = (
            "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
        )
        # A separate folder: concurrent runs that clean up a shared one would disturb each other.
        alone = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'pytest'}"]
        chosen = ["-q", *alone, "tests/drivers/file/test_driver.py::TestFileDriver"]
        done = subprocess.run([sys.executable, "-c", program, *chosen], cwd=ROOT, capture_output=True, text=True)
        assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
