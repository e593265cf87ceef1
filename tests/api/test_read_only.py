"""A registry that is read-only serves pulls, and refuses writes on all hosts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time

import pytest
import requests

from docker_registry import services
from docker_registry.api.routes import REFUSED_READ_ONLY
from docker_registry.cli.diff_worker import DiffWorker
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import Invalid, StorageFull
from docker_registry.registry import layout
from docker_registry.registry.read_only import REFRESH_SECONDS, ReadOnly
from tests.support.clients.v2 import Client, digest_of
from tests.support.full_driver import FullDriver
from tests.support.servers.registry import Server
from tests.support.servers.template import run_command
from tests.support.timing import wait_until

MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
WHY = "Moving to another bucket until 14:00."


def switch(store, *arguments):
    return run_command("readonly", *arguments, STORAGE_PATH=str(store), SEARCH_BACKEND="")


def becomes(expected, act):
    """Wait until a request has a status, and return its response."""
    assert REFRESH_SECONDS < 5  # the documented time after which all hosts obey a switch
    answers = iter(act, None)
    return wait_until(lambda: [answer for answer in [next(answers)] if answer.status_code == expected])[0]


class TestARegistry:
    def test_is_read_only_on_all_hosts_and_over_restarts(self, tmp_path):
        content = b"a blob"
        with contextlib.ExitStack() as stack:
            store = tmp_path / "store"
            servers = [stack.enter_context(Server(store)) for _ in range(2)]
            clients = [stack.enter_context(Client(server.url)) for server in servers]

            def put(index):
                url = f"{servers[index].url}/v2/acme/web/manifests/v1"
                return clients[index].session.put(url, data=MANIFEST, headers=TYPE, timeout=20)

            assert 201 == put(0).status_code
            start = clients[0].session.post(f"{servers[0].url}/v2/acme/web/blobs/uploads/", timeout=20)
            done = switch(store, "on", "--why", WHY, "--json")
            assert {"read_only": True, "why": WHY} == json.loads(done.stdout)
            for index in (0, 1):
                answer = becomes(405, lambda index=index: put(index))
                (error,) = answer.json()["errors"]
                assert ("UNSUPPORTED", WHY) == (error["code"], error["message"])
            url, session = f"{servers[1].url}/v2/acme/web", clients[1].session
            assert 405 == session.post(f"{url}/blobs/uploads/", timeout=20).status_code
            assert 405 == session.delete(f"{url}/manifests/v1", timeout=20).status_code
            assert (
                405 == session.put(f"{servers[1].url}/v1/repositories/a/b/tags/x", data='"1"', timeout=20).status_code
            )
            assert 200 == session.get(f"{url}/manifests/v1", timeout=20).status_code
            location = servers[1].url + start.headers["Location"]
            finished = session.put(location, params={"digest": digest_of(content)}, data=content, timeout=20)
            assert 201 == finished.status_code
            servers[0].stop()
            servers[0].start()
            assert f"read-only: {WHY}" in servers[0].log.read_text()
            assert 200 == requests.get(f"{servers[0].url}/_status", timeout=20).status_code
            assert 405 == requests.put(f"{servers[0].url}/v2/a/manifests/v1", data=MANIFEST, timeout=20).status_code
            assert "writes are allowed\n" == switch(store, "off").stdout
            for index in (0, 1):
                becomes(201, lambda index=index: put(index))

    @pytest.mark.parametrize("arguments", [["on"], ["on", "--why", " "], ["on", "--why", "a\nb"], ["maybe"]])
    def test_is_not_switched_by_a_wrong_command(self, tmp_path, arguments):
        assert 2 == switch(tmp_path / "store", *arguments).returncode
        assert not (tmp_path / "store" / layout.READ_ONLY).exists()


class TestTheSwitch:
    def test_stays_on_when_its_file_is_damaged(self):
        driver = MemoryDriver()
        read_only = ReadOnly(driver)
        driver.put_content(layout.READ_ONLY, b"{")
        read_only.refresh()
        assert read_only.why
        assert read_only.switch_off()
        assert not read_only.switch_off()

    def test_needs_a_reason_of_one_line(self):
        for why in ("", "x" * 501, "a\x1b[2J"):
            with pytest.raises(Invalid):
                ReadOnly(MemoryDriver()).switch_on(why)

    def test_refuses_what_begins_or_removes_something(self):
        assert {"v2_manifests.put_manifest", "v2_uploads.start_upload", "v1_pushes.put_json"} <= REFUSED_READ_ONLY
        assert not {"v2_uploads.append_chunk", "v2_blobs.get_blob"} & REFUSED_READ_ONLY


class TestBackgroundWork:
    def test_only_reads_from_the_store(self):
        driver = MemoryDriver()
        ReadOnly(driver).switch_on(WHY)
        full = FullDriver()
        full._files, full.is_full = driver._files, True
        with services.build(Config(storage="memory"), full) as built:
            with pytest.raises(StorageFull):
                built.probe_store()
            built.read_only.refresh()
            built.probe_store()

    def test_ends_in_the_middle(self):
        with services.build(Config(storage="memory"), MemoryDriver()) as built:
            for _ in range(5):
                built.registry.uploads.start(None)
            asked = itertools.count()
            assert (3, 0) == built.registry.run_housekeeping(-1, lambda: next(asked) >= 3)
            assert (2, 0) == built.registry.run_housekeeping(-1)

    def test_computes_no_diffs(self):
        class ReadOnlyOnce(ReadOnly):
            def refresh(self):
                super().refresh()
                worker.stop()

        read_only = ReadOnlyOnce(MemoryDriver())
        read_only.switch_on(WHY)
        worker = DiffWorker(None, None, read_only)  # any use of the queue would fail
        worker.run()


class TestAWorkerThatHangs:
    def test_is_replaced_but_not_for_a_long_transfer(self, tmp_path):
        with Server(tmp_path / "store", workers=2, GUNICORN_SILENT_TIMEOUT="2") as server:

            def slow_body():
                began = time.monotonic()
                while time.monotonic() < began + 3.5:
                    yield b"a"
                    time.sleep(0.5)

            def replaced_during_a_long_transfer():
                wait_until(lambda: len(server.worker_pids()) == 2)
                workers = {*server.worker_pids()}
                start = requests.post(f"{server.url}/v2/acme/web/blobs/uploads/", timeout=60)
                with contextlib.suppress(requests.ConnectionError):  # the worker was replaced
                    answer = requests.patch(server.url + start.headers["Location"], data=slow_body(), timeout=60)
                    assert 202 == answer.status_code
                return workers - {*server.worker_pids()}

            # If the machine stops for seconds, the other worker, which is idle, is replaced too.
            attempts = (replaced_during_a_long_transfer() for _ in range(4))
            assert set() == next(replaced for replaced in attempts if len(replaced) < 2)
            worker = server.worker_pids()[0]
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda: worker not in server.worker_pids())
            assert 200 == requests.get(f"{server.url}/v2/", timeout=60).status_code
