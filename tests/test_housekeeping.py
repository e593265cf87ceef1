"""Housekeeping frees space on a store that is full, and does as much as it can on one that fails."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from docker_registry import housekeeping, services
from docker_registry.cli import main
from docker_registry.cli.command import load_config
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageError, StorageFull
from docker_registry.registry import layout
from docker_registry.registry.leases import Leases
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.services.store import search_identity

CONTENT = b"a blob without references"
DIGEST = Digest.of(CONTENT)


class FailingDriver(MemoryDriver):
    """A store that is full, or in which a folder cannot be read."""

    is_full = False
    unreadable = ""

    def put_content(self, path, content, *, if_match=None):
        if self.is_full:
            raise StorageFull(path=path)
        super().put_content(path, content, if_match=if_match)

    def list_directory(self, path=""):
        if path == self.unreadable:
            raise StorageError(path=path)
        return super().list_directory(path)

    def walk(self, path=""):
        if path == self.unreadable:
            raise StorageError(path=path)
        return super().walk(path)


def remaining_after_a_run(driver):
    """Run housekeeping once, over a store with an abandoned upload and a removed blob, and return what it left."""
    config = Config(storage="memory", search_backend="", upload_ttl=-1)
    with services.build(config, driver) as built:
        built.registry.uploads.start(None)
        driver.put_content(layout.removed_since(DIGEST), b'{"since": 0}')
        driver.put_content(layout.removed_data(DIGEST), CONTENT)
        driver.is_full = driver.full_later
        housekeeping.run_due_work(built)
    driver.unreadable = ""
    folders = {"uploads": layout.uploads(None), "removed": layout.REMOVED}
    return [name for name, folder in folders.items() if any(driver.walk(folder))]


def test_frees_space_on_a_full_store():
    driver = FailingDriver()
    driver.full_later = True
    assert [] == remaining_after_a_run(driver)


def test_purges_and_audits_other_uploads_when_one_cannot_be(tmp_path):
    audit_log = tmp_path / "audit.log"
    config = Config(storage="memory", search_backend="", upload_ttl=-1, audit_log=str(audit_log))
    for failing in range(3):
        driver = FailingDriver()
        with services.build(config, driver) as built:
            uploads = [built.registry.uploads.start(name) for name in (None, None, RepositoryName.parse("acme/app"))]
            driver.unreadable = uploads[failing].folder
            housekeeping.run_due_work(built)
            built.audit.close()
        assert [uploads[failing].state] == [each.state for each in uploads if driver.exists(each.state)]
        assert failing + 1 == audit_log.read_text().count("deleted 2 abandoned uploads")


def test_adds_other_repositories_when_one_cannot_be_read():
    names = [RepositoryName(f"acme/{letter}") for letter in "abc"]
    for failing in names:
        driver = FailingDriver()
        for name in names:
            driver.put_content(layout.layer_link(name, DIGEST), str(DIGEST).encode())
            driver.put_content(layout.removed_data(DIGEST), CONTENT)
        driver.unreadable = layout.repository(failing)
        with services.build(Config(storage="memory", search_backend=""), driver) as built:
            with pytest.raises(StorageError):
                built.registry.repositories.adopt()
            entered = {name for name in names if driver.has_file(layout.catalog_entry(name))}
            assert {*names} - {failing} == entered
            assert not driver.exists(layout.CATALOG_COMPLETE)


def test_takes_the_steps_after_one_that_fails(caplog):
    driver = FailingDriver()
    driver.full_later = False
    driver.unreadable = layout.uploads(None)
    assert ["uploads"] == remaining_after_a_run(driver)
    (record,) = [
        each for each in caplog.records if each.name == housekeeping.__name__ and each.levelno >= logging.WARNING
    ]
    assert "housekeeping failed and will be retried" in record.getMessage()


def test_rebuilds_a_search_index_that_missed_updates_of_a_worker_that_has_ended(tmp_path):
    config = Config(
        storage="memory", search_backend="sqlalchemy", sqlalchemy_index_database=f"sqlite:///{tmp_path}/search.db"
    )
    driver = MemoryDriver()
    with services.build(config, driver) as built:
        housekeeping.run_due_work(built)
        built.registry.repositories.enter(RepositoryName("acme/app"))
        driver.put_content(layout.layer_link(RepositoryName("acme/app"), DIGEST), str(DIGEST).encode())
        built.search_updates.missed.note()
    for found in (1, 1):
        with services.build(config, driver) as built:
            housekeeping.run_due_work(built)
            assert found == built.search_index.search("app").num_results
            assert not built.search_updates.missed.all()


def test_need_not_rebuild_a_search_index_that_the_command_has_rebuilt(tmp_path, monkeypatch):
    for name, value in {"STORAGE_PATH": f"{tmp_path}/store", "SEARCH_BACKEND": "sqlalchemy"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SQLALCHEMY_INDEX_DATABASE", f"sqlite:///{tmp_path}/search.db")
    with services.build(load_config()) as built:
        built.search_updates.missed.note()
        assert 0 == main(["reindex"])
        assert not built.search_updates.missed.all()


def test_finds_the_notes_about_a_search_index_after_a_change_of_its_password():
    urls = (f"postgresql://{address}/search" for address in ("me:o/l@d@db", "me:new@db", "me:new@other"))
    configs = [Config(storage="memory", search_backend="sqlalchemy", sqlalchemy_index_database=url) for url in urls]
    old, new, other = map(search_identity, configs)
    assert old == new != other


def test_does_not_confuse_the_search_indexes_of_hosts_that_have_sqlite_files_at_one_path(tmp_path, monkeypatch):
    config = Config(storage="memory", search_backend="sqlalchemy", sqlalchemy_index_database="sqlite:///search.db")
    identities = []
    for host in ("a", "b", "a"):
        (tmp_path / host).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / host)
        identities.append(search_identity(config))
    assert identities[0] == identities[2] != identities[1]
    assert ["search.db-identity"] == [path.name for path in (tmp_path / "a").iterdir()]
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    search_identity(replace(config, search_backend=""))
    assert [] == list((tmp_path / "c").iterdir())


def test_fills_the_new_search_index_of_each_host(tmp_path, monkeypatch):
    driver = MemoryDriver()
    hosts = [Leases(driver)]
    hosts[0].take("reindex", 60)  # a host that is still busy
    monkeypatch.setattr(housekeeping.gevent, "sleep", lambda _: hosts.pop().release("reindex"))
    for name in ("a.db", "b.db"):
        database = f"sqlite:///{tmp_path / name}"
        config = Config(storage="memory", search_backend="sqlalchemy", sqlalchemy_index_database=database)
        with services.build(config, driver) as built:
            housekeeping.run_due_work(built)
            assert built.search_index.is_complete()
    assert [] == hosts


def test_goes_on_while_another_host_holds_the_lease_of_the_search_index(tmp_path, monkeypatch):
    driver, slept = MemoryDriver(), []
    Leases(driver).take("reindex", 3600)
    monkeypatch.setattr(housekeeping.gevent, "sleep", slept.append)
    config = Config(
        storage="memory",
        search_backend="sqlalchemy",
        sqlalchemy_index_database=f"sqlite:///{tmp_path}/search.db",
        upload_purge_interval=60,
    )
    with services.build(config, driver) as built:
        housekeeping.run_due_work(built)
    assert 60 <= sum(slept) <= 70
