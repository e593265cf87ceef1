"""Private repositories of a store that is served without API V1 stay hidden."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from docker_registry.drivers.base import NO_FOLDER
from docker_registry.drivers.file.driver import FileDriver
from docker_registry.drivers.measured import MeasuredDriver, StorageTimes
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown
from docker_registry.registry import layout
from docker_registry.registry.access import Action
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.ingest import Content
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.private_repositories import PrivateRepositories
from tests.support.clock import Clock
from tests.support.registries import Registry

SECRET, OPEN, NEW = (RepositoryName.parse(text) for text in ("acme/secret", "acme/open", "acme/new"))
CONTENT = b"seen by all"


@pytest.fixture
def driver():
    """A store with a private repository of API V1, as docker-registry 0.7 wrote it."""
    driver = MemoryDriver()
    driver.put_content("repositories/acme/secret/_private", b"")
    OciRegistry(driver).uploads.put(OPEN, Digest.of(CONTENT), Content(CONTENT))
    return driver


class BusyDriver(MemoryDriver):
    """A store in which something happens at the end of each walk."""

    def at_end_of_walk(self):
        """Do nothing."""

    def walk(self, path=""):
        yield from super().walk(path)
        self.at_end_of_walk()


def names(registry):
    return registry.repositories.page(10).names


class TestAStoreServedWithoutApiV1:
    def test_hides_its_private_repositories(self, driver):
        registry = OciRegistry(driver)
        registry.uploads.put(SECRET, Digest.of(b"secret"), Content(b"secret"))
        assert not registry.access.may_pull(ANONYMOUS, SECRET)
        assert registry.access.may_pull(ANONYMOUS, OPEN)
        assert ["acme/open"] == list(names(registry))
        with pytest.raises(BlobUnknown):
            registry.blobs.mount(NEW, Digest.of(b"secret"), SECRET)

    def test_shows_them_where_that_is_set(self, driver):
        registry = OciRegistry(driver, serve_private=True)
        assert registry.access.may_pull(ANONYMOUS, SECRET)

    def test_mounts_by_digest_alone_only_after_api_v1_has_marked_private_layers(self, driver):
        with pytest.raises(BlobUnknown):
            OciRegistry(driver).blobs.mount(NEW, Digest.of(CONTENT))
        Registry(driver).private_repositories.adopt()
        assert len(CONTENT) == OciRegistry(driver).blobs.mount(NEW, Digest.of(CONTENT)).size


class TestTheSearchForPrivateRepositories:
    """A worker searches the whole tree at its first request if the store was empty when the others started."""

    @pytest.mark.parametrize("is_private", [True, False])
    def test_does_not_undo_a_change_that_another_worker_makes_meanwhile(self, is_private):
        driver = BusyDriver()
        first = Registry(driver)
        name = ImageRepositoryName("acme", "web")
        first.private_images.set_private(name, private=not is_private)
        driver.at_end_of_walk = lambda: first.private_images.set_private(name, private=is_private)
        Registry(driver).private_repositories.adopt()
        assert ([str(name)] if is_private else []) == list(first.private_repositories.names())

    def test_goes_on_after_broken_links_and_is_repeated(self, tmp_path, caplog):
        driver = FileDriver(tmp_path)
        registry = Registry(driver)
        for name in ("secret", "lost", "open"):
            driver.put_content(f"repositories/acme/{name}/tag_v1", b"a" * 64)
            if name != "open":
                driver.put_content(f"repositories/acme/{name}/_private", b"")
        registry.private_repositories.adopt()
        shutil.rmtree(tmp_path / "repositories/acme/lost")
        for path in ("lost", "acme/lost", "acme/secret/tag_v2", "acme/open/tag_v2"):
            (tmp_path / "repositories" / path).symlink_to("nothing")
        driver.remove(layout.PRIVATE_IS_COMPLETE)
        assert 1 == Registry(driver).private_repositories.adopt()
        assert ["acme/lost", "acme/secret"] == list(Registry(driver).private_repositories.read_entries())
        assert "leads to nothing" in caplog.text
        assert not driver.exists(layout.PRIVATE_IS_COMPLETE)


class TestAChange:
    def test_is_seen_at_once_by_other_workers_whose_store_is_measured(self, tmp_path):
        workers = [Registry(MeasuredDriver(FileDriver(tmp_path), StorageTimes())) for _ in range(2)]
        name = ImageRepositoryName("acme", "web")
        for is_private in (False, True, False):
            workers[0].private_images.set_private(name, private=is_private)
            assert [is_private] * 2 == [worker.private_repositories.is_private(name) for worker in workers]


class InterruptedDriver(FileDriver):
    """Another process works after a question for the version of the folder of private repositories."""

    def at_end_of_question(self):
        """Do nothing."""

    def folder_version(self, path):
        version = super().folder_version(path)
        if path == layout.PRIVATE_REPOSITORIES:
            self.at_end_of_question()
        return version


class TestAChangeBetweenTwoLooks:
    def test_that_is_undone_is_forgotten(self, tmp_path):
        driver, name = InterruptedDriver(tmp_path), ImageRepositoryName("acme", "web")
        here, there = Registry(driver), Registry(FileDriver(tmp_path))
        there.private_images.set_private(name, private=True)
        assert here.private_repositories.is_private(name)
        there.private_images.set_private(name, private=False)

        def make_private():
            del driver.at_end_of_question
            there.private_images.set_private(name, private=True)

        assert NO_FOLDER == driver.folder_version(layout.PRIVATE_REPOSITORIES)
        driver.at_end_of_question = make_private
        here.private_repositories.names()
        there.private_images.set_private(name, private=False)
        assert NO_FOLDER == driver.folder_version(layout.PRIVATE_REPOSITORIES)
        assert not here.private_repositories.is_private(name)


class ObjectStore(MemoryDriver):
    """A store that lists by pages, with a cache that knows the versions of folders."""

    capabilities = replace(MemoryDriver.capabilities, pages=True, folder_versions=True)
    listings = 0

    def at_end_of_listing(self):
        """Do nothing."""

    def list_directory(self, path=""):
        self.listings += 1
        yield from super().list_directory(path)
        self.at_end_of_listing()


class TestAPushToAnObjectStore:
    def test_sees_a_change_of_another_host_after_five_seconds_and_a_pull_or_deletion_at_once(self):
        driver, clock = ObjectStore(), Clock()
        private = PrivateRepositories(driver, ListingCache(driver), now=clock)
        private.adopt()

        def allowed():
            actions = (Action.PULL, Action.DELETE, Action.OVERWRITE, Action.PUSH)
            return [private.allows(ANONYMOUS, action, SECRET) for action in actions]

        assert [True] * 4 == allowed()
        driver.put_content("repositories/acme/secret/_private", b"")
        PrivateRepositories(driver, ListingCache(driver)).adopt()
        assert [False, False, False, True] == allowed()
        clock.now += 5.1
        assert [False] * 4 == allowed()
        driver.listings = 0
        assert not private.allows(ANONYMOUS, Action.PUSH, SECRET)
        assert 0 == driver.listings

    def test_sees_a_change_of_its_own_worker_that_was_made_while_the_entries_were_listed(self):
        driver = ObjectStore()
        private = PrivateRepositories(driver, ListingCache(driver))
        private.adopt()
        driver.put_content("repositories/acme/other/_private", b"")
        PrivateRepositories(driver, ListingCache(driver)).adopt()

        def hide():
            del driver.at_end_of_listing
            driver.put_content("repositories/acme/secret/_private", b"")
            private.adopt()

        driver.at_end_of_listing = hide
        assert not private.allows(ANONYMOUS, Action.PUSH, SECRET)
        assert not private.allows(ANONYMOUS, Action.PUSH, SECRET)
