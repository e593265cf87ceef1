"""Entries for a search index: the current state of every repository of both APIs."""

from __future__ import annotations

import shutil

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.registry import layout
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName
from docker_registry.registry.search.index import Entry
from tests.support.registries import Registry


def image_repository(registry, text, *, private=False):
    registry.image_repositories.put_images(ImageRepositoryName.parse(text), b"[]")
    if private:
        registry.private_images.set_private(ImageRepositoryName.parse(text), private=True)


def repository(registry, text):
    registry.blobs.link(RepositoryName.parse(text), Digest.of(b""))


class TestARepository:
    @pytest.mark.parametrize("make", [image_repository, repository])
    def test_is_found_by_its_name(self, registry, make):
        assert None is registry.search_entries.look_up("acme/web")
        make(registry, "acme/web")
        assert Entry("acme/web") == registry.search_entries.look_up("acme/web")
        assert [Entry("acme/web")] == list(registry.search_entries.all())

    def test_of_api_v1_is_found_in_its_namespace(self, registry):
        image_repository(registry, "foo")
        assert Entry("library/foo") == registry.search_entries.look_up("library/foo")
        assert None is registry.search_entries.look_up("foo")

    def test_of_api_v2_is_found_by_its_own_name(self, registry):
        repository(registry, "foo")
        assert Entry("foo") == registry.search_entries.look_up("foo")
        assert None is registry.search_entries.look_up("library/foo")

    def test_of_both_apis_is_listed_once(self, registry):
        image_repository(registry, "acme/web")
        repository(registry, "acme/web")
        assert [Entry("acme/web")] == list(registry.search_entries.all())

    def test_of_both_apis_has_the_longer_name(self, registry):
        repository(registry, "foo")
        image_repository(registry, "foo")
        assert None is registry.search_entries.look_up("foo")
        assert [Entry("library/foo")] == list(registry.search_entries.all())

    def test_is_listed_although_links_in_the_store_are_broken(self, tmp_path, caplog):
        registry, moved = Registry(FileDriver(tmp_path)), RepositoryName("acme/moved")
        image_repository(registry, "acme/web")
        for text in ("acme/db", "acme/moved"):
            repository(registry, text)
            registry.repositories.enter(RepositoryName(text))
        shutil.rmtree(tmp_path / layout.repository(moved))
        for path in ("repositories/acme/db", "repositories/lost", layout.repository(moved)):
            (tmp_path / path).symlink_to("nothing")
        names = ["acme/db", "acme/moved", "acme/web"]
        assert names == sorted(entry.name for entry in registry.search_entries.all())
        assert names == list(registry.repositories.page(10).names)
        assert "the search index lacks repositories" in caplog.text

    def test_that_is_private_is_marked(self, registry):
        image_repository(registry, "acme/secret", private=True)
        image_repository(registry, "foo", private=True)
        for text in ("acme/db", "foo", "library/foo"):
            repository(registry, text)
        assert Entry("acme/secret", private=True) == registry.search_entries.look_up("acme/secret")
        assert Entry("library/foo", private=True) == registry.search_entries.look_up("library/foo")
        assert {
            Entry("acme/db"),
            Entry("acme/secret", private=True),
            Entry("library/foo", private=True),
        } == set(registry.search_entries.all())

    @pytest.mark.parametrize("text", ["", "..", "a//b", "ü", "A"])
    def test_with_an_invalid_name_is_omitted(self, registry, text):
        assert None is registry.search_entries.look_up(text)
