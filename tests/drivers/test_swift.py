"""The contract of drivers on a real Swift server, and behavior specific to Swift."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import requests

pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from docker_registry.drivers.swift.connections import Account
from docker_registry.drivers.swift.driver import SwiftDriver
from docker_registry.drivers.testing import DriverSuite
from docker_registry.errors import ConfigError, PathInvalid, PathNotFound, StorageError, StorageUnavailable
from tests.support import processes
from tests.support.servers.swift import READER, READER_PASSWORD
from tests.support.timing import wait_until

MIB = 1024 * 1024


@pytest.fixture
def options(swift_server):
    return {**swift_server.options, "storage_path": "registry", "swift_segment_bytes": MIB}


@pytest.fixture
def driver(options):
    driver = SwiftDriver(**options)
    yield driver
    driver.close()


@pytest.fixture
def swift(swift_server):
    """An independent client."""
    connection = swift_server.connect()
    yield connection
    connection.close()


class TestSwiftDriver(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = SwiftDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, swift):
        """A driver whose user has lost all permissions."""
        name = options["swift_container"]
        swift.put_container(name, {"X-Container-Read": "test:reader,.rlistings"})
        driver = SwiftDriver(**{**options, "swift_user": READER, "swift_password": READER_PASSWORD})
        swift.post_container(name, {"X-Container-Read": ""})
        yield driver
        driver.close()


def names(swift, options):
    """All objects in the container."""
    _, entries = swift.get_container(options["swift_container"], full_listing=True)
    return [entry["name"] for entry in entries]


def segments(swift, options):
    return [name for name in names(swift, options) if "/segments/" in name]


@pytest.fixture
def large():
    """More than one manifest holds on the server of these tests, which allows eight segments."""
    return bytes(range(256)) * 4096 * 10 + b"end"


class TestALargeFile:
    def test_is_stored_in_segments_that_are_not_listed(self, driver, swift, options, large):
        driver.stream_write("a/b", [large])
        assert ["a"] == list(driver.list_directory())
        assert [("a/b", len(large))] == [(stat.path, stat.size) for stat in driver.walk()]
        assert 11 <= len(segments(swift, options))
        assert large == driver.get_content("a/b")
        assert large[8 * MIB - 5 : 8 * MIB + 5] == b"".join(driver.stream_read("a/b", 8 * MIB - 5, 10))

    def test_ignores_a_path_beside_its_segments(self, driver):
        for path in (".docker-registry", ".docker-registry/segments/x"):
            with pytest.raises(PathInvalid):
                driver.get_content(path)

    def test_leaves_no_segments_if_its_source_fails(self, driver, swift, options, large):
        def blocks():
            yield large
            raise KeyError

        with pytest.raises(KeyError):
            driver.stream_write("a", blocks())
        assert [] == names(swift, options)

    def test_is_moved_without_its_bytes(self, driver, swift, options, large):
        driver.stream_write("a", [large])
        before = segments(swift, options)
        driver.move("a", "b")
        assert before == segments(swift, options)
        moved = swift.head_object(options["swift_container"], f"{options['storage_path']}/b")
        assert "True" == moved["x-static-large-object"]
        assert (large, False) == (driver.get_content("b"), driver.exists("a"))

    def test_keeps_its_size_and_time_in_lists(self, driver, large):
        driver.stream_write("a", [large])
        driver.touch("a")
        (seen,) = driver.walk()
        described = driver.stat("a")
        assert described.size == seen.size
        assert abs(described.modified - seen.modified) < 0.01


class TestTheSweep:
    def test_removes_segments_of_removed_and_replaced_files(self, driver, swift, options, large):
        driver.stream_write("a", [large])
        driver.stream_write("b", [large])
        driver.remove("a")
        driver.put_content("b", b"small")
        assert 0 == driver.remove_leftovers(3600)
        assert 2 == driver.remove_leftovers(0)
        assert [] == segments(swift, options)
        assert b"small" == driver.get_content("b")

    def test_removes_leftovers_of_dead_processes(self, driver, swift, options):
        orphan = f"{options['storage_path']}/.docker-registry/segments/0123abcd/00000000"
        swift.put_object(options["swift_container"], orphan, b"x")
        assert 1 == driver.remove_leftovers(0)
        assert [] == names(swift, options)

    @pytest.mark.parametrize("removed", ["a", "b"])
    def test_keeps_segments_of_an_interrupted_move(self, driver, swift, options, large, removed):
        driver.stream_write("a", [large])
        root = options["storage_path"]
        source = {"X-Copy-From": f"{options['swift_container']}/{root}/a"}
        query = "multipart-manifest=get"
        swift.put_object(options["swift_container"], f"{root}/b", None, headers=source, query_string=query)
        driver.remove(removed)
        assert 0 == driver.remove_leftovers(0)
        assert large == driver.get_content({"a": "b", "b": "a"}[removed])

    def test_keeps_files_that_were_moved_and_touched(self, driver, large):
        driver.stream_write("a", [large])
        driver.move("a", "c/d")
        driver.touch("c/d")
        assert 0 == driver.remove_leftovers(0)
        assert large == driver.get_content("c/d")

    def test_keeps_files_that_listings_do_not_show_for_a_time(self, driver, swift, options, large, monkeypatch):
        driver.stream_write("a", [large])
        driver.move("a", "b")
        kept, entries, now = segments(swift, options), driver._objects.entries, time.time()
        clock = SimpleNamespace(time=lambda: now + 2)
        monkeypatch.setattr("docker_registry.drivers.swift.segments.time", clock)
        with monkeypatch.context() as patch:
            patch.setattr(
                driver._objects,
                "entries",
                lambda *arguments: (each for each in entries(*arguments) if not each.name.endswith("/b")),
            )
            assert 0 == driver.remove_leftovers(1)
            assert 1 == len(segments(swift, options)) - len(kept)
        assert 0 == driver.remove_leftovers(1)
        assert kept == segments(swift, options)
        driver.remove("b")
        assert 0 == driver.remove_leftovers(1)
        clock.time = lambda: time.time() + 2
        assert 1 == driver.remove_leftovers(1)
        assert [] == segments(swift, options)

    def test_keeps_files_with_a_changed_content_type(self, driver, swift, options, large):
        driver.stream_write("a", [large[: 3 * MIB]])
        name = f"{options['storage_path']}/a"
        swift.post_object(options["swift_container"], name, {"Content-Type": "image/png"})
        assert 0 == driver.remove_leftovers(0)
        assert large[: 3 * MIB] == driver.get_content("a")


class TestAContainerOfRegistry2:
    @pytest.fixture
    def driver(self, options, swift):
        container = options["swift_container"]
        swift.put_container(container)
        for number in range(3):
            swift.put_object(container, f"segments/0ab/c/{number}", b"0123456789")
        manifest = {"X-Object-Manifest": f"{container}/segments/0ab/c"}
        swift.put_object(container, "files/docker/blobs/data", b"", headers=manifest)
        swift.put_object(container, "files/docker/empty", b"")
        swift.put_object(container, "files/docker/blobs", b"", content_type="application/directory")
        driver = SwiftDriver(**{**options, "storage_path": "files"})
        yield driver
        driver.close()

    def test_is_read(self, driver):
        assert b"0123456789" * 3 == driver.get_content("docker/blobs/data")
        assert b"9012" == b"".join(driver.stream_read("docker/blobs/data", 9, 4))

    def test_is_listed(self, driver):
        assert ["docker/blobs", "docker/empty"] == sorted(driver.list_directory("docker"))
        assert [("docker/blobs/data", 30), ("docker/empty", 0)] == sorted((s.path, s.size) for s in driver.walk())

    def test_is_changed(self, driver):
        driver.touch("docker/blobs/data")
        driver.move("docker/blobs/data", "docker/x")
        assert b"0123456789" * 3 == driver.get_content("docker/x")

    def test_has_folders_that_are_not_files(self, driver):
        assert driver.exists("docker/blobs")
        with pytest.raises(PathNotFound):
            driver.get_content("docker/blobs")
        driver.remove("docker/blobs")
        assert ["docker/empty"] == list(driver.list_directory("docker"))


class TestASignedURL:
    @pytest.fixture
    def driver(self, options):
        driver = SwiftDriver(**options, swift_temp_url_key="k3y", swift_temp_url_seconds=600)
        yield driver
        driver.close()

    @pytest.mark.parametrize("path", ["a/b", "ä/100%", "a b?c#d"])
    def test_needs_no_further_credentials(self, driver, path):
        driver.stream_write(path, [b"x" * MIB, b"y" * MIB])
        answer = requests.get(driver.content_redirect_url(path), timeout=60)
        assert (200, b"x" * MIB + b"y" * MIB) == (answer.status_code, answer.content)

    def test_is_valid_for_one_file_and_a_limited_time(self, options):
        driver = SwiftDriver(**options, swift_temp_url_key="k3y", swift_temp_url_seconds=1)
        driver.put_content("a", b"content")
        driver.put_content("b", b"content")
        url = driver.content_redirect_url("a")
        assert 401 == requests.get(url.replace("/a?", "/b?"), timeout=60).status_code
        wait_until(lambda: 401 == requests.get(url, timeout=60).status_code, seconds=10)
        driver.close()

    def test_needs_a_key(self, options):
        driver = SwiftDriver(**options)
        assert driver.content_redirect_url("a") is None
        driver.close()


class TestFailingSwift:
    def test_is_asked_for_the_rest_of_an_interrupted_read(self, options, swift_server, large):
        with CuttingProxy(swift_server.port) as proxy:
            driver = SwiftDriver(**{**options, "swift_authurl": f"http://127.0.0.1:{proxy.port}/auth/v1.0"})
            driver.stream_write("a", [large])
            proxy.cut_after = 3 * MIB
            assert large[1:] == b"".join(driver.stream_read("a", 1))
            assert proxy.cuts > 1
            proxy.cut_after = 1000
            assert b"".join(driver.stream_read("a", 7, 5000)) == large[7:5007]
            driver.close()

    def test_is_unavailable_after_repeated_interruptions(self, options, swift_server):
        with CuttingProxy(swift_server.port) as proxy:
            driver = SwiftDriver(**{**options, "swift_authurl": f"http://127.0.0.1:{proxy.port}/auth/v1.0"})
            driver.put_content("a", b"x" * 1000)
            proxy.cut_after = 0
            with pytest.raises(StorageUnavailable):
                driver.get_content("a")
            driver.close()

    def test_issues_another_token_if_one_is_rejected(self, driver, swift_server):
        driver.put_content("a", b"content")
        swift_server.forget_tokens()
        assert b"content" == driver.get_content("a")

    def test_is_unavailable_without_its_container(self, driver, swift, options):
        driver.put_content("a", b"content")
        driver.remove("a")
        swift.delete_container(options["swift_container"])
        for verb in (lambda: driver.put_content("a", b""), lambda: list(driver.walk())):
            with pytest.raises(StorageUnavailable):
                verb()

    def test_is_unavailable_if_unreachable(self, options):
        port = processes.free_port()
        with pytest.raises(StorageUnavailable):
            SwiftDriver(**{**options, "swift_authurl": f"http://127.0.0.1:{port}/auth/v1.0"})

    def test_rejects_a_wrong_password_with_a_clear_error(self, options):
        with pytest.raises(StorageError, match="swift_password") as refused:
            SwiftDriver(**{**options, "swift_password": "wr0ng"})
        assert "wr0ng" not in str(refused.value)

    @pytest.mark.parametrize("name", ["swift_authurl", "swift_container", "swift_user", "swift_password"])
    def test_reports_a_missing_setting(self, options, name):
        with pytest.raises(ConfigError, match=f"{name} is not set"):
            SwiftDriver(**{**options, name: None})

    def test_reports_a_malformed_url(self, options):
        with pytest.raises(ConfigError, match="swift_authurl is not a URL"):
            SwiftDriver(**{**options, "swift_authurl": "http://[::1"})


class TestAnAddress:
    @pytest.mark.parametrize(
        ("url", "version", "uses_keystone"),
        [
            ("https://example.org/auth/v1.0", None, False),
            ("https://example.org/auth/v1/", None, False),
            ("https://example.org:5000/v3", None, True),
            ("https://example.org:5000", None, True),
            ("https://example.org:5000", "1", False),
            ("https://example.org/v1.0", "3", True),
        ],
    )
    def test_distinguishes_keystone(self, url, version, uses_keystone):
        account = Account(authurl=url, user="u", password="p", auth_version=version)
        assert uses_keystone == account.uses_keystone


class CuttingProxy:
    """A proxy that truncates responses beyond a length, or all of them while it is down."""

    def __init__(self, port):
        self.cut_after = None
        self.cuts = 0
        self.is_down = False
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source, target, is_answer):
        """Copy bytes in one direction; after a GET, count the bytes of the response body."""
        count = 0
        with source, target:
            while True:
                try:
                    some = source.recv(65536)
                except OSError:
                    some = b""
                if not some or self.is_down:
                    break
                if is_answer and self.cut_after is not None:
                    head, found, body = (
                        some.partition(b"\r\n\r\n") if some.startswith(b"HTTP/1.1 20") else (b"", b"", some)
                    )
                    count = len(body) if found else count + len(body)
                    if count > self.cut_after:
                        self.cuts += 1
                        target.sendall(head + found + body[: max(0, len(body) - (count - self.cut_after))])
                        break
                try:
                    target.sendall(some)
                except OSError:
                    break
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
