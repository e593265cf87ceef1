"""`docker-registry backup` and `restore-backup`, and copies by rsync, while real clients push."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError, StorageUnavailable
from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import GARBAGE_COLLECTION
from docker_registry.registry.ingest import Content
from docker_registry.registry.maintenance.backup import Backup
from docker_registry.registry.maintenance.backup_folder import BackupFolder
from docker_registry.registry.maintenance.copy_report import CopyReport
from docker_registry.registry.maintenance.restoration import Restoration
from docker_registry.registry.manifest_payload import OCI_INDEX
from docker_registry.registry.names import Digest, ImageId, RepositoryName, Tag
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from tests.registry.bridge.both import OLD, V1, push_v1
from tests.support import images, v1_images, v1_trees
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.processes import find
from tests.support.registries import Registry
from tests.support.servers.registry import ROOT, Server
from tests.support.servers.template import run_command
from tests.support.v1_images import chain

NAME = RepositoryName.parse("busy/app")


def run(store, *arguments, status=0, **environment):
    """Run a command on a store, and return its output."""
    done = run_command(*arguments, STORAGE_PATH=str(store), **environment)
    assert status == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


class Pusher(threading.Thread):
    """Pushes images to one repository until it is stopped: to a new tag, and to `latest`, deleting some."""

    def __init__(self, url, *, deletes=True):
        super().__init__()
        self._url = url
        self._deletes = deletes
        self._stopped = threading.Event()
        self.pushed = 0
        self.error = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self.join(60)
        assert self.error is None
        assert self.pushed

    def run(self):
        try:
            with Client(self._url) as client:
                while not self._stopped.is_set():
                    self._push(client, self.pushed)
                    self.pushed += 1
                    self._stopped.wait(0.05)  # every image that it pushes is verified later
        except Exception as error:  # noqa: BLE001 - it is raised by who waits for this thread
            self.error = error

    def _push(self, client, number):
        for tag in ("latest", f"v{number}"):
            images.push(client, str(NAME), tag, images.make_image(number, layer_bytes=2000))
        if self._deletes and number % 2:
            client.delete_manifest(str(NAME), client.get_manifest(str(NAME), f"v{number - 1}").digest)


def assert_whole(url, old):
    """Pull everything that is listed, and everything that was pushed before the backup began."""
    with Client(url) as client, Docker(url) as docker:
        assert {"old/app", "old/one"} <= set(client.repositories())
        assert "latest" in client.tags(str(NAME)), "it was there at every moment"
        for name in client.repositories():
            for tag in client.tags(name):
                images.pull(client, name, tag)
        assert images.pull(client, "old/app", "v1")
        pulled = [(text, layer) for text, _, layer in docker.pull("old/one", "latest")]
        assert [(image.text, image.layer) for image in old] == pulled


@pytest.fixture(scope="module")
def old():
    """Images of API V1."""
    return chain(2)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, old):
    """A store with images of both APIs, and a backup of it."""
    folder = tmp_path_factory.mktemp("filled")
    with Server(folder / "store") as server:
        fill(server.url, old)
    run(folder / "store", "backup", str(folder / "copy"))
    return folder


@pytest.fixture
def store(filled, tmp_path):
    """That store, for one test."""
    return copy_tree(filled / "store", tmp_path / "store")


@pytest.fixture
def backup(filled, tmp_path):
    """That backup, for one test."""
    return copy_tree(filled / "copy", tmp_path / "copy")


def copy_tree(source, target):
    return shutil.copytree(source, target, symlinks=True)


def fill(url, old):
    with Client(url) as client, Docker(url) as docker:
        images.push(client, "old/app", "v1", images.make_index("old", layer_bytes=2000))
        images.push(client, str(NAME), "latest", images.make_image("first", layer_bytes=2000))
        images.push(client, str(NAME), "gone", images.make_image("gone", layer_bytes=2000))
        docker.push("old/one", "latest", *old)


@pytest.fixture
def folder(tmp_path):
    """An empty folder for a backup."""
    return BackupFolder(tmp_path / "copy")


@pytest.fixture
def server(store):
    with Server(store) as server:
        yield server


class TestABackupDuringPushes:
    def test_of_files_is_restored_completely_and_served_unchanged(self, server, tmp_path, old):
        with Pusher(server.url):
            for _ in range(2):
                run(server.store, "backup", str(tmp_path / "copy"))
        with Client(server.url) as client:
            client.delete_manifest(str(NAME), "gone")
        run(server.store, "backup", str(tmp_path / "copy"))
        document = json.loads(run(tmp_path / "restored", "restore-backup", str(tmp_path / "copy"), "--json"))
        assert [] == document["damaged"]
        assert len(list(BackupFolder(tmp_path / "copy").walk())) == document["files"]
        for store in (tmp_path / "restored", tmp_path / "copy"):
            with Server(store) as copy, Client(copy.url) as client, Client(server.url) as original:
                assert_whole(copy.url, old)
                assert original.tags(str(NAME)) == client.tags(str(NAME))
        layer = tmp_path / "restored/images" / old[0].text / "layer"
        assert 2 == layer.stat().st_nlink

    @pytest.mark.slow
    def test_of_s3_is_restored_to_files(self, tmp_path, old):
        pytest.importorskip("boto3", reason="boto3 is not installed")
        from tests.interop.test_s3 import environment
        from tests.support.servers.seaweedfs import run_seaweedfs

        with run_seaweedfs() as s3:
            place = environment(s3.options())
            with Server(tmp_path / "s3", workers=2, **place) as server:
                fill(server.url, old)
                with Pusher(server.url):
                    run(None, "backup", str(tmp_path / "copy"), **place)
        run(tmp_path / "restored", "restore-backup", str(tmp_path / "copy"))
        with Server(tmp_path / "restored") as restored:
            assert_whole(restored.url, old)

    def test_by_the_documented_commands_is_complete(self, server, tmp_path, old):
        if find("rsync") is None:
            pytest.skip("rsync is not installed")
        page = (ROOT / "docs" / "operations.md").read_text()
        (commands,) = re.findall(r"```sh\n(SOURCE=.*?)```", page, re.DOTALL)
        commands = commands.replace("/var/lib/registry", str(server.store)).replace("/backup", str(tmp_path / "copy"))
        with Pusher(server.url, deletes=False):
            for _ in range(2):
                subprocess.run(["sh", "-ec", commands], check=True, timeout=60)
        with Server(tmp_path / "copy") as copy:
            assert_whole(copy.url, old)


class TestABackup:
    def test_names_damaged_files_and_copies_the_rest(self, store, tmp_path, old):
        manifests, name = Registry(FileDriver(str(store))).manifests, RepositoryName("old/app")
        manifest = json.loads(manifests.get(name, Tag("v1")).payload)["manifests"][0]["digest"]
        layer = json.loads(manifests.get(name, Digest.parse(manifest)).payload)["layers"][0]["digest"]
        hexadecimal = layer.partition(":")[2]
        place = store / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        content = place.read_bytes()
        place.write_bytes(bytes(len(content)))
        said = run(store, "backup", str(tmp_path / "copy"), status=1)
        assert hexadecimal in said
        assert manifest.partition(":")[2] in said
        place.write_bytes(content)
        run(store, "backup", str(tmp_path / "copy"))
        with Server(tmp_path / "copy") as copy:
            assert_whole(copy.url, old)

    def test_copies_nothing_twice_and_verifies_existing_files_on_request(self, store, backup):
        again = json.loads(run(store, "backup", str(backup), "--json"))
        assert (0, 0) == (again["copiedFiles"], again["removedFiles"])
        place = next((backup / "docker/registry/v2/blobs").glob("*/*/*/data"))
        place.write_bytes(bytes(place.stat().st_size))
        again = json.loads(run(store, "backup", str(backup), "--json", "--verify"))
        assert (1, []) == (again["copiedFiles"], again["damaged"])

    @pytest.mark.parametrize("place", ["store", "store/copy", "", "other"])
    def test_into_a_folder_with_other_content_changes_nothing(self, filled, tmp_path, place):
        shutil.copytree(filled / "store", tmp_path / "all/store", symlinks=True)
        upload = tmp_path / "all/store" / layout.ROOT / "_uploads/5e03c31d-00f3-4993-8483-b660d21cf94a.state"
        for path in (upload, tmp_path / "all/other/images/holiday.jpg", tmp_path / "all/other/repositories/mine.git"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"content")
        (tmp_path / "all/other/letter").write_bytes(b"content")
        (tmp_path / "link").symlink_to(tmp_path / "all/store")
        before = set((tmp_path / "all").rglob("*"))
        said = run(tmp_path / "link", "backup", str(tmp_path / "all" / place), status=2)
        assert "The folder" in said
        assert "Traceback" not in said
        assert before == set((tmp_path / "all").rglob("*"))

    def test_stays_as_it_is_when_the_store_is_lost(self, folder):
        class Lost(MemoryDriver):
            def exists(self, path):
                raise StorageUnavailable

        driver = MemoryDriver()
        push(Registry(driver), b"content")
        Backup(driver, folder).run()
        before = list(folder.walk())
        with pytest.raises(StorageUnavailable):
            Backup(Lost(), folder).run()
        with pytest.raises(ConfigError, match="The store is empty"):
            Backup(MemoryDriver(), folder).run()
        assert (before, True) == (list(folder.walk()), folder.is_complete)

    def test_reports_broken_links_and_keeps_what_it_has_of_content_behind_them(self, folder, tmp_path):
        driver, lost = FileDriver(f"{tmp_path}/store"), RepositoryName("lost/app")
        for name in (NAME, lost):
            push(Registry(driver), b"content", name)
        Backup(driver, folder).run()
        kept = set(folder.walk(layout.repository(lost))) | {layout.tag_link(NAME, Tag("latest"))}
        broken = (f"{layout.REPOSITORIES}/lost", f"{layout.tags(NAME)}/latest", f"{layout.ROOT}/stray", "images/stray")
        driver.remove(broken[0])
        driver.remove(broken[1])
        push(Registry(driver), b"new", NAME, "new")
        for path in (*broken, layout.upload(NAME, "stray")):
            (tmp_path / "store" / path).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / "store" / path).symlink_to("nothing")
        assert set(broken) == {damage.path for damage in Backup(driver, folder).run().damaged}
        assert kept | {layout.tag_link(NAME, Tag("new"))} <= set(folder.walk())
        assert folder.is_complete

    def test_keeps_files_beside_it_and_has_keys_for_its_owner_only(self, folder, tmp_path):
        driver, keys = MemoryDriver(), (image_layout.TOKEN_KEY, f"{layout.AUTH}/signing-keys")
        (tmp_path / "copy").mkdir(mode=0o755)
        for path in keys:
            driver.put_content(path, b"secret")
        Backup(driver, folder).run()
        (tmp_path / "copy" / keys[0]).chmod(0o644)  # as an earlier version wrote it
        (tmp_path / "copy/README").write_bytes(b"")
        Backup(driver, folder).run()
        assert [0o600] * 2 == [(tmp_path / "copy" / path).stat().st_mode & 0o777 for path in keys]
        assert (tmp_path / "copy/README").exists()
        restored = MemoryDriver()
        Restoration(restored, folder).run()
        assert set(keys) == {file.path for file in restored.walk()}

    def test_leaves_out_large_files_that_are_made_again_and_those_beside_the_store(self, folder):
        driver, digest, image_id = MemoryDriver(), Digest.of(b"plain"), ImageId.parse("a" * 64)
        derived = image_layout.derived(image_id)
        left_out = (
            image_layout.unpacked_layer(digest),
            image_layout.unpacked_from(Digest.of(b"zipped"), digest),
            image_layout.file_list(derived),
            image_layout.changes(derived),
        )
        for path in (*left_out, image_layout.derived_image(image_id), "logs/2026", "docker/daemon.json"):
            driver.put_content(path, b"plain")
        Backup(driver, folder).run()
        assert [image_layout.derived_image(image_id)] == list(folder.walk())

    def test_has_the_bytes_of_blobs_that_are_stored_elsewhere(self, folder):
        driver = MemoryDriver()
        places = (image_layout.layer(ImageId.parse("a" * 64)), f"{layout.UNPACKED}/sha256/b")
        for path in places:
            content = path.encode()
            driver.put_content(path, content)
            driver.put_content(layout.blob_alias(Digest.of(content)), f"{len(content)} {path}".encode())
        assert [] == Backup(driver, folder).run().damaged
        for path in places:
            assert path.encode() == folder.read(layout.blob_data(Digest.of(path.encode())))

    def test_that_is_incomplete_is_not_restored(self, store, tmp_path):
        with BackupFolder(tmp_path / "copy").writing():
            BackupFolder(tmp_path / "copy").set_complete(is_complete=False)
            assert "Another process" in run(store, "backup", str(tmp_path / "copy"), status=2)
        assert "not complete" in run(tmp_path / "restored", "restore-backup", str(tmp_path / "copy"), status=2)
        assert "does not exist" in run(tmp_path / "restored", "restore-backup", str(tmp_path / "none"), status=2)

    @pytest.mark.parametrize("text", ["acme/app", "acme/tags/app", "acme/revisions/app"])
    def test_names_manifests_of_damaged_layers_whatever_the_name_of_the_repository(self, folder, text):
        name, driver = RepositoryName.parse(text), MemoryDriver()
        manifest, layer = push(Registry(driver), b"content", name), Digest.of(b"content")
        driver.put_content(layout.blob_data(layer), b"damaged")
        expected = {
            layout.blob_data(layer): "the bytes are not those of the digest",
            layout.revision_link(name, manifest): f"the manifest names {layer}, which is missing or damaged",
        }
        assert expected == {damage.path: damage.reason for damage in Backup(driver, folder).run().damaged}

    def test_names_manifests_of_layers_whose_alias_is_damaged(self, folder):
        driver = MemoryDriver()
        manifest, layer = push(Registry(driver), b"content", NAME), Digest.of(b"content")
        driver.remove(layout.blob_data(layer))
        for alias in (b"7 images/x/\xff", b"7 images//layer"):
            driver.put_content(layout.blob_alias(layer), alias)
            (damage,) = Backup(driver, folder).run().damaged
            assert layout.revision_link(NAME, manifest) == damage.path

    def test_follows_the_images_of_the_store_also_without_hard_links(self, folder, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

        driver, content = MemoryDriver(), b"a layer"
        link = LayerLink(Digest.of(content), len(content), "application/x-tar", Digest.of(b"{}"), ())
        kept, removed = (f"{layout.IMAGES}/{letter * 64}" for letter in "ab")
        for image in (kept, removed):
            driver.put_content(f"{image}/json", b"{}")
            driver.put_content(f"{image}/layer", content)
            driver.put_content(f"{image}/_blob", link.dump())
        driver.put_content(layout.blob_data(Digest.of(content)), content)
        monkeypatch.setattr(os, "link", refuse)
        assert [] == Backup(driver, folder).run().damaged
        assert [content, content] == [folder.read(f"{image}/layer") for image in (kept, removed)]
        copied_at = (tmp_path / "copy" / kept / "layer").stat().st_ino
        driver.remove(removed)
        assert 3 == Backup(driver, folder).run().removed_files
        assert copied_at == (tmp_path / "copy" / kept / "layer").stat().st_ino
        assert {f"{kept}/{name}" for name in ("json", "layer", "_blob")} == set(folder.walk(layout.IMAGES))

    def test_keeps_an_image_that_the_store_lost(self, folder):
        driver = MemoryDriver()
        image, short_id = v1_images.make(1), "c" * 16
        push_v1(Registry(driver), [image], name=OLD, tag=V1)
        driver.put_content(f"{layout.IMAGES}/{short_id}/json", b"{}")
        driver.put_content(f"{layout.IMAGE_REPOSITORIES}/library/old/tag_latest", short_id.encode())
        assert [] == Backup(driver, folder).run().damaged
        copied = list(folder.walk(layout.IMAGES))
        lost = {f"{layout.IMAGES}/{image_id}" for image_id in (image.id, short_id)}
        for path in lost:
            driver.remove(path)
        report = Backup(driver, folder).run()
        assert lost == {damage.path for damage in report.damaged}
        assert copied == list(folder.walk(layout.IMAGES)) != []

    def test_has_a_tag_whose_removal_was_interrupted_and_no_reservation(self, folder):
        driver = MemoryDriver()
        registry = Registry(driver)
        payload = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        registry.manifest_pushes.put(NAME, Tag("v1"), payload, OCI_INDEX)
        link, reserved = layout.tag_link(NAME, Tag("v1")), layout.tag_link(NAME, Tag("v2"))
        content = driver.get_content(link)
        driver.put_content(link, content + store_removal.new_mark())
        driver.put_content(reserved, store_removal.new_mark())
        assert Digest.of(payload) == registry.tags.get(NAME, Tag("v1"))

        assert [] == Backup(driver, folder).run().damaged
        assert [content, None] == [folder.read(path) for path in (link, reserved)]


class TestAReport:
    def test_compares_damage_with_little_of_what_was_found_before(self):
        compared = []

        class CountedPath(str):
            __slots__ = ()
            __hash__ = str.__hash__

            def __eq__(self, other):
                compared.append(other)
                return str.__eq__(self, other)

        report = CopyReport()
        for number in [*range(200), 7]:
            report.add_damage(CountedPath(number), "missing")
        assert 200 == len(report.damaged)
        assert 200 > len(compared)


class TestARestoration:
    def test_overwrites_a_store_only_on_request(self, server, backup, old):
        with Client(server.url) as client:
            images.push(client, str(NAME), "latest", images.make_image("newer", layer_bytes=2000))
            client.delete_manifest("old/app", "v1")
            for place in (server.store / "docker/registry/v2/blobs").glob("*/*/*/data"):
                place.write_bytes(bytes(place.stat().st_size))
        assert "--overwrite" in run(server.store, "restore-backup", str(backup), status=2)
        server.stop()
        run(server.store, "restore-backup", str(backup), "--overwrite")
        server.start()
        assert_whole(server.url, old)

    def test_reports_a_damaged_backup(self, backup, tmp_path):
        place = next((backup / "docker/registry/v2/blobs").glob("*/*/*/data"))
        place.write_bytes(bytes(place.stat().st_size))
        said = run(tmp_path / "restored", "restore-backup", str(backup), status=1)
        assert place.parent.name in said
        place = next(iter((tmp_path / "restored").glob(f"docker/registry/v2/blobs/*/*/{place.parent.name}")), None)
        assert place is None

    def test_resumes_an_earlier_one(self, backup, tmp_path, old):
        store = tmp_path / "restored"
        run(store, "restore-backup", str(backup))
        FileDriver(str(store)).put_content(f"{layout.ROOT}/_restoring", b"empty")
        shutil.rmtree(store / "docker/registry/v2/repositories")
        run(store, "restore-backup", str(backup))
        with Server(store) as restored:
            assert_whole(restored.url, old)
        assert not (store / "docker/registry/v2/_restoring").exists()


class TestARestorationIntoAStoreWithContent:
    @pytest.mark.parametrize("text", ["acme/app", "acme/tags/app"])
    def test_removes_flags_that_the_backup_does_not_have(self, folder, text):
        name, driver = RepositoryName.parse(text), MemoryDriver()
        push(Registry(driver), b"content", name)
        Backup(driver, folder).run()
        flag = layout.back_references_complete(name)
        folder.remove(flag)
        driver.put_content(flag, b"")
        Restoration(driver, folder, overwrite=True).run()
        assert not driver.exists(flag)

    def test_that_was_interrupted_replaces_a_layer_of_the_same_size(self, folder):
        driver, path = MemoryDriver(), image_layout.layer(ImageId.parse("a" * 64))
        driver.put_content(path, b"old")
        driver.put_content(f"{layout.ROOT}/_restoring", b"overwrite")
        with folder.writing():
            folder.write(path, [b"new"])
        Restoration(driver, folder, overwrite=True).run()
        assert b"new" == driver.get_content(path)

    def test_of_another_backup_that_was_interrupted_needs_permission_to_overwrite(self, folder, tmp_path):
        def interrupt(_files, _bytes):
            raise InterruptedError

        driver, path = MemoryDriver(), image_layout.layer(ImageId.parse("a" * 64))
        other = BackupFolder(tmp_path / "other")
        for backup, content in ((folder, b"one"), (other, b"two")):
            with backup.writing():
                backup.write(path, [content])
        with pytest.raises(InterruptedError):
            Restoration(driver, folder, progress=interrupt).run()
        with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "copy"))):
            Restoration(driver, other).run()
        assert b"one" == driver.get_content(path)
        Restoration(driver, other, overwrite=True).run()
        assert [b"two", None] == [driver.find(each) for each in (path, f"{layout.ROOT}/_restoring")]

    def test_that_was_interrupted_is_resumed_unless_the_backup_was_repeated_meanwhile(self, folder):
        def interrupt(_files, _bytes):
            raise InterruptedError

        store, resumed, refused = MemoryDriver(), MemoryDriver(), MemoryDriver()
        push(Registry(store), b"content")
        Backup(store, folder).run()
        for driver in (resumed, refused):
            with pytest.raises(InterruptedError):
                Restoration(driver, folder, progress=interrupt).run()
        Restoration(resumed, folder).run()
        assert resumed.exists(layout.tag_link(NAME, Tag("latest")))
        Backup(store, folder).run()
        with pytest.raises(ConfigError, match="--overwrite"):
            Restoration(refused, folder).run()


class TestABackupWithFilesThatCannotBeRead:
    def test_is_restored_without_links_to_nothing_which_are_reported(self, folder, tmp_path):
        driver, restored = MemoryDriver(), MemoryDriver()
        push(Registry(driver), b"content")
        Backup(driver, folder).run()
        lost = {layout.blob_data(Digest.of(b"content")), layout.tag_link(NAME, Tag("latest"))}
        for path in lost:
            folder.remove(path)
            (tmp_path / "copy" / path).parent.mkdir(parents=True)
            (tmp_path / "copy" / path).symlink_to("nothing")
        assert lost == {damage.path for damage in Restoration(restored, folder).run().damaged}
        kept = {file.path for file in driver.walk(layout.BLOBS)} - lost
        assert kept == {file.path for file in restored.walk(layout.BLOBS)}

    def test_is_not_restored_without_a_word(self, folder, tmp_path):
        if os.geteuid() != 0 or not find("setpriv"):
            pytest.skip("files of another user need root, and setpriv to lay its powers down")
        with folder.writing():
            folder.write("folder/file", [b"content"])
        (tmp_path / "copy" / "file").symlink_to(tmp_path / "copy" / "folder" / "file")
        os.chown(tmp_path / "copy" / "folder", 65534, 65534)
        os.chmod(tmp_path / "copy" / "folder", 0o700)
        # Still root, so that this Python can be read, but without the capability to override permissions.
        powerless = (find("setpriv"), "--bounding-set=-dac_override,-dac_read_search,-fowner")
        command = (*powerless, sys.executable, "-c", READ_BACKUP, str(tmp_path / "copy"))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        reasons = done.stdout.splitlines()
        assert 4 == len(reasons)
        for reason in reasons:
            assert reason.startswith(str(tmp_path / "copy"))
            assert reason.endswith("cannot be read: Permission denied")


#: Prints why a backup cannot be read, by each of its methods.
READ_BACKUP = """
import sys
from pathlib import Path
from docker_registry.errors import StorageError
from docker_registry.registry.maintenance.backup_folder import BackupFolder
folder = BackupFolder(Path(sys.argv[1]))
for read in (folder.walk, lambda: folder.blocks("file"), lambda: [folder.read("file")], lambda: [folder.size("file")]):
    try:
        list(read())
    except StorageError as error:
        print(error)
"""


class MeddlingDriver(MemoryDriver):
    """Calls a function before the operation of a given number."""

    def __init__(self):
        super().__init__()
        self.meddle = None
        self.left = -1

    def _operate(self):
        self.left -= 1
        if self.left < 0 and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle()

    def get_content(self, path):
        self._operate()
        return super().get_content(path)

    def stream_read(self, path, offset=0, length=None):
        self._operate()
        return super().stream_read(path, offset, length)

    def walk(self, path=""):
        self._operate()
        return super().walk(path)

    def list_directory(self, path=""):
        self._operate()
        return super().list_directory(path)


class TestTheTreeOfAnOldServer:
    def test_is_backed_up_and_restored_with_its_private_repositories(self, tmp_path):
        name = "registry-0.7.1"
        store = v1_trees.copy(name, tmp_path / "store")
        with Server(store) as server, Docker(server.url) as docker:
            found = {
                path: docker.get(path).status_code
                for path in [f"/repositories/{each}/tags" for each in (*v1_trees.REPOSITORIES[name], "acme/secret")]
            }
            run(store, "backup", str(tmp_path / "copy"))
        run(tmp_path / "restored", "restore-backup", str(tmp_path / "copy"))
        with Server(tmp_path / "restored") as server, Docker(server.url) as docker:
            assert found == {path: docker.get(path).status_code for path in found}
            for text, layer in v1_trees.images(name).items():
                answer = docker.get(f"/images/{text}/layer")
                assert answer.status_code in (200, 404)
                assert answer.status_code == 404 or layer == answer.content
            for repository, tags in v1_trees.REPOSITORIES[name].items():
                for tag in tags:
                    assert docker.pull(repository, tag)


def push(registry, note, name=NAME, tag="latest"):
    """Push an image with one layer, and return the digest of its manifest."""
    for content in (b"{}", note):
        registry.uploads.put(name, Digest.of(content), Content(content))
    config, layer = (
        {"mediaType": "application/octet-stream", "digest": str(Digest.of(content)), "size": len(content)}
        for content in (b"{}", note)
    )
    payload = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
    media_type = "application/vnd.oci.image.manifest.v1+json"
    return registry.manifest_pushes.put(name, Tag(tag), payload, media_type).descriptor.digest


class TestAPushDuringABackup:
    """At each operation of the backup, `latest` moves to a new manifest and the old one is deleted."""

    def test_leaves_a_tag_that_can_be_pulled(self, tmp_path):
        for moment in range(100):
            driver = MeddlingDriver()
            registry = Registry(driver)
            old = push(registry, b"old")

            def meddle(registry=registry, old=old):
                push(registry, b"new")
                registry.removal.delete_manifest(NAME, old)

            driver.left, driver.meddle = moment, meddle
            copy = tmp_path / str(moment)
            report = Backup(driver, BackupFolder(copy)).run()
            assert [] == report.damaged
            restored = Registry(FileDriver(str(copy)))
            found = restored.manifests.get(NAME, Tag("latest"))
            for descriptor in (json.loads(found.payload)["layers"][0], json.loads(found.payload)["config"]):
                restored.blobs.stat(NAME, Digest.parse(descriptor["digest"]))
            if driver.meddle is not None:
                return
        pytest.fail("a backup takes more operations than expected")


class TestAnEvictionDuringABackup:
    """At some operation of the backup, all that a mirrored repository has is evicted, and its bytes are removed."""

    def test_leaves_no_link_without_its_bytes(self, tmp_path):
        for moment in range(0, 100, 2):
            driver = MeddlingDriver()
            registry = Registry(driver)
            push(registry, b"cached")
            registry.tags.delete(NAME, Tag("latest"))
            driver.put_content(layout.mirror_upstream(NAME), b"https://registry.example")

            def meddle(registry=registry):
                for digest, _ in list(registry.references.links_of(NAME)):
                    registry.removal.forget(NAME, digest, actor=GARBAGE_COLLECTION)
                    registry.driver.remove(layout.blob_data(digest))

            driver.left, driver.meddle = moment, meddle
            folder = BackupFolder(tmp_path / str(moment))
            assert [] == Backup(driver, folder).run().damaged
            for digest in filter(None, map(layout.read_link, folder.walk(layout.REPOSITORIES))):
                assert folder.size(layout.blob_data(digest)) is not None
            if driver.meddle is not None:
                return
        pytest.fail("a backup takes more operations than expected")
