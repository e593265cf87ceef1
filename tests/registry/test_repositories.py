from __future__ import annotations

import pytest

from docker_registry.errors import NameUnknown
from docker_registry.registry import layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.names import Digest, RepositoryName
from tests.registry.conftest import NAME


def push(registry, name):
    registry.uploads.put(RepositoryName.parse(name), Digest.of(b"x"), Content(b"x"))


class TestRepositories:
    def test_are_listed_in_ascii_order_however_deep_they_nest(self, registry):
        names = ["a", "a/b/c", "a-b", "z/tags/list", "library/busybox"]
        for name in names:
            push(registry, name)
        assert sorted(names) == list(registry.repositories.page(100).names)

    def test_are_empty_in_an_empty_store(self, registry):
        assert () == registry.repositories.page(100).names

    def test_are_not_created_by_an_unfinished_upload(self, registry):
        registry.uploads.start(NAME)
        assert () == registry.repositories.page(100).names
        with pytest.raises(NameUnknown):
            registry.repositories.check(NAME)

    def test_are_not_created_by_folders_with_invalid_names(self, registry, driver):
        driver.put_content(f"{layout.REPOSITORIES}/Upper/_layers/sha256/x/link", b"x")
        assert () == registry.repositories.page(100).names

    def test_that_others_wrote_before_are_found_by_the_first_listing(self, registry, driver):
        driver.put_content(f"{layout.REPOSITORIES}/old/one/_layers/sha256/x/link", b"x")
        assert ("old/one",) == registry.repositories.page(100).names

    def test_that_others_write_later_are_found_from_time_to_time(self, registry, driver):
        registry.repositories.page(100)
        driver.put_content(f"{layout.REPOSITORIES}/new/one/_layers/sha256/x/link", b"x")
        assert (0, 1) == registry.run_housekeeping(3600)
        assert ("new/one",) == registry.repositories.page(100).names

    def test_that_are_pushed_meanwhile_do_not_count_as_written_by_others(self, registry, monkeypatch):
        catalog = registry.repositories._catalog
        names = [*catalog.names()]
        push(registry, "pushed")
        monkeypatch.setattr(catalog, "names", lambda: names)
        assert (0, 0) == registry.run_housekeeping(3600)

    def test_that_others_removed_leave_the_catalog_when_they_are_old(self, registry, driver):
        for name in ("old", "young"):
            push(registry, name)
            driver.remove(layout.repository(RepositoryName(name)))
        content, modified = driver._files[layout.catalog_entry(RepositoryName("old"))]
        driver._files[layout.catalog_entry(RepositoryName("old"))] = (content, modified - 7200)
        registry.run_housekeeping(3600)
        assert not driver.exists(layout.catalog_entry(RepositoryName("old")))
        assert driver.exists(layout.catalog_entry(RepositoryName("young")))
        assert () == registry.repositories.page(100).names

    def test_are_listed_page_by_page(self, registry):
        for name in ("a", "b", "c"):
            push(registry, name)
        page = registry.repositories.page(2)
        assert (("a", "b"), True) == (page.names, page.more)
        assert (("c",), False) == (registry.repositories.page(2, "b").names, registry.repositories.page(2, "b").more)


class TestHousekeeping:
    def test_purges_old_uploads_inside_and_outside_of_repositories(self, registry):
        registry.uploads.start(NAME)
        registry.uploads.start(None)
        assert (0, 0) == registry.run_housekeeping(3600)
        assert (2, 0) == registry.run_housekeeping(-3600)
