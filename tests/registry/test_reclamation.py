"""Bytes to which nothing refers any more are removed, beside requests that need them after all."""

from __future__ import annotations

import json
import time

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown, StorageFull
from docker_registry.registry import layout
from docker_registry.registry.actor import GARBAGE_COLLECTION
from docker_registry.registry.ingest import Content
from docker_registry.registry.maintenance.backup import Backup
from docker_registry.registry.maintenance.backup_folder import BackupFolder
from docker_registry.registry.manifest_payload import OCI_MANIFEST
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.reclamation import MOVE_SECONDS, REMOVE_SECONDS
from tests.support.clients.v2 import encoded
from tests.support.clock import Clock
from tests.support.full_driver import FullDriver
from tests.support.images import descriptor
from tests.support.interleaving import ALL, Request, Schedule, StoppingDriver, copied, sample, schedules

NAME, OTHER = RepositoryName.parse("team/app"), RepositoryName.parse("cached/app")
BLOB = b"a layer"
DIGEST = Digest.of(BLOB)
MANIFEST = encoded(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(BLOB, "application/vnd.oci.image.config.v1+json"),
        "layers": [],
    }
)


class Registry(OciRegistry):
    """A registry whose removals follow a clock."""

    def __init__(self, driver, clock=None):
        super().__init__(driver)
        self.clock = clock or Clock(time.time())
        self.blobs.removed._now = self.reclamation._now = self.clock

    def forget(self, digest=DIGEST, name=OTHER):
        self.blobs.removed.add(digest)
        self.removal.forget(name, digest, actor=GARBAGE_COLLECTION)

    def reclaim(self, *waits):
        """Run after some waits, and return the bytes that were removed."""
        removed = 0
        for seconds in waits or (MOVE_SECONDS, REMOVE_SECONDS):
            self.clock.now += seconds
            removed += self.reclamation.run()
        return removed

    def read(self, digest=DIGEST, name=NAME):
        return b"".join(self.blobs.file(self.blobs.get_readable(name, digest)).read())


@pytest.fixture(params=["memory", "file"])
def registry(request, tmp_path):
    return Registry(MemoryDriver() if request.param == "memory" else FileDriver(storage_path=tmp_path / "store"))


@pytest.fixture
def forgotten(registry):
    """A registry that has just forgotten a blob."""
    registry.uploads.put(OTHER, DIGEST, Content(BLOB))
    registry.forget()
    return registry


def files(registry):
    return [each.path for folder in (layout.BLOBS, layout.REMOVED) for each in registry.driver.walk(folder)]


class TestABlobWithoutReferences:
    def test_is_removed_at_the_second_look(self, forgotten):
        assert 0 == forgotten.reclaim(MOVE_SECONDS - 1)
        assert forgotten.driver.exists(layout.blob_data(DIGEST))
        forgotten.clock.now += 1
        assert 0 == forgotten.reclamation.run(lambda: True)
        assert forgotten.driver.exists(layout.blob_data(DIGEST)), "a run that is stopped changes nothing"
        assert 0 == forgotten.reclaim(0, REMOVE_SECONDS - 1)
        assert not forgotten.driver.exists(layout.blob_data(DIGEST))
        assert len(BLOB) == forgotten.reclaim(1)
        assert [] == files(forgotten)

    def test_stays_when_it_is_mounted_or_pushed_at_any_time(self):
        forgotten = Registry(MemoryDriver())
        forgotten.uploads.put(OTHER, DIGEST, Content(BLOB))
        forgotten.forget()
        clock = forgotten.clock.now
        for waits in ((), (MOVE_SECONDS,), (MOVE_SECONDS, REMOVE_SECONDS / 2)):
            for way in ("mount", "push"):
                registry = Registry(copied(forgotten.driver), Clock(clock))
                registry.reclaim(*waits or (0,))
                if way == "mount":
                    registry.blobs.mount(NAME, DIGEST)
                else:
                    registry.uploads.put(NAME, DIGEST, Content(BLOB))
                for _ in range(4):
                    assert 0 == registry.reclaim(MOVE_SECONDS) or way == "push", "the old copy of what was pushed"
                    assert BLOB == registry.read()
                registry.reclaim(REMOVE_SECONDS, REMOVE_SECONDS)
                assert [layout.blob_data(DIGEST)] == files(registry)
                assert BLOB == registry.read()

    def test_is_removed_after_a_push_that_failed(self, forgotten):
        forgotten.reclaim(MOVE_SECONDS)
        forgotten.driver.put_content(layout.blob_data(DIGEST), BLOB)  # a push died before it wrote its link
        assert 2 * len(BLOB) == forgotten.reclaim(REMOVE_SECONDS, MOVE_SECONDS, REMOVE_SECONDS)
        assert [] == files(forgotten)

    def test_is_removed_from_a_full_store_although_another_cannot_be_moved_away(self):
        other_blob = b"another layer"
        for removed, moved in ((BLOB, other_blob), (other_blob, BLOB)):
            registry = Registry(FullDriver())
            for content in (removed, moved):
                registry.uploads.put(OTHER, Digest.of(content), Content(content))
                registry.forget(Digest.of(content))
                registry.reclaim(MOVE_SECONDS if content == removed else 0)
            registry.driver.is_full = True
            with pytest.raises(StorageFull):
                registry.reclaim(REMOVE_SECONDS)
            digest = Digest.of(moved)
            assert {layout.blob_data(digest), layout.removed_since(digest)} == set(files(registry))

    def test_is_removed_from_a_full_store_although_the_record_of_another_is_damaged(self):
        registry = Registry(FullDriver())
        registry.uploads.put(OTHER, DIGEST, Content(BLOB))
        registry.forget()
        registry.reclaim(MOVE_SECONDS)
        damaged = layout.removed_since(Digest.of(b"another layer"))
        registry.driver.put_content(damaged, b"")
        registry.driver.is_full = True
        with pytest.raises(StorageFull):
            registry.reclaim(REMOVE_SECONDS)
        assert [damaged] == files(registry)

    def test_of_which_another_process_removed_the_bytes_is_forgotten(self, forgotten):
        forgotten.driver.remove(layout.blob_data(DIGEST))
        assert 0 == forgotten.reclaim()
        assert [] == files(forgotten)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", *(b'{"since": %b}' % time for time in (b'"x"', b"9e99", b"NaN", b"-Infinity", b"9e999"))],
        ids=str,
    )
    def test_whose_record_is_damaged_is_removed_later(self, content):
        registry = Registry(MemoryDriver())
        registry.uploads.put(None, DIGEST, Content(BLOB))
        registry.driver.put_content(layout.removed_since(DIGEST), content)
        registry.driver.put_content(f"{layout.REMOVED}/other/file", b"of another program")
        assert 0 == registry.reclaim(0)
        assert len(BLOB) == registry.reclaim()
        assert [f"{layout.REMOVED}/other/file"] == files(registry)

    def test_is_in_a_backup_if_something_refers_to_it_by_now(self, forgotten, tmp_path):
        forgotten.reclaim(MOVE_SECONDS)
        forgotten.driver.put_content(layout.layer_link(NAME, DIGEST), str(DIGEST).encode())
        folder = BackupFolder(tmp_path / "backup")
        assert [] == Backup(forgotten.driver, folder).run().damaged
        assert BLOB == folder.read(layout.blob_data(DIGEST))
        assert [] == list(folder.walk(layout.REMOVED))


class TestTwoProcesses:
    @pytest.mark.parametrize("step", ["move", "remove"])
    def test_that_remove_a_blob_at_once_do_not_lose_it(self, step):
        first = Registry(MemoryDriver())
        second = Registry(first.driver, first.clock)
        first.uploads.put(OTHER, DIGEST, Content(BLOB))
        first.forget()
        first.reclaim(MOVE_SECONDS if step == "remove" else 0)
        count = first.references.among

        def among(digests):
            """Count references while the second process takes a step."""
            if step == "move":  # it has counted references before a push writes one
                second.uploads.put(NAME, DIGEST, Content(BLOB))
                used = count(digests)
                second.blobs.removed.move_away(DIGEST)
                return used
            used = count(digests)
            second.blobs.removed.restore(DIGEST)  # a mount finds the blob, and links it at the end
            second.reclaim(0)
            second.blobs.link(NAME, DIGEST)
            return used

        first.references.among = among
        assert 0 == first.reclaim(REMOVE_SECONDS)
        assert BLOB == second.read()
        second.reclaim(REMOVE_SECONDS, REMOVE_SECONDS)
        assert [layout.blob_data(DIGEST)] == files(second)


class TestReferences:
    def test_are_the_links_of_repositories(self, registry):
        blob = registry.uploads.put(NAME, DIGEST, Content(BLOB)).digest
        registry.manifest_pushes.put(NAME, Tag("v1"), MANIFEST, None)
        manifest, unknown = Digest.of(MANIFEST), Digest.of(b"unknown")
        assert {blob, manifest} == registry.references.among({blob, manifest, unknown})
        assert set() == registry.references.among({blob, manifest}, lambda name: name != str(NAME))

    def test_without_their_file_are_none(self, registry):
        registry.driver.put_content(f"{layout.revision(NAME, DIGEST)}/mediatype", b"x")
        assert set() == registry.references.among({DIGEST})

    def test_are_the_layers_of_images_of_v1(self, registry):
        for number, content in enumerate((json.dumps({"digest": str(DIGEST)}), "{}", "[]", "{")):
            registry.driver.put_content(f"images/{number:064}/_blob", content.encode())
            registry.driver.put_content(f"images/{number:064}/json", b"{}")
        for _ in range(2):
            assert {DIGEST} == registry.references.among({DIGEST, Digest.of(b"")})


#: Requests beside the removal of a blob; each makes the blob readable in NAME, unless it fails.
REQUESTS = {
    "mount": lambda registry: registry.blobs.mount(NAME, DIGEST),
    "push": lambda registry: registry.uploads.put(NAME, DIGEST, Content(BLOB)),
    "push a manifest": lambda registry: registry.manifest_pushes.put(NAME, Tag("v1"), MANIFEST, None),
}


class TestARequestBesideTheRemoval:
    @pytest.mark.parametrize("request_", REQUESTS)
    @pytest.mark.parametrize("step", ["unlink", "move", "remove"])
    def test_loses_nothing(self, request_, step):
        digest, payload = (Digest.of(MANIFEST), MANIFEST) if "manifest" in request_ else (DIGEST, BLOB)
        driver = MemoryDriver()
        registry = Registry(driver)
        registry.uploads.put(OTHER, digest, Content(payload))
        registry.uploads.put(NAME, Digest.of(b"config"), Content(b"config"))
        if payload is MANIFEST:
            registry.uploads.put(NAME, DIGEST, Content(BLOB))
        now = registry.clock.now
        if step != "unlink":
            registry.forget(digest)
            registry.reclaim(*([MOVE_SECONDS] if step == "remove" else [0]))
            now = registry.clock.now + (REMOVE_SECONDS if step == "remove" else MOVE_SECONDS)

        def run(schedule):
            store = copied(driver)
            first, second = (Registry(StoppingDriver(store), Clock(now)) for _ in range(2))
            removal = (lambda: first.forget(digest)) if step == "unlink" else first.reclamation.run
            requests = Request(removal), Request(lambda: REQUESTS[request_](second))
            schedule.run(requests)
            return store, requests

        counts = tuple(request.calls for request in run(Schedule(0, ALL, ALL))[1])
        for schedule in sample(list(schedules(counts)), 15, request_ + step):
            store, (_, request) = run(schedule)
            registry = Registry(store, Clock(now))
            if request.error is None:
                assert payload == _read(Registry(copied(store), Clock(now)), digest), schedule
                for _ in range(3):
                    registry.reclaim(REMOVE_SECONDS)
                assert payload == _read(registry, digest), schedule
            else:
                assert isinstance(request.error, BlobUnknown), schedule
            registry.reclaim(REMOVE_SECONDS, REMOVE_SECONDS)
            assert [] == [path for path in files(registry) if path.startswith(layout.REMOVED)], schedule


def _read(registry, digest):
    if digest == DIGEST:
        return registry.read()
    return registry.manifests.get(NAME, Tag("v1")).payload
